//! `soci record` into a directory on a full disk: no file with a trace's name is less than a trace. Needs root and FUSE.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::OnceLock;

use harness::daemon::program;
use harness::recording::{BIG_PAGES, Bench};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;

/// A file system with room for one page: the header of a trace, and a few accesses.
struct Full(TempDir);

impl Full {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), c"size=4k").unwrap();
        Self(dir)
    }

    fn record(&self, flags: &[&str], words: &[String]) -> (Output, String) {
        static BENCH: OnceLock<Bench> = OnceLock::new();
        let bench = BENCH.get_or_init(|| {
            Bench::new(&Path::new(env!("CARGO_TARGET_TMPDIR")).join(module_path!().replace("::", "-")))
        });
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let flags = [&["--engine", "fuse"], flags].concat();
        let output = bench.command(self.0.path(), &flags, &words).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output, said)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

/// Reads of single pages, in no order. Their trace is larger than the disk.
fn many() -> [String; 3] {
    ["pages".to_owned(), "/data/big".to_owned(), BIG_PAGES.to_string()]
}

#[test]
fn a_trace_that_does_not_fit_leaves_no_file() {
    let full = Full::new();
    let (output, said) = full.record(&[], &many());
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot write the trace: no space left on device"), "{said}");
    assert_eq!(full.names(), Vec::<String>::new(), "{said}");
}

#[test]
fn what_was_recorded_before_the_disk_was_full_is_kept_under_another_name() {
    let full = Full::new();
    let first = ["read", "/data/a", "0", "1", "sleep", "2500"].map(str::to_owned);
    let (output, said) = full.record(&[], &[&first[..], &many()].concat());
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("t.trace.partial has what was recorded until then; it is not complete"), "{said}");
    assert_eq!(full.names(), ["t.trace.partial"]);
    let trace = full.0.path().join("t.trace.partial");
    let dump = Command::new(program("soci")).args(["trace", "dump"]).arg(&trace).output().unwrap();
    assert!(String::from_utf8_lossy(&dump.stderr).contains("it is cut after byte"));
    assert!(String::from_utf8_lossy(&dump.stdout).contains("data/a"));

    let kept = fs::read(&trace).unwrap();
    let (output, said) = full.record(&[], &first);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("t.trace.partial is there already"), "{said}");
    assert_eq!(fs::read(&trace).unwrap(), kept);
    let (output, said) = full.record(&["--force", "--runs", "2"], &many());
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(full.names().iter().all(|name| name.ends_with(".partial")), "{:?}", full.names());
}
