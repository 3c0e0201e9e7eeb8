//! The product's privileged tests on other kernels: the test program as it was built here, on this machine's root, which
//! the guest sees below its own changes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result};

use super::guest::Guest;
use super::{Args, Runner, build};
use crate::exec;
use crate::lab::{cargo, workspace};

/// Runs the tests whose names begin with one of the modules, one after the other, on every kernel.
pub(super) fn run(args: &Args) -> Result<()> {
    let (binaries, program) = match &args.programs {
        Some(dir) => (fs::canonicalize(dir)?, built(&dir.join("deps"))?),
        None => (build(args.release)?, program(args.release)?),
    };
    let runner = Runner::of(args, |run| Guest::over_host(run.join("tree")))?;
    // A name with colons is that of a test.
    let end = |word: &String| if word.contains("::") { "" } else { "::" };
    let words: Vec<String> = args.tests.iter().map(|word| format!("{word}{}", end(word))).collect();
    // Where tests make layers and mounts must not be an overlay, which the root is.
    let scratch = binaries.parent().context("programs lie in target/PROFILE")?.join("tmp");
    let script = format!(
        "mkdir -p /disk/scratch {scratch} && mount --bind /disk/scratch {scratch} && mount --bind /disk/tmp /tmp && cd {tests} && \
         exec env CARGO_MANIFEST_DIR={tests} SOCI_BIN_DIR={binaries} {program} --test-threads=1 --nocapture {words}",
        scratch = scratch.display(),
        tests = workspace().join("tests").display(),
        binaries = binaries.display(),
        program = program.display(),
        words = words.join(" "),
    );
    runner.command(&script)
}

/// The test program that was built last.
fn built(dir: &Path) -> Result<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("privileged-") && path.extension().is_none() {
            found.push((path.metadata()?.modified()?, path));
        }
    }
    let (_, last) =
        found.into_iter().max().with_context(|| format!("no test program in {}", dir.display()))?;
    Ok(fs::canonicalize(last)?)
}

/// Builds the test program, and says where it is.
fn program(release: bool) -> Result<PathBuf> {
    let mut command = cargo(["test", "--workspace", "--locked", "--no-run", "--test", "privileged"]);
    if release {
        command.arg("--release");
    }
    command.args(["--message-format", "json-render-diagnostics"]).stderr(Stdio::inherit());
    let said = exec::read(&mut command)?;
    let path = said.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        (message["target"]["name"] == "privileged")
            .then(|| message["executable"].as_str().map(PathBuf::from))?
    });
    path.context("cargo built no test program privileged")
}
