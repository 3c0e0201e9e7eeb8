//! Recordings on a disk that is slower than the reader: what was given to it is in the trace, whatever the sizes of its
//! reads, and whatever was mapped, whatever the sizes of the kernel's folios. By the default settings.
//!
//! Needs root, a C compiler, /dev/fuse, and a kernel on which the eBPF engine works.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use harness::daemon::program;
use harness::layout;
use harness::recording::{PAGE, Recording};
use harness::slow_disk::SlowDisk;
use harness::truth::{Truth, pages};
use soci_core::trace::TraceReader;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
/// Less than any reader takes in.
const SLOW: u64 = 12 * MIB;

fn temporary() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A recording of a command of this machine on `rootfs`.
fn record(rootfs: &Path, flags: &[&str], words: &[&str]) -> Recording {
    Recording::of(|out| {
        let mut command = Command::new(program("soci"));
        command.args(["record", "--name", "t", "--out"]).arg(out).arg("--rootfs").arg(rootfs);
        command.args(flags).arg("--").args(words).stdin(Stdio::null());
        command
    })
}

/// Pages of the files that the trace does not have.
fn missing(recording: &Recording, files: &[(&str, u64)]) -> u64 {
    let recorded = pages(&recording.trace("t.trace").0);
    let missing = |(name, size): &(&str, u64)| {
        (0..size.div_ceil(PAGE))
            .filter(|page| !recorded.get(*name).is_some_and(|of| of.contains(page)))
            .count()
    };
    files.iter().map(missing).sum::<usize>() as u64
}

#[test]
fn reads_of_every_size_are_recorded_as_they_were_given() {
    let dir = temporary();
    let mountpoint = dir.path().join("slow");
    fs::create_dir(&mountpoint).unwrap();
    let access = dir.path().join("access");
    layout::compile("access.c", &access);
    let files = [("f", 2 * MIB)];
    for (call, size) in [
        ("read", 40000),
        ("read", 49152),
        ("read", 200_000),
        ("pread", 70000),
        ("readv", 50001),
        ("sendfile", 1 << 30),
        ("splice", 60000),
    ] {
        let disk = SlowDisk::mount(&mountpoint, SLOW, &files); // cold each time
        let file = disk.path().join("f");
        let size = size.to_string();
        let words =
            [&access.to_string_lossy(), "pour", &file.to_string_lossy(), call, &size].map(str::to_owned);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let recording = record(disk.path(), &[], &words);
        assert_eq!(recording.code(), Some(0), "{call} {size}: {}", recording.stderr());
        assert_eq!(missing(&recording, &files), 0, "{call} of {size} bytes");
        let (accesses, end) = recording.trace("t.trace");
        assert_eq!(end.dropped, 0);
        let bytes: u64 =
            accesses.iter().filter(|access| &*access.path == b"f").map(|access| access.len).sum();
        assert_eq!(bytes, 2 * MIB, "{call} of {size} bytes: each once, and no other");
    }
}

#[test]
fn an_archive_of_files_of_odd_sizes_is_recorded_whole() {
    let dir = temporary();
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let files: Vec<(&'static str, u64)> =
        names.into_iter().enumerate().map(|(n, name)| (name, 77_777 * (n as u64 + 1) + 3)).collect();
    let disk = SlowDisk::mount(dir.path(), SLOW, &files);
    let script = format!("tar -cf - -C '{}' . | cat >/dev/null", disk.path().display());
    let recording = record(disk.path(), &[], &["sh", "-c", &script]);
    assert_eq!(recording.code(), Some(0), "{}", recording.stderr());
    assert_eq!(missing(&recording, &files), 0);
    let json: serde_json::Value = {
        let mut info = Command::new(program("soci"));
        let trace = recording.dir.path().join("t.trace");
        let output = info.args(["trace", "info", "--json"]).arg(&trace).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    };
    assert_eq!(json["flaws"], serde_json::json!([]), "it counts as complete");
}

#[test]
fn by_page_events_alone_a_trace_counts_as_incomplete() {
    let dir = temporary();
    let disk = SlowDisk::mount(dir.path(), SLOW, &[("f", MIB)]);
    let file = disk.path().join("f");
    let recording = record(
        disk.path(),
        &["--reads", "pages"],
        &["dd", &format!("if={}", file.display()), "bs=40000", "of=/dev/null"],
    );
    assert_eq!(recording.code(), Some(0), "{}", recording.stderr());
    println!("{} of 256 pages are missing", missing(&recording, &[("f", MIB)]));
    let trace = recording.dir.path().join("t.trace");
    let reader = TraceReader::open(&trace).unwrap();
    assert!(reader.header().partial && reader.header().engine == "ebpf");
    let info = Command::new(program("soci")).args(["trace", "info"]).arg(&trace).output().unwrap();
    let said = String::from_utf8_lossy(&info.stdout).into_owned();
    assert!(said.contains("by page events alone"), "{said}");
}

#[test]
fn every_page_of_a_mapping_that_is_touched_is_recorded() {
    let dir = temporary();
    let (data, access) = (dir.path().join("data"), dir.path().join("access"));
    layout::compile("access.c", &access);
    let kinds = ["ascending", "sequential", "huge", "descending", "strided"];
    fs::create_dir(&data).unwrap();
    for kind in kinds {
        fs::write(data.join(kind), vec![7; 16 << 20]).unwrap();
    }
    for reads in [&[][..], &["--reads", "pages"]] {
        let env = format!("DATA={}", data.display());
        let flags = [&["--env", &env], reads].concat();
        let words = [&[access.to_str().unwrap()], &kinds[..]].concat();
        let recording = record(dir.path(), &flags, &words);
        assert_eq!(recording.code(), Some(0), "{}", recording.stderr());
        let truth = Truth::parse(&recording.stdout());
        assert_eq!(truth.files.len(), kinds.len());
        let missing = truth.missing(&pages(&recording.trace("t.trace").0));
        assert!(missing.is_empty(), "{reads:?}: {missing:?}");
    }
}
