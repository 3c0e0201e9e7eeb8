//! `soci record` on real workloads: what it writes down is exactly what they read, and nothing stays behind.
//!
//! The workload is a program that does what its arguments say. By the FUSE engine, which is exact to the page; the
//! other engine has ebpf.rs. Needs root and FUSE.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use harness::daemon::program;
use harness::layout;
use harness::machine::{mounts_mentioning, processes_mentioning};
use harness::patience::eventually;
use harness::recording::{PAGE, Recording, pages, sealed};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use soci_core::trace::{Access, AccessKind, End, Outcome, Phase};

const BIG_PAGES: u64 = 4000;

/// An image of two layers; built once, never changed.
fn image() -> &'static Path {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(module_path!().replace("::", "-"));
        let _ = fs::remove_dir_all(&dir); // of an earlier run
        let (low, high) = (dir.join("low"), dir.join("high"));
        layout::compile_workload(&low.join("bin/do"));
        fs::set_permissions(low.join("bin/do"), fs::Permissions::from_mode(0o755)).unwrap();
        for (path, content) in [
            ("data/gone", "gone"),
            ("data/old", "old"),
            ("data/opaque/below", "below"),
            ("data/one", "two names"),
            ("etc/passwd", "root:x:0:0::/root:/bin/do\nweb:x:1000:1001::/home/web:/bin/do\n"),
            ("etc/group", "root:x:0:\nlog:x:50:web\n"),
        ] {
            write(&low, path, content.as_bytes());
        }
        let big: Vec<u8> = (0..BIG_PAGES * PAGE).map(|at| (at / 7 * 31 % 251) as u8).collect();
        write(&low, "data/big", &big);
        fs::hard_link(low.join("data/one"), low.join("data/two")).unwrap();
        symlink("data", low.join("link")).unwrap();
        write(&high, "data/.wh.gone", b"");
        write(&high, "data/old", b"new content");
        write(&high, "data/opaque/.wh..wh..opq", b"");
        write(&high, "data/opaque/above", b"above");
        let process = json!({
            "Env": ["PATH=/bin", "FROM=image"], "Entrypoint": ["do"], "Cmd": ["say", "default", "env", "FROM"],
            "WorkingDir": "/data",
        });
        layout::write(&dir.join("image"), &[low, high], &process);
        dir
    })
}

fn write(root: &Path, path: &str, content: &[u8]) {
    let file = root.join(path);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, content).unwrap();
}

fn record(flags: &[&str], words: &[&str]) -> Recording {
    Recording::of(|out| command(out, flags, words))
}

fn command(dir: &Path, flags: &[&str], words: &[&str]) -> Command {
    let mut command = Command::new(program("soci"));
    command.args(["record", "--image", &format!("oci:{}", image().join("image").display()), "--name", "t"]);
    command.args(["--engine", "fuse"]);
    command.arg("--state").arg(image().join("state")).arg("--out").arg(dir).args(flags);
    command.stdin(Stdio::null());
    if !words.is_empty() {
        command.arg("--").arg("do").args(words);
    }
    command
}

/// The trace in a directory of results.
fn read_trace(dir: &Path) -> Option<(Vec<Access>, End)> {
    sealed(&dir.join("t.trace"))
}

#[test]
fn exactly_the_pages_that_were_touched_are_recorded_each_once() {
    let recording = record(
        &[],
        &[
            "read",
            "/data/big",
            "40960",
            "4096", // page 10
            "read",
            "/data/big",
            "8192100",
            "4096", // pages 2000 and 2001
            "read",
            "/link/big",
            "1048576",
            "65536", // pages 256 to 271, through a link
            "map",
            "/data/big",
            "3000",
            "map",
            "/data/big",
            "3002",
            "map",
            "/data/big",
            "10",
            "read",
            "/data/big",
            "16383999",
            "10", // the last byte
            "read",
            "/data/big",
            "40960",
            "100", // page 10 again: cached
        ],
    );
    assert_eq!(recording.code(), Some(0), "{}", recording.stderr());
    let (accesses, end) = recording.trace("t.trace");
    let mut expected: BTreeSet<u64> = (256..272).collect();
    expected.extend([10, 2000, 2001, 3000, 3002, BIG_PAGES - 1]);
    assert_eq!(pages(&accesses, "data/big"), expected);
    let of_big: Vec<&Access> = accesses.iter().filter(|access| &*access.path == b"data/big").collect();
    assert_eq!(
        of_big.iter().map(|access| access.len).sum::<u64>(),
        expected.len() as u64 * PAGE,
        "each once"
    );
    assert!(of_big.iter().all(|access| access.kind == AccessKind::Read && &*access.process.comm == b"do"));
    assert!(accesses.windows(2).all(|pair| pair[0].t_ns <= pair[1].t_ns));
    let (outcome, dropped) = (end.outcome, end.dropped);
    assert_eq!((outcome, dropped, end.exit_code), (Outcome::Exited, 0, Some(0)));
}

