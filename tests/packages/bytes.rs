//! What is in the packages, and that it depends on nothing but the programs and the commit.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::made::{AGAIN, FIRST, arch, deb, file, folder, tar};

#[test]
fn the_same_programs_give_the_same_bytes() {
    let sums = |run| fs::read_to_string(folder(run).join("SHA256SUMS")).unwrap();
    assert_eq!(sums(FIRST), sums(AGAIN));
    let check = Command::new("sha256sum")
        .args(["--check", "--strict", "SHA256SUMS"])
        .current_dir(folder(FIRST))
        .output()
        .unwrap();
    assert!(check.status.success(), "{check:?}");
    let listed = sums(FIRST).lines().count();
    assert_eq!(fs::read_dir(folder(FIRST)).unwrap().count(), listed + 1, "every file has a sum");
}

#[test]
fn the_package_has_all_that_belongs_to_it() {
    let list = Command::new("dpkg-deb").arg("--contents").arg(deb(FIRST)).output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    for (mode, path) in [
        ("-rwxr-xr-x", "./usr/bin/soci"),
        ("-rwxr-xr-x", "./usr/bin/soci-snapshotter-grpc"),
        ("-rw-r--r--", "./usr/lib/systemd/system/soci-snapshotter.service"),
        ("-rw-r--r--", "./usr/lib/systemd/system/soci-snapshotter.socket"),
        ("-rw-r--r--", "./etc/soci-snapshotter-grpc/config.toml"),
        ("-rw-r--r--", "./usr/share/man/man1/soci-index-list.1.gz"),
        ("-rw-r--r--", "./usr/share/man/man8/soci-snapshotter-grpc.8.gz"),
        ("-rw-r--r--", "./usr/share/man/man5/soci-snapshotter-grpc.toml.5.gz"),
        ("-rw-r--r--", "./usr/share/bash-completion/completions/soci"),
        ("-rw-r--r--", "./usr/share/doc/soci-snapshotter/examples/containerd/containerd-2.toml"),
        ("-rw-r--r--", "./usr/share/doc/soci-snapshotter/copyright"),
    ] {
        let line = list.lines().find(|line| line.ends_with(&format!(" {path}")));
        let line = line.unwrap_or_else(|| panic!("{path} is not in\n{list}"));
        assert!(line.starts_with(mode) && line.contains(" root/root "), "{line}");
    }
}

#[test]
fn manual_pages_have_no_mistakes_that_groff_sees() {
    let root = tempfile::tempdir().unwrap();
    let unpacked = Command::new("dpkg-deb").arg("-x").arg(deb(FIRST)).arg(root.path()).status().unwrap();
    assert!(unpacked.success());
    let mut pages = 0;
    for section in ["man1", "man5", "man8"] {
        for entry in fs::read_dir(root.path().join("usr/share/man").join(section)).unwrap() {
            let page = entry.unwrap().path();
            let script = "gzip -dc \"$0\" | groff -Kutf8 -man -Tutf8 -ww 2>&1 >/dev/null";
            let said = Command::new("sh").args(["-c", script]).arg(&page).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&said.stdout), "", "{}", page.display());
            pages += 1;
        }
    }
    assert!(pages > 20, "{pages}");
}

