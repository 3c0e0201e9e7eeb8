//! The arrows between the crates: who may see whom, and which heavy dependencies stay out of which room.
//!
//! Asks `cargo tree` for each crate alone, because the resolved graph of `cargo metadata` unites the features
//! of the whole workspace and would show every crate with everybody's dependencies.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// Names of all crates that `package` is built from, itself not included.
fn dependencies(package: &str) -> BTreeSet<String> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace");
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--package",
            package,
            "--edges",
            "normal,build",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ])
        .args(["--target", "all", "--locked"])
        .current_dir(workspace)
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("cargo prints UTF-8");
    let names = text.lines().filter_map(|line| line.split_whitespace().next());
    let names: BTreeSet<String> = names.filter(|name| *name != package).map(str::to_owned).collect();
    assert!(!names.is_empty() || package == "recorder-ebpf", "{package} has no dependencies at all");
    names
}

/// Fails when `package` is built from any of `forbidden`.
fn sees_none_of(package: &str, forbidden: &[&str]) {
    let dependencies = dependencies(package);
    let seen: Vec<_> = forbidden.iter().filter(|name| dependencies.contains(**name)).collect();
    assert!(seen.is_empty(), "{package} must not see {seen:?}");
}

#[test]
fn soci_core_is_a_library_without_terminal_and_other_rooms() {
    let tools = ["aya", "fuser", "clap", "indicatif", "axum", "anyhow", "redb"];
    let rooms = ["planner", "recorder", "recorder-ebpf", "snapshotter", "soci-cli", "xtask", "soci-tests"];
    sees_none_of("soci-core", &[&tools[..], &rooms].concat());
}

#[test]
fn snapshotter_is_a_daemon_without_ebpf() {
    sees_none_of("snapshotter", &["aya", "recorder", "recorder-ebpf", "soci-cli", "indicatif"]);
}

#[test]
fn recorder_serves_no_grpc_and_keeps_no_database() {
    sees_none_of("recorder", &["planner", "tonic", "axum", "redb", "snapshotter", "soci-cli", "clap"]);
}

#[test]
fn planner_has_no_privileges_and_no_terminal() {
    let tools = ["aya", "fuser", "clap", "indicatif", "axum", "anyhow", "redb"];
    let rooms = ["recorder", "recorder-ebpf", "snapshotter", "soci-cli", "xtask"];
    sees_none_of("planner", &[&tools[..], &rooms].concat());
}

#[test]
fn the_command_line_does_not_link_the_daemon() {
    sees_none_of("soci-cli", &["snapshotter", "redb", "axum"]);
}

#[test]
fn the_event_abi_is_usable_by_the_kernel_side() {
    sees_none_of("recorder-ebpf", &["aya", "soci-core", "recorder", "tokio", "serde"]);
}
