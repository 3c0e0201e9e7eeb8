//! containerd's own tests of snapshotters, on ours: every test that containerd's overlay snapshotter passes on this machine.
//! Needs root, and Debian's golang-go and golang-github-containerd-containerd-dev.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::daemon::Daemon;
use rustix::process::Signal;

/// Where Debian puts the sources of Go packages.
const SOURCES: &str = "/usr/share/gocode";

/// The suite as a program.
fn compiled(directory: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/conformance");
    let program = directory.join("conformance");
    let output = Command::new("go")
        .args(["test", "-c", "-o"])
        .arg(&program)
        .arg(".")
        .current_dir(source)
        .envs([("GO111MODULE", "off"), ("GOPATH", SOURCES), ("GOFLAGS", "")])
        .env("GOCACHE", directory.join("cache"))
        .output()
        .expect("golang-go is installed (`cargo xtask test` does it)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program
}

/// The tests that pass.
fn passed(program: &Path, socket: Option<&Path>) -> (BTreeSet<String>, String) {
    let work = tempfile::tempdir_in("/run").expect("a directory on tmpfs");
    let mut command = Command::new(program);
    command.args(["-test.v", "-test.root", "-test.parallel", "1"]).env("TMPDIR", work.path());
    command.current_dir(work.path());
    if let Some(socket) = socket {
        command.env("SOCI_SOCKET", socket);
    }
    let output = command.output().expect("it was compiled");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let names = text.lines().filter_map(|line| line.trim().strip_prefix("--- PASS: TestConformance/"));
    (names.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect(), text)
}

#[test]
fn all_that_overlayfs_passes_passes() {
    let work = tempfile::tempdir().unwrap();
    let program = compiled(work.path());
    let (wanted, text) = passed(&program, None);
    assert!(wanted.len() >= 20, "{text}");
    for config in ["", "[fuse]\nerofs = false\n"] {
        let root = tempfile::tempdir().unwrap();
        let mut daemon = Daemon::start(root.path(), config);
        let (passed, text) = passed(&program, Some(&daemon.socket()));
        let missing: Vec<_> = wanted.difference(&passed).collect();
        assert!(missing.is_empty(), "{config:?} {missing:?}\n{text}");
        assert!(daemon.stop(Signal::TERM).success());
    }
}
