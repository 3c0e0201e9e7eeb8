//! The eBPF engine against workloads that say themselves which bytes they needed: nothing needed is missing, and no
//! event is lost without being counted.
//!
//! Needs root and a kernel with its type information and the tracepoints of the page cache.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use harness::access::{AccessImage, BIG_PAGES, EXACT, FILE_PAGES, MAPPED, complete, write};
use harness::daemon::program;
use harness::layout;
use harness::recording::PAGE;
use harness::truth::{Truth, pages};
use recorder::capture::{Capture, Ebpf, RING_BYTES, Scope, Settings, TRACKED_MAX};
use recorder::workload::Cgroup;
use soci_core::trace::AccessKind;
use tempfile::TempDir;

fn image() -> &'static AccessImage {
    static IMAGE: OnceLock<AccessImage> = OnceLock::new();
    IMAGE.get_or_init(|| {
        AccessImage::new(&Path::new(env!("CARGO_TARGET_TMPDIR")).join(module_path!().replace("::", "-")))
    })
}

#[test]
fn every_page_that_a_workload_needed_is_recorded() {
    let kinds: Vec<&str> = EXACT.iter().chain(&MAPPED).copied().collect();
    // What is read a second time is in memory: no page is given while another one is still being fetched.
    let words = [&["access"], &EXACT[..], &kinds[..]].concat();
    let recording = image().record(&["--reads", "pages"], &words);
    let accesses = complete(&recording);
    let recorded = pages(&accesses);
    let truth = Truth::parse(&recording.stdout());
    assert!(truth.files.len() >= kinds.len() - 2, "{}", recording.stdout());
    assert_eq!(truth.missing(&recorded), BTreeSet::new(), "needed and not recorded");
    for (path, needed) in &truth.files {
        let exact = EXACT.contains(&needed.kind.as_str());
        assert!(!exact || recorded[path] == needed.pages(), "{} is exact", needed.kind);
    }
    let has = |path: &str, kind: AccessKind| {
        accesses.iter().any(|access| &*access.path == path.as_bytes() && access.kind == kind)
    };
    assert!(has("bin/access", AccessKind::Exec) && has("data/exec", AccessKind::Exec));
    assert!(has("data/pread", AccessKind::Read) && has("data/shared", AccessKind::Fault));
    let whole = accesses.iter().filter(|access| &*access.path == b"data/whole");
    assert_eq!(whole.map(|access| access.len).sum::<u64>(), FILE_PAGES * PAGE, "each byte once");
    assert!(accesses.windows(2).all(|pair| pair[0].t_ns <= pair[1].t_ns));
    let comm = &accesses.iter().find(|access| &*access.path == b"data/pread").unwrap().process.comm;
    assert_eq!(&**comm, b"access");
}

#[test]
fn whatever_the_fuse_log_saw_the_page_cache_shows_too() {
    // copy_file_range does not cross from FUSE to the overlay's writable layer.
    let kinds: Vec<&str> = EXACT.iter().chain(&MAPPED).copied().filter(|kind| *kind != "copy").collect();
    let words = [&["access"], &kinds[..]].concat();
    let [ebpf, fuse] =
        ["ebpf", "fuse"].map(|engine| pages(&complete(&image().record(&["--engine", engine], &words))));
    for (path, needed) in &fuse {
        let missing: Vec<_> = needed.difference(&ebpf[path]).collect();
        assert_eq!(missing, Vec::<&u64>::new(), "{path}");
    }
    let total = |pages: &BTreeMap<String, BTreeSet<u64>>| pages.values().map(BTreeSet::len).sum::<usize>();
    println!("pages: fuse {}, ebpf {}", total(&fuse), total(&ebpf));
}

