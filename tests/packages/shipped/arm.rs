//! The programs for arm64, under Debian's qemu-user-static: they start, and make the same index as those for amd64.

use std::fs;
use std::path::Path;
use std::process::Command;

use harness::layout;
use serde_json::json;

use crate::made::{FIRST, file, tar};

/// soci of one architecture in a folder; `emulator` runs it.
struct Soci {
    folder: tempfile::TempDir,
    emulator: &'static [&'static str],
}

impl Soci {
    fn new(arch: &str, emulator: &'static [&'static str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tarball = file(FIRST, "soci-", &format!("-linux-{arch}.tar.gz"));
        tar(&["--extract", "--gzip", "--strip-components=1", "--file"], &tarball, folder.path());
        Self { folder, emulator }
    }

    fn run(&self, program: &str, words: &[&str]) -> (Option<i32>, String, String) {
        let path = self.folder.path().join("bin").join(program);
        let all: Vec<&str> = [self.emulator, &[path.to_str().unwrap()], words].concat();
        let output = Command::new(all[0]).args(&all[1..]).current_dir(self.folder.path()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    #[track_caller]
    fn ok(&self, program: &str, words: &[&str]) -> String {
        let (code, said, errors) = self.run(program, words);
        assert_eq!(code, Some(0), "{words:?}: {said}{errors}");
        said
    }

    /// Digests of all that `create` makes of an image.
    fn index(&self, image: &Path) -> Vec<String> {
        let image = format!("oci:{}", image.display());
        self.ok(
            "soci",
            &["--root", "store", "create", "-p", "linux/amd64", "--min-layer-size", "0", "--fine", &image],
        );
        let blobs = fs::read_dir(self.folder.path().join("store/content/blobs/sha256")).unwrap();
        let mut names: Vec<String> =
            blobs.map(|blob| blob.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn arm64_starts_and_gives_the_same_digests() {
    let native = Soci::new("amd64", &[]);
    let arm = Soci::new("arm64", &["qemu-aarch64-static"]);
    let program = fs::read(arm.folder.path().join("bin/soci")).unwrap();
    assert_eq!(program[18..20], [183, 0], "an ELF file for AArch64");
    for name in ["soci", "soci-snapshotter-grpc"] {
        assert_eq!(arm.ok(name, &["--version"]), native.ok(name, &["--version"]));
    }
    let (code, said, errors) = arm.run("soci", &["doctor"]);
    assert!(matches!(code, Some(0 | 1)) && said.contains("kernel"), "{code:?} {said}{errors}");

    let layer = tempfile::tempdir().unwrap();
    for number in 0..50u32 {
        let content: Vec<u8> =
            (0..40_000u32).flat_map(|at| (at.wrapping_mul(at) ^ number).to_le_bytes()).collect();
        fs::write(layer.path().join(format!("file-{number}")), content).unwrap();
    }
    let image = tempfile::tempdir().unwrap();
    layout::write(image.path(), &[layer.path().to_owned()], &json!({}));
    let wanted = native.index(image.path());
    assert!(wanted.len() >= 3, "{wanted:?}");
    assert_eq!(arm.index(image.path()), wanted);
}
