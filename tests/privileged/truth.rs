//! Recordings against workloads that say themselves what they needed, on whatever the files lie: every page that an
//! engine can see is in the trace, for every way of reading.
//!
//! Needs root, a C compiler, and a kernel on which the eBPF engine works.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use harness::daemon::program;
use harness::image::{LayerSource, publish};
use harness::layout;
use harness::node::{TestMount, TestNode};
use harness::recording::{PAGE, Recording};
use harness::registry::TestRegistry;
use harness::truth::{Truth, pages};
use serde_json::{Value, json};
use snapshotter::layer::MountOptions;
use soci_core::trace::{AccessKind, Outcome, TraceReader};

/// Every way of reading of the program `access`.
const KINDS: [&str; 24] = [
    "read",
    "whole",
    "pread",
    "readv",
    "preadv2",
    "sendfile",
    "splice",
    "copy",
    "uring",
    "populate",
    "shared",
    "private",
    "code",
    "write",
    "exec",
    "threads",
    "forks",
    "ahead",
    "direct",
    "ascending",
    "sequential",
    "huge",
    "descending",
    "strided",
];
/// Short processes of the kind `forks`, each of which needs a page of its own.
const FORKS: u64 = 10_000;

/// A directory that is both the content of an image's one layer and the image's unpacked form.
struct Home {
    dir: PathBuf,
}

impl Home {
    /// Built once, never changed: what is recorded as a directory is a copy.
    fn get() -> &'static Self {
        static HOME: OnceLock<Home> = OnceLock::new();
        HOME.get_or_init(|| {
            let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(module_path!().replace("::", "-"));
            let _ = fs::remove_dir_all(&dir); // of an earlier run
            let layer = dir.join("layer");
            for name in ["bin/access", "data/exec"] {
                layout::compile("access.c", &layer.join(name));
                fs::set_permissions(layer.join(name), fs::Permissions::from_mode(0o755)).unwrap();
            }
            layout::compile_workload(&layer.join("bin/do"));
            fs::set_permissions(layer.join("bin/do"), fs::Permissions::from_mode(0o755)).unwrap();
            layout::compile_with("load.c", &layer.join("bin/load"), &["-ldl"]);
            layout::compile_with("plugin.c", &layer.join("data/plugin"), &["-shared", "-fPIC"]);
            layout::copy_libraries(&layer.join("bin/load"), &layer);
            let content: Vec<u8> = (0..256 * PAGE).map(|at| (at / 7 * 31 % 251) as u8).collect();
            for kind in KINDS.iter().filter(|kind| **kind != "exec") {
                fs::write(layer.join("data").join(kind), &content).unwrap();
            }
            fs::write(layer.join("data/forks"), vec![7; (FORKS * PAGE) as usize]).unwrap();
            layout::write(&dir.join("image"), &[layer], &json!({"Env": ["PATH=/bin"]}));
            Self { dir }
        })
    }

    fn layer(&self) -> PathBuf {
        self.dir.join("layer")
    }

    fn soci(&self, out: &Path, flags: &[&str]) -> Command {
        let mut command = Command::new(program("soci"));
        command.args(["record", "--name", "t", "--state"]).arg(self.dir.join("state")).arg("--out").arg(out);
        command.args(flags).stdin(Stdio::null());
        command
    }

    fn in_image(&self, flags: &[&str], words: &[&str]) -> Recording {
        Recording::of(|out| {
            let mut command = self.soci(out, flags);
            let image = format!("oci:{}", self.dir.join("image").display());
            command.args(["--image", &image, "--"]).args(words);
            command
        })
    }

    /// Records a program below `dir`, which is the words' first, in that directory.
    fn in_directory(&self, dir: &Path, words: &[&str]) -> Recording {
        Recording::of(|out| {
            let mut command = self.soci(out, &[]);
            command.env("DATA", dir.join("data")).arg("--rootfs").arg(dir).arg("--");
            command.arg(dir.join(words[0])).args(&words[1..]);
            command
        })
    }
}

/// Ways in which the kernel maps more than is touched: seven scattered pages, every seventh page, a program's header.
const MAPPED_BESIDE: [&str; 5] = ["shared", "private", "code", "strided", "exec"];
/// Pages that may be mapped beside a scattered touch: a window of 16, or a large folio.
const BESIDE: usize = 32;