#[test]
fn layers_names_and_written_files_are_told_apart() {
    let words = [
        "do",
        "read",
        "/data/old",
        "0",
        "9",
        "read",
        "/data/b-name",
        "0",
        "9",
        "read",
        "/data/d-name",
        "0",
        "9",
        "write",
        "/data/changed",
        "read",
        "/data/changed",
        "0",
        "1",
        "write",
        "/data/new",
        "read",
        "/data/new",
        "0",
        "1",
    ];
    let recording = image().record(&["--engine", "auto"], &words);
    let accesses = complete(&recording);
    assert!(recording.stderr().contains("engine:      ebpf"), "{}", recording.stderr());
    let layers: BTreeMap<String, Option<u32>> = accesses
        .iter()
        .map(|access| (String::from_utf8_lossy(&access.path).into_owned(), access.layer))
        .collect();
    assert_eq!(layers.get("data/old"), Some(&Some(1)));
    assert_eq!(layers.get("data/b-name"), Some(&Some(0)), "{layers:?}");
    assert_eq!(layers.get("bin/do"), Some(&Some(0)));
    let (_, end) = recording.trace("t.trace");
    let both = BTreeMap::from([("data/c-name".to_owned(), vec!["data/d-name".to_owned()])]);
    assert_eq!(end.links, both, "the hidden one is not a name of the image");
    let list = fs::read_to_string(recording.dir.path().join("t.prefetch.json")).unwrap();
    assert!(list.contains(r#""/data/c-name","/data/d-name""#), "{list}");
    for name in ["data/new", "data/changed", "data/a-name"] {
        assert_eq!(layers.get(name), None, "{name} was written or not read");
    }
    assert!(recording.stderr().contains("of what the workload wrote"), "{}", recording.stderr());
    let left: Vec<_> = fs::read_dir(image().state())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("run-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn where_ebpf_cannot_be_used_the_fuse_log_records_and_the_reason_is_said() {
    let inside = || {
        let mut command = Command::new("unshare");
        command
            .args(["--cgroup", "--pid", "--fork", "--kill-child", "--mount-proc", "--"])
            .arg(program("soci"));
        command
    };
    let words = ["access", "pread", "shared"];
    let recording = image().record_by(inside(), &[], &words);
    let recorded = pages(&complete(&recording));
    let said = "engine:      fuse, because eBPF cannot be used: inside a pid namespace";
    assert!(recording.stderr().contains(said), "{}", recording.stderr());
    for (path, needed) in Truth::parse(&recording.stdout()).files {
        assert_eq!(recorded[&path], needed.pages(), "{path}");
    }
    let refused = image().record_by(inside(), &["--engine", "ebpf"], &words);
    assert_eq!(refused.code(), Some(1));
    assert!(refused.stderr().contains("inside a pid namespace"), "{}", refused.stderr());
}

#[test]
fn where_no_cgroup_can_be_used_the_process_tree_is_recorded() {
    let mut inside = Command::new("unshare");
    inside.args(["--cgroup", "--"]).arg(program("soci"));
    let kinds = ["pread", "shared", "exec"];
    let words = [&["access"], &kinds[..]].concat();
    let recording = image().record_by(inside, &["--engine", "ebpf"], &words);
    let accesses = complete(&recording);
    let said = "scope:       the process tree, because there is no cgroup for it: inside a cgroup namespace";
    assert!(recording.stderr().contains(said), "{}", recording.stderr());
    let truth = Truth::parse(&recording.stdout());
    assert_eq!(truth.files.len(), kinds.len());
    assert_eq!(truth.missing(&pages(&accesses)), BTreeSet::new(), "needed and not recorded");
    assert!(accesses.iter().any(|access| access.kind == AccessKind::Exec));
}

#[test]
fn what_a_probe_reads_counts_as_the_workloads() {
    for tree in [false, true] {
        let mut command = Command::new("unshare");
        command.args(tree.then_some("--cgroup")).arg("--").arg(program("soci"));
        let rule = format!("exec:do read /data/big {} 1", 33 * PAGE);
        let flags = ["--engine", "ebpf", "--user", "7:8", "--until", &rule, "--timeout", "60"];
        let recording = image().record_by(command, &flags, &["do", "sleep", "100000"]);
        let accesses = complete(&recording);
        assert_eq!(recording.stderr().contains("scope:       the process tree"), tree);
        let of_file = |path: &str| -> Vec<_> {
            accesses.iter().filter(|access| &*access.path == path.as_bytes()).collect()
        };
        let (big, program) = (of_file("data/big"), of_file("bin/do"));
        assert_eq!(pages(&accesses)["data/big"], BTreeSet::from([33]), "{}", recording.stderr());
        assert!(
            program.iter().any(|access| access.process.pid != big[0].process.pid),
            "it has one of its own"
        );
    }
}

#[test]
fn processes_that_cannot_be_tracked_make_a_recording_incomplete() {
    for (room, complete) in [(4, false), (TRACKED_MAX, true)] {
        let mut capture = Ebpf::watch(Scope::Tree { room }, &Settings::default()).unwrap();
        // It starts its children when it is told to, by which time it is tracked itself.
        let script = "read go; for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do sleep 1 & done; wait";
        let mut command = Command::new("sh");
        let mut child = command.args(["-c", script]).stdin(Stdio::piped()).spawn().unwrap();
        capture.follow(child.id());
        std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"go\n").unwrap();
        assert!(child.wait().unwrap().success());
        let counts = capture.counts().unwrap();
        assert_eq!(counts.untracked == 0, complete, "{counts:?}");
        assert_eq!(Capture::dropped(&capture) == 0, complete);
    }
}

#[test]
fn what_is_lost_of_other_containers_does_not_count_and_they_fill_no_buffer_once_one_is_chosen() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = |name: &str| dir.path().join(name);
    write(dir.path(), "big", &vec![7; (BIG_PAGES * PAGE) as usize]);
    layout::compile("access.c", &path("access"));
    fs::copy("/bin/sh", path("containerd-shim")).unwrap(); // by whose name it starts containers
    let settings = Settings { ring_bytes: 16 << 10, ..Settings::default() };
    let mut capture = Ebpf::watch(Scope::Tree { room: TRACKED_MAX }, &settings).unwrap();
    let script = r#"sleep 1000 & pid=$!; echo $pid; while read line; do "$1" flood "$2" 4096; echo done; done; kill $pid"#;
    let mut shim = Command::new(path("containerd-shim"));
    let shim = shim.args(["-c", script, "sh"]).args([path("access"), path("big")]);
    let mut shim = shim.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, output) = (shim.stdin.take().unwrap(), shim.stdout.take().unwrap());
    let mut output = std::io::BufRead::lines(std::io::BufReader::new(output));
    let pid = output.next().unwrap().unwrap().parse().unwrap();
    let mut flood = |capture: &Ebpf| {
        std::io::Write::write_all(&mut input, b"flood\n").unwrap();
        assert_eq!(output.next().unwrap().unwrap(), "done");
        capture.counts().unwrap()
    };
    let before = flood(&capture);
    assert!(
        before.dropped > 0 && Capture::dropped(&capture) >= before.dropped,
        "{before:?}: whose is not known"
    );
    capture.follow_new(pid);
    // What it lost itself while it began, if the other was quicker, is its own.
    let own = Capture::dropped(&capture);
    assert!(own < before.dropped / 4, "{before:?}: {own} lost, most of it of the other");
    assert_eq!(flood(&capture).emitted, before.emitted, "the other is left out");
    assert_eq!(Capture::dropped(&capture), own, "nor does it lose anything of this one");
    drop(input);
    shim.wait().unwrap();
}