/// The page of the daemon is written by hand, that of its configuration comes from the reference.
#[test]
fn the_daemons_pages_name_every_flag_and_key() {
    let root = tempfile::tempdir().unwrap();
    assert!(Command::new("dpkg-deb").arg("-x").arg(deb(FIRST)).arg(root.path()).status().unwrap().success());
    let read = |page: &str| {
        let path = root.path().join("usr/share/man").join(page);
        let text = Command::new("gzip").arg("-dc").arg(path).output().unwrap();
        String::from_utf8(text.stdout).unwrap().replace("\\-", "-")
    };
    let daemon = harness::daemon::program("soci-snapshotter-grpc");
    let said = |words: &[&str]| {
        let output = Command::new(&daemon).args(words).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let (help, page) = (said(&["--help"]), read("man8/soci-snapshotter-grpc.8.gz"));
    let words: BTreeSet<&str> =
        help.split([' ', ',', '\n', '[', ']', '=']).filter(|word| word.starts_with("--")).collect();
    assert!(words.len() > 5, "{help}");
    for word in words {
        assert!(page.contains(word), "{word} is not in the page of the daemon");
    }
    let (defaults, page) = (said(&["config", "default"]), read("man5/soci-snapshotter-grpc.toml.5.gz"));
    let keys = defaults.lines().filter_map(|line| line.split_once(" = ").map(|(key, _)| key.trim()));
    // One without a meaning is named with its table.
    let is_named =
        |key: &str| ["\\fB", "."].iter().any(|before| page.contains(&format!("{before}{key}\\fR")));
    let missing: Vec<_> = keys.filter(|key| !is_named(key)).collect();
    assert!(missing.is_empty(), "docs/configuration.md does not name {missing:?}");
}

#[test]
fn the_tarball_is_for_usr_local() {
    let root = tempfile::tempdir().unwrap();
    tar(
        &["--extract", "--gzip", "--strip-components=1", "--file"],
        &file(FIRST, "soci-", &format!("-linux-{}.tar.gz", arch())),
        root.path(),
    );
    let unit = fs::read_to_string(root.path().join("lib/systemd/system/soci-snapshotter.service")).unwrap();
    assert!(unit.contains("ExecStart=/usr/local/bin/soci-snapshotter-grpc --address fd://\n"), "{unit}");
    for path in [
        "bin/soci",
        "share/doc/soci-snapshotter/LICENSE",
        "etc/soci-snapshotter-grpc/config.toml",
        "share/man/man1/soci.1.gz",
    ] {
        assert!(root.path().join(path).exists(), "{path}");
    }
}

#[test]
fn the_bill_of_materials_names_what_is_linked() {
    let bill: Value = serde_json::from_slice(&fs::read(file(FIRST, "soci-", ".cdx.json")).unwrap()).unwrap();
    assert_eq!((&bill["bomFormat"], &bill["specVersion"]), (&"CycloneDX".into(), &"1.6".into()));
    let components = bill["components"].as_array().unwrap();
    let refs: BTreeSet<&str> = components.iter().map(|part| part["bom-ref"].as_str().unwrap()).collect();
    assert_eq!(refs.len(), components.len(), "each has a name of its own");
    for part in components {
        let has = |key: &str| part[key].as_str().is_some_and(|text| !text.is_empty());
        assert!(
            has("name") && has("version") && has("purl") && part["licenses"][0]["expression"].is_string(),
            "{part}"
        );
    }
    let names: BTreeSet<&str> = components.iter().map(|part| part["name"].as_str().unwrap()).collect();
    for linked in ["rustls", "aya", "redb", "glibc", "rust-std"] {
        assert!(names.contains(linked), "{linked}");
    }
    for other in ["proptest", "tonic-prost-build", "soci-tests", "xtask"] {
        assert!(!names.contains(other), "{other} is not in the programs");
    }
    let whole = bill["metadata"]["component"]["bom-ref"].as_str().unwrap();
    for dependency in bill["dependencies"].as_array().unwrap() {
        let name = dependency["ref"].as_str().unwrap();
        assert!(name == whole || refs.contains(name), "{name}");
        for on in dependency["dependsOn"].as_array().unwrap() {
            assert!(refs.contains(on.as_str().unwrap()), "{name} depends on {on}");
        }
    }
    let licences = fs::read_to_string(file(FIRST, "soci-", ".licenses.txt")).unwrap();
    for part in names.iter().filter(|name| {
        !["soci-cli", "snapshotter", "soci-core", "planner", "recorder", "recorder-ebpf"].contains(name)
    }) {
        let named = licences.contains(&format!("\n{part} ")) || ["glibc", "rust-std"].contains(part);
        assert!(named, "{part} has no line");
    }
}