#[test]
fn every_access_names_the_layer_that_the_file_comes_from() {
    let recording = record(
        &[],
        &[
            "read",
            "/data/old",
            "0",
            "100",
            "read",
            "/data/opaque/above",
            "0",
            "9",
            "read",
            "/data/one",
            "0",
            "9",
            "read",
            "/data/two",
            "0",
            "9",
            "exists",
            "/data/gone",
            "exists",
            "/data/opaque/below",
            "exists",
            "/data/two",
        ],
    );
    assert_eq!(recording.code(), Some(0), "{}", recording.stderr());
    assert_eq!(recording.stdout(), "/data/gone no\n/data/opaque/below no\n/data/two yes\n");
    let (accesses, _) = recording.trace("t.trace");
    let layers: BTreeMap<String, Option<u32>> =
        accesses.iter().map(|a| (String::from_utf8_lossy(&a.path).into_owned(), a.layer)).collect();
    assert_eq!(layers["data/old"], Some(1));
    assert_eq!(layers["data/opaque/above"], Some(1));
    assert_eq!(layers["bin/do"], Some(0));
    assert!(accesses.iter().any(|access| &*access.path == b"bin/do" && access.kind == AccessKind::Exec));
    let names: Vec<&str> = layers.keys().map(String::as_str).filter(|name| name.contains("data/")).collect();
    assert_eq!(names, ["data/old", "data/one", "data/opaque/above"], "one inode with two names is read once");
    let list = fs::read(recording.dir.path().join("t.prefetch.json")).unwrap();
    let list: Vec<String> = serde_json::from_slice(&list).unwrap();
    assert_eq!(list, ["/bin/do", "/data/old", "/data/opaque/above", "/data/one"]);
}

#[test]
fn written_files_are_not_the_images() {
    let words = [
        "write",
        "/data/new",
        "read",
        "/data/new",
        "0",
        "1",
        "write",
        "/data/old",
        "read",
        "/data/old",
        "0",
        "9",
    ];
    let recording = record(&[], &words);
    assert_eq!(recording.code(), Some(0), "{}", recording.stderr());
    let (accesses, _) = recording.trace("t.trace");
    assert!(accesses.iter().all(|access| !access.path.starts_with(b"data/")), "{accesses:?}");
}

#[test]
fn the_workload_runs_as_under_an_oci_runtime() {
    let recording = record(&[], &[]);
    assert_eq!(recording.stdout(), "default\nFROM=image\n");
    let recording = record(&["--arg=env", "--arg=NEW", "--env", "NEW=a=b"], &[]);
    assert_eq!(recording.stdout(), "NEW=a=b\n");
    let recording = record(&["--user", "web", "--cwd", "/made/here"], &["who", "env", "HOME", "env", "FROM"]);
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let who =
        format!("pid 1 uid 1000 gid 1001 groups 50 cwd /made/here host {host}\nHOME=/home/web\nFROM=image\n");
    assert_eq!(recording.stdout(), who, "{}", recording.stderr());
    let devices = [
        "null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "fd", "stdin", "stdout",
        "stderr",
    ];
    let paths: Vec<String> = devices.iter().map(|name| format!("/dev/{name}")).collect();
    let words: Vec<&str> = paths.iter().flat_map(|path| ["exists", path.as_str()]).collect();
    let recording =
        record(&["--net", "none", "--user", "5"], &[&words[..], &["who", "write", "/dev/null"]].concat());
    let said = recording.stdout();
    for path in &paths[..9] {
        assert!(said.contains(&format!("{path} yes\n")), "{path}: {said}{}", recording.stderr());
    }
    assert!(said.ends_with("pid 1 uid 5 gid 0 groups cwd /data host soci\n"), "{said}");
    assert_eq!(recording.code(), Some(0), "{}", recording.stderr());
}