#[test]
fn a_recording_with_losses_says_so_and_fails() {
    let words = ["access", "flood", "/data/big", "4096"];
    let lossy = image().record(&["--engine", "ebpf", "--ring-buffer", "4096"], &words);
    let (accesses, end) = lossy.trace("t.trace");
    assert_eq!(lossy.code(), Some(3), "{}", lossy.stderr());
    assert!(end.dropped > 0);
    let seen = pages(&accesses).get("data/big").map_or(0, BTreeSet::len) as u64;
    assert!(seen < BIG_PAGES && seen + end.dropped >= BIG_PAGES, "{seen} pages and {} lost", end.dropped);
    let whole = pages(&complete(&image().record(&["--engine", "ebpf"], &words)));
    assert_eq!(whole["data/big"].len() as u64, BIG_PAGES);
}

/// A layer with one large file, and the program that reads it page by page.
struct Flood {
    layer: PathBuf,
    cgroup: Cgroup,
    _dir: TempDir,
}

impl Flood {
    fn new() -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let layer = dir.path().join("layer");
        write(&layer, "big", &vec![7; (BIG_PAGES * PAGE) as usize]);
        layout::compile("access.c", &dir.path().join("access"));
        let mountpoint = dir.path().join("cgroup");
        fs::create_dir(&mountpoint).unwrap();
        Self { layer, cgroup: Cgroup::new(&mountpoint).unwrap(), _dir: dir }
    }

    fn attach(&self, ring_bytes: u32) -> Ebpf {
        let settings = Settings { ring_bytes, ..Settings::default() };
        let (layers, upper) = (std::slice::from_ref(&self.layer), self.layer.parent().unwrap());
        Ebpf::attach(&self.cgroup, layers, &self.layer, upper, &settings).unwrap()
    }

    fn start(&self, inside: bool) -> std::process::Child {
        let procs = if inside { self.cgroup.dir().join("cgroup.procs") } else { "/dev/null".into() };
        let script = r#"echo 0 > "$1"; exec "$2" flood "$3" "$4""#;
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(procs).arg(self.layer.with_file_name("access"));
        command.arg(self.layer.join("big")).arg(BIG_PAGES.to_string()).spawn().unwrap()
    }
}