/// What is missing of each kind, by the workload's own words. What is not needed is recorded only where the kernel maps it.
fn missing(recording: &Recording) -> BTreeSet<String> {
    assert_eq!(recording.code(), Some(0), "{}", recording.stderr());
    let truth = Truth::parse(&recording.stdout());
    assert!(!truth.files.is_empty(), "it has said what it needs");
    let recorded = pages(&recording.trace("t.trace").0);
    let reader = TraceReader::open(&recording.dir.path().join("t.trace")).unwrap();
    let by_fuse = reader.header().engine == "fuse";
    for (kind, needless) in truth.needless(&recorded) {
        let most = match kind {
            // What is read ahead is asked of FUSE, and of nobody else.
            "ahead" if by_fuse => usize::MAX,
            "exec" | "strided" | "dlopen" => usize::MAX,
            _ if MAPPED_BESIDE.contains(&kind) => 7 * BESIDE,
            _ => 0,
        };
        assert!(needless <= most, "{kind}: {needless} pages that were not needed");
    }
    let missing = truth.missing(&recorded);
    missing.into_iter().map(str::to_owned).collect()
}

fn all(words: &[&'static str]) -> Vec<&'static str> {
    [words, &KINDS].concat()
}

#[test]
fn across_an_overlay_ebpf_misses_nothing() {
    let recording = Home::get().in_image(&["--engine", "ebpf"], &all(&["access"]));
    assert_eq!(missing(&recording), BTreeSet::new());
    let accesses = recording.trace("t.trace").0;
    let forks = accesses.iter().filter(|access| &*access.path == b"data/forks" && access.len > 0);
    let processes: BTreeSet<u32> = forks.map(|access| access.process.pid).collect();
    assert_eq!(processes.len() as u64, FORKS, "each page is the need of its own process");
    let ahead = &pages(&accesses)["data/ahead"];
    assert_eq!(ahead.len(), 1, "what was only brought into memory is no need");
}

#[test]
fn through_the_recorders_fuse_nothing_is_missing() {
    // copy_file_range does not cross from FUSE to the overlay's writable layer.
    let kinds: Vec<&str> = all(&["access"]).into_iter().filter(|kind| *kind != "copy").collect();
    let recording = Home::get().in_image(&["--engine", "fuse"], &kinds);
    assert_eq!(missing(&recording), BTreeSet::new());
}

#[test]
fn in_a_directory_of_the_machine_ebpf_misses_nothing() {
    let recording = Home::get().in_directory(&Home::get().layer(), &all(&["bin/access"]));
    assert_eq!(missing(&recording), BTreeSet::new());
    let (accesses, _) = recording.trace("t.trace");
    assert!(accesses.iter().all(|access| access.layer.is_none()));
    let executed =
        |path: &str| accesses.iter().any(|a| &*a.path == path.as_bytes() && a.kind == AccessKind::Exec);
    assert!(executed("bin/access") && executed("data/exec"));
}

#[test]
fn on_a_lazy_layer_ebpf_misses_nothing() {
    let home = Home::get();
    let tar = layout::tar(&home.layer());
    let registry = TestRegistry::start();
    let image = publish(&registry, "truth", &[LayerSource::of_tar(&tar)], 1 << 20);
    let root = tempfile::tempdir().unwrap();
    let node = TestNode::new(root.path(), |_| {});
    let mountpoint = root.path().join("layer");
    fs::create_dir(&mountpoint).unwrap();
    let mounted = TestMount::new(&node.layer(&image, 0), &mountpoint, &MountOptions::default()).unwrap();
    // Nothing can be written there, and short processes have been tried elsewhere.
    let words = all(&["bin/access"]).into_iter().filter(|kind| !["copy", "forks"].contains(kind));
    let recording = home.in_directory(&mountpoint, &words.collect::<Vec<_>>());
    assert_eq!(missing(&recording), BTreeSet::new());
    drop(mounted);
}

#[test]
fn a_shared_object_that_is_loaded_at_run_time_is_recorded() {
    let home = Home::get();
    for engine in ["ebpf", "fuse"] {
        let recording = home.in_image(&["--engine", engine], &["load", "/data/plugin"]);
        assert_eq!(missing(&recording), BTreeSet::new(), "{engine}");
    }
    let plugin = home.layer().join("data/plugin");
    let recording = home.in_directory(&home.layer(), &["bin/load", &plugin.to_string_lossy()]);
    assert_eq!(missing(&recording), BTreeSet::new());
}

#[test]
fn a_command_of_the_machine_runs_as_it_is_and_nothing_of_it_stays() {
    let home = Home::get();
    let script = "pwd; echo $MINE; readlink /proc/self/ns/mnt; sleep 300 >/dev/null & echo $!; exit 3";
    let flags = ["--env", "MINE=yes", "--cwd", "/"];
    let recording = Recording::of(|out| {
        let mut command = home.soci(out, &flags);
        command.arg("--rootfs").arg(home.layer()).args(["--", "sh", "-c", script]);
        command
    });
    assert_eq!(recording.code(), Some(5), "{}", recording.stderr());
    let said = recording.stdout();
    let own = fs::read_link("/proc/self/ns/mnt").unwrap();
    let [dir, mine, namespace, left] = said.lines().collect::<Vec<_>>()[..] else { panic!("{said}") };
    assert_eq!((dir, mine, namespace), ("/", "yes", &*own.to_string_lossy()));
    // Whoever has inherited it may not have asked for its end yet.
    let state = fs::read_to_string(format!("/proc/{left}/stat")).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z "), "process {left} is still there: {state}");
    for (words, code) in [(["no-such-program"], 127), (["/etc/passwd"], 126)] {
        let recording = Recording::of(|out| {
            let mut command = home.soci(out, &[]);
            command.arg("--rootfs").arg(home.layer()).arg("--").args(words);
            command
        });
        assert_eq!(recording.code(), Some(code), "{}", recording.stderr());
    }
}

#[test]
fn what_is_lost_after_the_end_makes_nothing_incomplete() {
    let home = Home::get();
    let program = home.layer().join("bin/do");
    // It reads more than the ring buffer holds when it is asked to end.
    let script = "trap '\"$0\" many \"$1\" 200000; exit 0' TERM; echo READY; while :; do sleep 0.05; done";
    let flags = ["--until", "log:^READY", "--ring-buffer", "65536", "--engine", "ebpf", "--exact"];
    let recording = Recording::of(|out| {
        let mut command = home.soci(out, &flags);
        command.arg("--rootfs").arg(home.layer()).args(["--", "sh", "-c", script]);
        command.arg(&program).arg(home.layer().join("data/forks"));
        command
    });
    assert_eq!(recording.code(), Some(0), "{}", recording.stderr());
    let (accesses, end) = recording.trace("t.trace");
    assert_eq!((end.dropped, end.outcome), (0, Outcome::Ready));
    assert!(accesses.iter().all(|access| &*access.path != b"data/forks"), "it was read after the end");
}

#[test]
fn what_a_probe_reads_below_the_directory_counts() {
    let home = Home::get();
    let rule = format!("exec:cat {}", home.layer().join("data/readv").display());
    let recording = Recording::of(|out| {
        let mut command = home.soci(out, &["--until", &rule, "--timeout", "60"]);
        command.arg("--rootfs").arg(home.layer()).args(["--", "sleep", "100000"]);
        command
    });
    assert_eq!(recording.code(), Some(0), "{}", recording.stderr());
    assert_eq!(pages(&recording.trace("t.trace").0)["data/readv"].len(), 256);
}

/// What Python needs to run `script` here, in the same places below `root`; gives the program.
fn install_python(root: &Path, script: &str) -> PathBuf {
    let list = "import os, sys\n\
        for m in list(sys.modules.values()):\n\
        \x20   for name in (getattr(m, '__file__', None), getattr(m, '__cached__', None)):\n\
        \x20       if name and os.path.isfile(name): print(name)\n\
        for line in open('/proc/self/maps'):\n\
        \x20   name = line.split()[-1]\n\
        \x20   if name.startswith('/') and os.path.isfile(name): print(name)\n\
        print(os.path.realpath(sys.executable))";
    let output = Command::new("python3").args(["-E", "-S", "-c", &format!("{script}\n{list}")]).output();
    let output = output.expect("python3 is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let stdout = String::from_utf8(output.stdout).unwrap();
    for file in stdout.lines().map(Path::new) {
        let to = root.join(file.strip_prefix("/").unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(file, &to).unwrap();
    }
    let python = stdout.lines().last().unwrap();
    for file in stdout.lines().filter(|file| file.contains(".so")).chain([python]) {
        layout::copy_libraries(Path::new(file), root); // under the names that the loader looks for
    }
    python.into()
}

#[test]
fn the_ebpf_trace_of_a_python_start_covers_the_fuse_log_and_the_difference_is_explained() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    // The C extensions are loaded with dlopen.
    let script =
        "import ctypes, decimal, hashlib, json, zlib; json.dumps({'a': hashlib.sha256(b'x').hexdigest()})";
    let python = install_python(&home.path().join("layer"), script);
    layout::write(&home.path().join("image"), &[home.path().join("layer")], &json!({}));
    let image = format!("oci:{}", home.path().join("image").display());
    for engine in ["ebpf", "fuse"] {
        let recorded = Command::new(program("soci"))
            .args(["record", "--image", &image, "--engine", engine, "--name", engine, "--state"])
            .arg(home.path().join("state"))
            .arg("--out")
            .arg(home.path())
            .arg("--")
            .arg(&python)
            .args(["-E", "-S", "-c", script])
            .output()
            .unwrap();
        assert!(recorded.status.success(), "{}", String::from_utf8_lossy(&recorded.stderr));
    }
    let diff = |flags: &[&str]| {
        let mut command = Command::new(program("soci"));
        command.args(["trace", "diff"]).args(flags);
        let output =
            command.args(["ebpf", "fuse"].map(|name| home.path().join(format!("{name}.trace")))).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    println!("{}", diff(&[]));
    let json: Value = serde_json::from_str(&diff(&["--json"])).unwrap();
    let (ebpf, fuse) = (&json["a"], &json["b"]);
    assert_eq!((ebpf["engine"].as_str(), fuse["engine"].as_str()), (Some("ebpf-exact"), Some("fuse")));
    assert!(fuse["bytes"].as_u64() > Some(1 << 20), "{fuse}");
    assert_eq!(fuse["only"], json!([]), "the eBPF trace covers what the FUSE log needed");
    for share in ebpf["only"].as_array().unwrap() {
        assert_eq!(
            share["kind"], "map",
            "more than the needs is what the kernel mapped beside them: {share}"
        );
    }
}

#[test]
fn end_rules_runs_and_reports_are_those_of_images() {
    let home = Home::get();
    let big = home.layer().join("data/whole");
    let script = "cat \"$0\" >/dev/null; echo UP; sleep 100";
    let flags = ["--until", "log:^UP", "--runs", "2", "--report"];
    let recording = Recording::of(|out| {
        let mut command = home.soci(out, &flags);
        command.arg("--rootfs").arg(home.layer()).args(["--", "sh", "-c", script]).arg(&big);
        command
    });
    assert_eq!(recording.code(), Some(0), "{}", recording.stderr());
    let (accesses, end) = recording.trace("t.trace");
    assert!(end.ready_ns.is_some() && pages(&accesses)["data/whole"].len() == 256);
    for name in ["t.1.trace", "t.2.trace", "t.html", "t.prefetch.json"] {
        assert!(recording.dir.path().join(name).exists(), "{name}");
    }

    // Its paths are of use for an image that has the files.
    let trace = recording.dir.path().join("t.trace");
    assert_eq!(TraceReader::open(&trace).unwrap().header().manifest, None);
    let created = Command::new(program("soci"))
        .args(["create", &format!("oci:{}", home.dir.join("image").display()), "--min-layer-size", "0"])
        .arg("--root")
        .arg(recording.dir.path().join("root"))
        .arg("--trace")
        .arg(&trace)
        .output()
        .unwrap();
    let (stdout, stderr) =
        (String::from_utf8_lossy(&created.stdout), String::from_utf8_lossy(&created.stderr));
    assert!(created.status.success(), "{stderr}");
    assert!(stdout.contains("Created prefetch artifact"), "{stdout}");
    assert!(stderr.contains("is of a directory"), "{stderr}");
}

#[test]
fn what_a_directory_cannot_be_recorded_with_is_said() {
    let home = Home::get();
    let try_it = |flags: &[&str]| Recording::of(|out| home.soci(out, flags));
    let dir = home.layer().to_string_lossy().into_owned();
    let fuse = try_it(&["--engine", "fuse", "--rootfs", &dir, "--", "true"]);
    assert_eq!(fuse.code(), Some(1));
    assert!(fuse.stderr().contains("only the eBPF engine can see it"), "{}", fuse.stderr());
    let neither = Recording::of(|out| {
        let mut command = Command::new(program("soci"));
        command.args(["record", "--address", "/nowhere.sock", "--out"]).arg(out).args(["--", "true"]);
        command
    });
    assert_eq!(neither.code(), Some(1));
    assert!(neither.stderr().contains("with --image IMAGE or --rootfs DIR"), "{}", neither.stderr());
    let both = try_it(&["--rootfs", &dir, "--image", "oci:x", "--", "true"]);
    assert!(both.code() != Some(0) && both.stderr().contains("cannot be used with"), "{}", both.stderr());
    let memory = try_it(&["--rootfs", "/dev/shm", "--", "true"]);
    assert!(memory.code() == Some(1) && memory.stderr().contains("on tmpfs"), "{}", memory.stderr());
}