#[test]
fn failures_of_the_workload_are_told_apart_and_its_trace_is_kept() {
    let failed = record(&[], &["read", "/data/old", "0", "1", "exit", "42"]);
    assert_eq!(failed.code(), Some(5), "{}", failed.stderr());
    assert_eq!(failed.trace("t.trace").1.exit_code, Some(42));

    let never = record(&["--until", "log:READY"], &["say", "something else", "exit", "0"]);
    assert_eq!(never.code(), Some(4), "{}", never.stderr());
    let end = never.trace("t.trace").1;
    assert_eq!((end.outcome, end.ready_ns, end.exit_code), (Outcome::Exited, None, Some(0)));

    let late = record(&["--until", "log:READY", "--timeout", "10s"], &["sleep", "60000"]);
    assert_eq!(late.code(), Some(4), "{}", late.stderr());
    let end = late.trace("t.trace").1;
    assert_eq!((end.outcome, end.ready_ns, end.exit_code), (Outcome::TimedOut, None, None));

    let dir = tempfile::tempdir().unwrap();
    for (program, code) in [("nothing", 127), ("/data/old", 126)] {
        let output = command(dir.path(), &[], &[]).args(["--", program]).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let nobody = record(&["--user", "nobody"], &["who"]);
    assert_eq!(nobody.code(), Some(1));
    assert!(nobody.stderr().contains("no user \"nobody\""), "{}", nobody.stderr());
}

#[test]
fn end_rules_divide_the_recording_into_phases() {
    // The workload goes on when the recorder has passed on the line, and so has seen it.
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port().to_string();
    let first = ["read", "/data/big", "0", "1", "say", "not yet", "say", "READY to go", "ask", &port];
    let second = ["read", "/data/big", "4096", "1", "say", "DONE", "sleep", "60000"];
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--until", "tcp:1", "--until", "log:^READY", "--until", "log:^DONE+0s or ready+300s"];
    let mut command = command(dir.path(), &flags, &[&first[..], &second].concat());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line == "READY to go"));
    server.accept().unwrap().0.write_all(&[1]).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let (accesses, end) = read_trace(dir.path()).unwrap();
    assert_eq!((end.outcome, end.exit_code), (Outcome::Ready, None));
    let phase = |page: u64| {
        accesses.iter().find(|a| &*a.path == b"data/big" && a.offset == page * PAGE).map(|a| a.phase)
    };
    assert_eq!((phase(0), phase(1)), (Some(Phase::Start), Some(Phase::Tail)));

    let words = ["say", "READY", "sleep", "60000"];
    let with_tail = record(&["--until", "log:^READY", "--tail", "1"], &words).trace("t.trace").1;
    let tail = with_tail.ended_ns - with_tail.ready_ns.unwrap();
    assert_eq!(tail, 1_000_000_000, "the trace ends with the tail, to the nanosecond");
    let without_tail = record(&["--until", "log:^READY"], &words);
    assert!(without_tail.trace("t.trace").0.iter().all(|access| access.phase != Phase::Tail));

    // In a network of its own, the port is the workload's.
    let listening =
        record(&["--until", "tcp:7", "--net", "none"], &["sleep", "100", "listen", "7", "sleep", "60000"]);
    assert_eq!(listening.code(), Some(0), "{}", listening.stderr());
    let timed = record(&["--until", "time:0.2"], &["sleep", "60000"]);
    assert_eq!(timed.trace("t.trace").1.ready_ns, Some(200_000_000));
}

#[test]
fn a_port_that_answers_before_the_start_is_an_error() {
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let rule = format!("tcp:{}", server.local_addr().unwrap().port());
    let recording = record(&["--until", &rule], &["sleep", "60000"]);
    assert_eq!(recording.code(), Some(1));
    assert!(recording.stderr().contains("true before the start"), "{}", recording.stderr());
}

/// Starts a recording and waits until its workload says something.
fn start(dir: &Path, flags: &[&str], words: &[&str]) -> std::process::Child {
    let mut child = command(dir, flags, words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    child
}

fn signal(child: &std::process::Child, signal: Signal) {
    kill_process(Pid::from_raw(child.id() as i32).unwrap(), signal).unwrap();
}

/// Nothing of the image's directory is mounted, nothing runs, and nothing but the unpacked layers is on disk.
fn assert_clean(mark: &str) {
    eventually("the workload ends", || processes_mentioning(mark).is_empty());
    assert_eq!(mounts_mentioning(&image().to_string_lossy()), Vec::<String>::new());
}

fn state_entries() -> Vec<PathBuf> {
    let entries = fs::read_dir(image().join("state")).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("run-")).collect()
}

#[test]
fn signals_end_a_recording_with_a_sealed_trace_and_nothing_left() {
    for (sent, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let (dir, mark) = (tempfile::tempdir().unwrap(), format!("mark-signal-{code}"));
        let child = start(dir.path(), &[], &["fork-sleep", "say", "up", "sleep", "100000", &mark]);
        assert!(!processes_mentioning(&mark).is_empty());
        signal(&child, sent);
        assert_eq!(child.wait_with_output().unwrap().status.code(), Some(code));
        assert_eq!(read_trace(dir.path()).unwrap().1.outcome, Outcome::Interrupted);
        assert_clean(&mark);
        assert_eq!(state_entries(), Vec::<PathBuf>::new());
    }
}

#[test]
fn a_signal_can_be_the_moment_of_readiness_and_reaches_a_workload_that_handles_it() {
    let dir = tempfile::tempdir().unwrap();
    let child = start(dir.path(), &["--until", "signal"], &["say", "up", "sleep", "100000"]);
    signal(&child, Signal::INT);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
    assert_eq!(read_trace(dir.path()).unwrap().1.outcome, Outcome::Ready);

    let child = start(dir.path(), &["--force"], &["handle-term", "say", "up", "sleep", "100000"]);
    signal(&child, Signal::TERM);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(143));
    assert_eq!(read_trace(dir.path()).unwrap().1.exit_code, Some(7), "its handler ran");
}

#[test]
fn even_a_killed_recorder_leaves_no_mount_and_no_process() {
    let (dir, mark) = (tempfile::tempdir().unwrap(), "mark-killed");
    let mut child = start(dir.path(), &[], &["fork-sleep", "say", "up", "sleep", "100000", mark]);
    signal(&child, Signal::KILL);
    child.wait().unwrap();
    assert_clean(mark);
    assert_eq!(record(&[], &["say", "next"]).code(), Some(0));
    assert_eq!(state_entries(), Vec::<PathBuf>::new(), "the next recording has cleaned up");
}