#[test]
fn with_a_reader_that_stands_still_each_event_is_received_or_counted_as_dropped() {
    let flood = Flood::new();
    let mut capture = flood.attach(64 << 10);
    assert!(flood.start(true).wait().unwrap().success());
    let stalled = capture.counts().unwrap();
    assert_eq!(stalled.received, 0);
    assert!(stalled.emitted >= BIG_PAGES && stalled.dropped > 0, "{stalled:?}");
    let handed_out = std::iter::from_fn(|| capture.next(Duration::ZERO)).count() as u64;
    let counts = capture.counts().unwrap();
    println!("{counts:?}");
    assert_eq!(counts.emitted, counts.received + counts.dropped);
    assert!(counts.received > 0 && handed_out > 0 && handed_out + counts.outside <= counts.received);

    // Somebody else who reads the same file is not recorded.
    assert!(flood.start(false).wait().unwrap().success());
    assert_eq!(capture.counts().unwrap().emitted, counts.emitted);
}

#[test]
fn with_a_slow_reader_the_account_is_exact_too_and_a_quick_one_gets_all() {
    let flood = Flood::new();
    for (ring_bytes, pause) in [(16 << 10, Duration::from_millis(1)), (RING_BYTES, Duration::ZERO)] {
        let mut capture = flood.attach(ring_bytes);
        let mut child = flood.start(true);
        let (mut bytes, limit) = (0, Instant::now() + Duration::from_mins(1));
        while child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < limit);
            bytes += capture.next(Duration::from_millis(1)).map_or(0, |access| access.len);
            std::thread::sleep(pause);
        }
        bytes += std::iter::from_fn(|| capture.next(Duration::ZERO)).map(|access| access.len).sum::<u64>();
        let counts = capture.counts().unwrap();
        println!("{counts:?}");
        assert_eq!(counts.emitted, counts.received + counts.dropped);
        if ring_bytes == RING_BYTES {
            assert_eq!((counts.dropped, bytes), (0, BIG_PAGES), "the program takes one byte of each page");
        }
    }
}

#[test]
fn the_workloads_cgroup_is_gone_afterwards() {
    let flood = Flood::new();
    let dir = flood.cgroup.dir().to_owned();
    let mut child = flood.start(true);
    child.wait().unwrap();
    drop(flood);
    assert!(!dir.exists());
}
