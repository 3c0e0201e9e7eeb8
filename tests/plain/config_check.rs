//! `soci-snapshotter-grpc config check`: what is wrong with a file, and what has no meaning in it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use harness::daemon::program;

fn check(file: &Path) -> (bool, String, String) {
    let mut command = Command::new(program("soci-snapshotter-grpc"));
    let Output { status, stdout, stderr } = command.args(["config", "check"]).arg(file).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.success(), text(stdout), text(stderr))
}

#[test]
fn files_of_managed_nodes_can_be_used_and_keys_without_meaning_are_named() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/config");
    for (file, named) in [
        ("upstream-default.toml", "  metadata_store  "),
        ("al2023.toml", "  pull_modes.parallel_pull_unpack.decompress_streams  "),
        ("bottlerocket.toml", "  content_store.type  "),
    ] {
        let file = golden.join(file);
        let (good, said, complaints) = check(&file);
        assert!(good && complaints.is_empty(), "{complaints}");
        assert!(said.starts_with(&format!("{}: can be used\n", file.display())), "{said}");
        assert!(said.contains("these keys have no meaning here:\n") && said.contains(named), "{said}");
    }
}

#[test]
fn typing_errors_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    fs::write(&file, "[http]\nMaxRetry = 1\n").unwrap();
    let (good, said, complaints) = check(&file);
    assert!(!good && !said.contains("no meaning"), "{said}");
    assert!(
        complaints.contains("these keys are not known and have no effect: http.MaxRetry"),
        "{complaints}"
    );
    fs::write(&file, "[http]\nMaxRetries = \"many\"\n").unwrap();
    let (good, _, complaints) = check(&file);
    assert!(!good && complaints.contains("line 2"), "{complaints}");
    let (good, _, complaints) = check(&dir.path().join("none.toml"));
    assert!(!good && complaints.contains("none.toml"), "{complaints}");
}
