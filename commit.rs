//! Build script of both programs: gives `SOCI_VERSION`, the version and the commit that was built.
//!
//! Only release builds name a commit: a development build would have to be made anew with each. Packagers without git set
//! `SOCI_COMMIT`.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=../commit.rs");
    println!("cargo:rerun-if-env-changed=SOCI_COMMIT");
    let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = std::env::var("SOCI_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit = match commit {
        // A release of the future, for tests of upgrades.
        _ if std::env::var_os("CARGO_FEATURE_SUCCESSOR").is_some() => "successor".to_owned(),
        Some(commit) => commit,
        None if release => {
            // Changes with every commit and checkout.
            if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
                println!("cargo:rerun-if-changed={log}");
            }
            git(&["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"])
                .map_or_else(|| "commit unknown".to_owned(), |commit| format!("commit {commit}"))
        }
        None => "development build".to_owned(),
    };
    println!("cargo:rustc-env=SOCI_VERSION={version} ({commit})");
}

fn git(words: &[&str]) -> Option<String> {
    let output = Command::new("git").args(words).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
