//! An image of two layers whose program reads in every way there is, and recordings of it.
//!
//! [`AccessImage`] owns the image and the unpacked layers of one test binary.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;
use soci_core::trace::Access;

use crate::daemon::program;
use crate::layout;
use crate::recording::{PAGE, Recording};

/// Pages of most files.
pub const FILE_PAGES: u64 = 256;
/// Pages of `/data/big`.
pub const BIG_PAGES: u64 = 4096;
/// Ways of reading in which the kernel names exactly the pages that are asked for.
pub const EXACT: [&str; 10] =
    ["read", "whole", "pread", "readv", "preadv2", "sendfile", "splice", "copy", "uring", "populate"];
/// Ways in which it also names pages that it maps beside those.
pub const MAPPED: [&str; 5] = ["shared", "private", "code", "write", "exec"];
/// Ways that only a watcher of calls sees, or sees right.
const CALLS: [&str; 4] = ["direct", "shared_position", "opened", "reasons"];
/// Ways in which an overlay copies a whole file, and the workload reads nothing of it.
pub const COPIED: [&str; 3] = ["appended", "chowned", "moved"];

/// The image.
#[derive(Debug)]
pub struct AccessImage {
    dir: PathBuf,
    state: PathBuf,
}

impl AccessImage {
    /// Builds it below `dir`, of which an earlier content goes.
    ///
    /// # Panics
    /// When the files cannot be made.
    pub fn new(dir: &Path) -> Self {
        let _ = fs::remove_dir_all(dir); // of an earlier run
        let (low, high) = (dir.join("low"), dir.join("high"));
        for name in ["bin/access", "data/exec"] {
            layout::compile("access.c", &low.join(name));
            fs::set_permissions(low.join(name), fs::Permissions::from_mode(0o755)).expect("make executable");
        }
        layout::compile_workload(&low.join("bin/do"));
        let content: Vec<u8> = (0..FILE_PAGES * PAGE).map(|at| (at / 7 * 31 % 251) as u8).collect();
        let kinds = EXACT.iter().chain(&MAPPED).chain(&CALLS).chain(&COPIED);
        let kinds = kinds.filter(|kind| **kind != "exec");
        for (number, kind) in kinds.enumerate() {
            write(if number % 2 == 0 { &low } else { &high }, &format!("data/{kind}"), &content);
        }
        write(&low, "data/big", &vec![7; (BIG_PAGES * PAGE) as usize]);
        write(&low, "data/old", b"content of the lower layer");
        write(&high, "data/old", b"content of the upper layer");
        write(&low, "data/changed", b"to be written to");
        write(&low, "data/old-name", &content[..200]);
        write(&low, "data/a-name", b"two names, the first is hidden");
        fs::hard_link(low.join("data/a-name"), low.join("data/b-name")).expect("make a link");
        write(&high, "data/a-name", b"another file");
        write(&low, "data/c-name", b"two names, both are shown");
        fs::hard_link(low.join("data/c-name"), low.join("data/d-name")).expect("make a link");
        layout::write(&dir.join("image"), &[low, high], &json!({"Env": ["PATH=/bin"]}));
        Self { dir: dir.into(), state: dir.join("state") }
    }

    /// The same image, whose layers are unpacked in another place.
    #[must_use]
    pub fn in_state(&self, state: &Path) -> Self {
        Self { dir: self.dir.clone(), state: state.into() }
    }

    /// Where its layers are unpacked.
    pub fn state(&self) -> PathBuf {
        self.state.clone()
    }

    /// `soci record` of a command.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn record(&self, flags: &[&str], words: &[&str]) -> Recording {
        self.record_by(Command::new(program("soci")), flags, words)
    }

    /// By a command that becomes `soci`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn record_by(&self, mut command: Command, flags: &[&str], words: &[&str]) -> Recording {
        Recording::of(|out| {
            command.args(["record", "--image", &format!("oci:{}", self.dir.join("image").display())]);
            command.args(["--name", "t"]).arg("--state").arg(self.state()).arg("--out").arg(out);
            command.args(flags).arg("--").args(words).stdin(Stdio::null());
            command
        })
    }
}

/// Writes a file and the directories above it.
///
/// # Panics
/// When it cannot be written.
pub fn write(root: &Path, path: &str, content: &[u8]) {
    let file = root.join(path);
    fs::create_dir_all(file.parent().expect("a file has a directory")).expect("make the directory");
    fs::write(file, content).expect("write the file");
}

/// The accesses of a recording that went well.
///
/// # Panics
/// When it did not.
pub fn complete(recording: &Recording) -> Vec<Access> {
    assert_eq!(recording.code(), Some(0), "{}", recording.stderr());
    recording.trace("t.trace").0
}

/// Ranges in order, those that touch as one.
pub fn joined(mut ranges: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    ranges.sort_unstable();
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for (start, end) in ranges {
        match joined.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => joined.push((start, end)),
        }
    }
    joined
}
