//! Calls of `soci record` on an image of one layer that holds the program `do` and files to read.
//!
//! [`Bench`] owns the image and the unpacked layers of one test binary; a [`Recording`] owns its results.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::json;
use soci_core::trace::{Access, End, Phase, Tail, TraceReader};
use tempfile::TempDir;

use crate::daemon::program;
use crate::layout;

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Pages of `/data/big`.
pub const BIG_PAGES: u64 = 1000;

/// An image to be recorded.
#[derive(Debug)]
pub struct Bench {
    dir: PathBuf,
}

impl Bench {
    /// Builds it below `dir`, of which an earlier content goes.
    ///
    /// # Panics
    /// When the files cannot be made.
    pub fn new(dir: &Path) -> Self {
        let _ = fs::remove_dir_all(dir); // of an earlier run
        let layer = dir.join("layer");
        layout::compile_workload(&layer.join("bin/do"));
        fs::set_permissions(layer.join("bin/do"), fs::Permissions::from_mode(0o755))
            .expect("make executable");
        fs::create_dir(layer.join("data")).expect("make the directory");
        let big: Vec<u8> = (0..BIG_PAGES * PAGE).map(|at| (at / 7 * 31 % 251) as u8).collect();
        fs::write(layer.join("data/big"), big).expect("write the file");
        for name in ["a", "b", "c", "d"] {
            fs::write(layer.join("data").join(name), name.repeat(5000)).expect("write the file");
        }
        let process = json!({"Env": ["PATH=/bin"], "Entrypoint": ["do"], "WorkingDir": "/data"});
        layout::write(&dir.join("image"), &[layer], &process);
        Self { dir: dir.into() }
    }

    /// Where the layers are unpacked.
    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// `soci record` of the words of `do`, with results named `t` in `out`.
    pub fn command(&self, out: &Path, flags: &[&str], words: &[&str]) -> Command {
        let mut command = Command::new(program("soci"));
        command.args(["record", "--image", &format!("oci:{}", self.dir.join("image").display())]);
        command.args(["--name", "t", "--state"]).arg(self.state()).arg("--out").arg(out).args(flags);
        command.stdin(Stdio::null()).arg("--").arg("do").args(words);
        command
    }

    /// Records.
    ///
    /// # Panics
    /// When the program cannot be started.
    pub fn record(&self, flags: &[&str], words: &[&str]) -> Recording {
        Recording::of(|out| self.command(out, flags, words))
    }
}

/// One call of `soci record` that is over.
#[derive(Debug)]
pub struct Recording {
    /// Its results.
    pub dir: TempDir,
    /// What it said.
    pub output: Output,
}

impl Recording {
    /// Runs the command that `command` makes for a directory of results.
    ///
    /// # Panics
    /// When the program cannot be started.
    pub fn of(command: impl FnOnce(&Path) -> Command) -> Self {
        let dir = tempfile::tempdir().expect("make a directory");
        let output = command(dir.path()).output().expect("soci runs");
        Self { dir, output }
    }

    /// The exit code.
    pub fn code(&self) -> Option<i32> {
        self.output.status.code()
    }

    /// Standard output.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    /// Standard error.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    /// A trace by its name, which must be sealed.
    ///
    /// # Panics
    /// When it is not.
    pub fn trace(&self, name: &str) -> (Vec<Access>, End) {
        sealed(&self.dir.path().join(name))
            .unwrap_or_else(|| panic!("{name} is no sealed trace: {}", self.stderr()))
    }
}

/// A trace, if it is there and sealed.
///
/// # Panics
/// When it is damaged.
pub fn sealed(trace: &Path) -> Option<(Vec<Access>, End)> {
    let mut reader = TraceReader::open(trace).ok()?;
    let accesses = reader.by_ref().collect::<Result<Vec<_>, _>>().expect("read the trace");
    match reader.tail() {
        Some(Tail::Sealed(end)) => Some((accesses, end.clone())),
        _ => None,
    }
}

/// The pages of a file that a trace names.
pub fn pages(accesses: &[Access], path: &str) -> BTreeSet<u64> {
    let of_file = accesses.iter().filter(|access| &*access.path == path.as_bytes());
    of_file.flat_map(|a| a.offset / PAGE..(a.offset + a.len).div_ceil(PAGE)).collect()
}

/// The phase in which a page of `/data/big` was first needed.
pub fn phase(accesses: &[Access], page: u64) -> Option<Phase> {
    accesses.iter().find(|a| &*a.path == b"data/big" && a.offset == page * PAGE).map(|access| access.phase)
}
