//! Containers that somebody else starts: by a command, through a real containerd, with its own snapshotter and with ours;
//! and those that run already, by name, process and cgroup. Needs root, containerd, runc and eBPF.
//!
//! A container of another life, of the same image, reads other pages all the while: none of them may be in a trace.

use std::fs;
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use harness::access::write;
use harness::container_lab::{ContainerLab, unique};
use harness::layout;
use harness::machine::processes_mentioning;
use harness::patience::eventually;
use harness::recording::{PAGE, Recording, pages, sealed};
use harness::soci::Soci;
use rustix::process::{Pid, Signal, kill_process};
use soci_core::trace::{Access, AccessKind, End, Header, Outcome, Phase, TraceReader};

const BIG_PAGES: u64 = 1000;
/// The page that the other container reads again and again.
const NOISE: u64 = 900;

/// A running noise beside an image of two layers: the program `do`, and files to read above it.
struct Lab {
    noise: String,
    lab: ContainerLab,
}

impl Lab {
    fn new(snapshotter: &'static str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let layers = ["low", "high"].map(|name| dir.path().join(name));
        layout::compile_workload(&layers[0].join("bin/do"));
        fs::set_permissions(layers[0].join("bin/do"), fs::Permissions::from_mode(0o755)).unwrap();
        let big: Vec<u8> = (0..BIG_PAGES * PAGE).map(|at| (at / 7 * 31 % 251) as u8).collect();
        write(&layers[1], "data/big", &big);
        let lab = ContainerLab::new(snapshotter, &layers, "/bin/do");
        let noise = unique("noise");
        let page = (NOISE * PAGE).to_string();
        let words: Vec<&str> =
            ["read", "/data/big", &page, "1", "sleep", "20"].into_iter().cycle().take(6 * 5000).collect();
        lab.ctr_run(&["-d"], &noise, &words);
        Self { noise, lab }
    }
}

impl Deref for Lab {
    type Target = ContainerLab;

    fn deref(&self) -> &ContainerLab {
        &self.lab
    }
}

fn header(trace: &Path) -> Header {
    TraceReader::open(trace).unwrap().header().clone()
}

fn trace(recording: &Recording, code: i32) -> (Vec<Access>, End) {
    assert_eq!(recording.code(), Some(code), "{}\n{}", recording.stderr(), recording.stdout());
    recording.trace("t.trace")
}

fn read(page: u64) -> [String; 4] {
    ["read".into(), "/data/big".into(), (page * PAGE).to_string(), "1".into()]
}

fn words(parts: &[&[String]]) -> Vec<String> {
    parts.concat()
}

fn text(parts: &[&str]) -> Vec<String> {
    parts.iter().map(|part| (*part).to_owned()).collect()
}

fn phases(accesses: &[Access], path: &str) -> Vec<(Phase, AccessKind)> {
    let of_file = accesses.iter().filter(|access| &*access.path == path.as_bytes());
    of_file.map(|access| (access.phase, access.kind)).collect()
}

/// What every recording of a new container shows.
fn a_new_container_is_recorded(snapshotter: &'static str) {
    let lab = Lab::new(snapshotter);
    let id = unique("new");
    let (first, second) = (read(10), read(20));
    let (up, rest) =
        (text(&["sleep", "300", "say", "UP", "sleep", "300"]), text(&["sleep", "300", "exit", "0"]));
    let all = words(&[&first, &up, &second, &rest]);
    let flags = ["--until", "log:^UP", "--until", "ready+60s", "--until", "exit"];
    let recording = lab.record(&flags, &lab.run_words(&["--rm"], &id, &all));
    let (accesses, end) = trace(&recording, 0);
    assert_eq!(
        pages(&accesses, "data/big").into_iter().collect::<Vec<_>>(),
        [10, 20],
        "{}",
        recording.stderr()
    );
    assert_eq!((end.outcome, end.dropped), (Outcome::Ready, 0));
    let header = header(&recording.dir.path().join("t.trace"));
    assert_eq!(
        (header.image.as_str(), header.manifest),
        (lab.image.reference.as_str(), Some(lab.image.manifest))
    );
    assert_eq!(header.layers.iter().map(|layer| layer.digest).collect::<Vec<_>>(), lab.image.layers);
    assert_eq!(
        (header.engine.as_str(), header.argv[0].as_str(), header.warm),
        ("ebpf-exact", "/bin/do", None)
    );
    let big = phases(&accesses, "data/big");
    let (start, tail) = (Phase::Start, Phase::Tail);
    assert_eq!(big, [(start, AccessKind::Open), (start, AccessKind::Read), (tail, AccessKind::Read)]);
    let program = phases(&accesses, "bin/do");
    assert_eq!(
        program[0],
        (Phase::Setup, AccessKind::Read),
        "the kernel looks at the program before it runs"
    );
    assert!(program.contains(&(Phase::Start, AccessKind::Exec)), "{program:?}");
    assert!(accesses.iter().all(|a| (a.layer == Some(0)) == (&*a.path == b"bin/do")), "{accesses:?}");
    assert!(recording.stdout().contains("UP"));
    assert!(!lab.containerd.ctr_ok(&["containers", "ls", "-q"]).contains(&id), "--rm has removed it");
}

#[test]
fn a_container_of_containerds_own_snapshotter_is_recorded_from_its_first_exec() {
    a_new_container_is_recorded("overlayfs");
}

#[test]
fn a_container_of_our_snapshotter_is_recorded_too() {
    a_new_container_is_recorded("soci");
}

#[test]
fn a_detached_container_counts_and_not_the_command_that_started_it() {
    let lab = Lab::new("overlayfs");
    let id = unique("detached");
    let (wait, page) = (text(&["sleep", "800"]), read(30));
    let all = words(&[&wait, &page, &["exit".into(), "7".into()]]);
    let recording = lab.record(&[], &lab.run_words(&["-d"], &id, &all));
    let (accesses, end) = trace(&recording, 5);
    assert_eq!((pages(&accesses, "data/big").len(), end.exit_code), (1, Some(7)), "{}", recording.stderr());

    // One that goes on is left alone, unless the user wants it stopped.
    for (flags, goes_on) in
        [(&["--until", "time:0.2"][..], true), (&["--until", "time:0.2", "--stop"], false)]
    {
        let id = unique("lasting");
        let recording = lab.record(flags, &lab.run_words(&["-d"], &id, &["sleep", "100000"]));
        assert_eq!(trace(&recording, 0).1.ready_ns, Some(200_000_000));
        let runs = lab
            .containerd
            .ctr_ok(&["tasks", "ls"])
            .lines()
            .any(|line| line.starts_with(&id) && line.contains("RUNNING"));
        assert_eq!(runs, goes_on);
        assert_eq!(recording.stderr().contains("still runs"), goes_on, "{}", recording.stderr());
    }
}

#[test]
fn of_several_containers_the_one_that_is_meant_is_recorded() {
    let lab = Lab::new("overlayfs");
    let both = |first: &str, second: &str| {
        let label = "io.cri-containerd.kind=sandbox";
        let (one, two) = (read(40), read(50));
        let pause =
            lab.run_words(&["-d", "--label", label], first, &words(&[&one, &text(&["sleep", "100000"])]));
        let app = lab.run_words(&["-d"], second, &words(&[&two, &text(&["sleep", "500"])]));
        let quoted =
            |words: &[String]| words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
        text(&["sh", "-c", &format!("{} && {}", quoted(&pause), quoted(&app))])
    };
    let (pause, app) = (unique("pause"), unique("app"));
    let recording = lab.record(&[], &both(&pause, &app));
    let (accesses, _) = trace(&recording, 0);
    assert_eq!(pages(&accesses, "data/big").into_iter().collect::<Vec<_>>(), [50], "not the sandbox");
    assert!(recording.stderr().contains(&format!("not in it:   sandbox {pause}")), "{}", recording.stderr());

    let (pause, app) = (unique("pause"), unique("app"));
    let recording = lab.record(&["--container", &pause, "--until", "time:2"], &both(&pause, &app));
    let (accesses, _) = trace(&recording, 0);
    assert_eq!(pages(&accesses, "data/big").into_iter().collect::<Vec<_>>(), [40]);

    let none = lab.record(
        &["--container-image", "other:1"],
        &lab.run_words(&["--rm"], &unique("none"), &["exit", "0"]),
    );
    assert_eq!(none.code(), Some(1));
    assert!(none.stderr().contains("no container that is meant; there was"), "{}", none.stderr());
    let nothing = lab.record(&[], &text(&["sh", "-c", "exit 3"]));
    assert_eq!(nothing.code(), Some(1));
    assert!(nothing.stderr().contains("ended with code 3"), "{}", nothing.stderr());
}

#[test]
fn end_rules_look_into_the_containers_namespaces() {
    let lab = Lab::new("overlayfs");
    for rule in ["tcp:7", "exec:/bin/do need /sync/there"] {
        let id = unique("rule");
        let there = ["sleep", "300", "listen", "7", "write", "/sync/there", "sleep", "100000"];
        let recording = lab.record(&["--until", rule, "--stop"], &lab.run_words(&["--rm"], &id, &there));
        let (_, end) = trace(&recording, 0);
        assert!(end.outcome == Outcome::Ready && end.ready_ns > Some(250_000_000), "{rule}: {end:?}");
        fs::remove_file(lab.sync.join("there")).unwrap();
    }
    let refused = lab.record(&["--until", "notify"], &text(&["true"]));
    assert!(refused.stderr().contains("use log:, tcp:, http: or exec:"), "{}", refused.stderr());
    let foreign = lab.record(&["--env", "A=b"], &text(&["true"]));
    assert!(foreign.stderr().contains("--env is for a workload that is run here"), "{}", foreign.stderr());
}

/// A cgroup of the unified hierarchy that goes with the test.
struct Group(PathBuf);

impl Group {
    fn new() -> Self {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = table
            .lines()
            .find(|line| line.contains(" - cgroup2 "))
            .expect("the unified hierarchy is mounted");
        let group = Self(PathBuf::from(line.split(' ').nth(4).unwrap()).join(unique("group")));
        fs::create_dir(&group.0).unwrap();
        group
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        eventually("the cgroup is empty", || fs::remove_dir(&self.0).is_ok());
    }
}

/// The directory of the cgroup that the runtime has made for a container: of version 1, where that is in use.
fn runtime_cgroup(pid: u32, id: &str) -> PathBuf {
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path =
        cgroups.lines().find(|line| line.contains(id)).and_then(|line| line.rsplit(':').next()).unwrap();
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let places =
        table.lines().filter(|line| line.contains(" - cgroup")).filter_map(|line| line.split(' ').nth(4));
    let mut dirs = places.map(|place| Path::new(place).join(path.trim_start_matches('/')));
    let holds = |dir: &PathBuf| {
        fs::read_to_string(dir.join("cgroup.procs")).is_ok_and(|procs| procs.contains(&pid.to_string()))
    };
    dirs.find(holds).expect("the cgroup is mounted somewhere")
}

/// What was read before somebody attached is missing: a plan of it must be wanted.
fn warm_traces_are_no_plans_by_themselves(lab: &Lab, trace: &Path) {
    let soci = Soci::with_containerd(&lab.containerd.socket());
    let create = |flags: &[&str]| {
        let words = ["-n", "k8s.io", "create", &lab.image.reference, "--min-layer-size", "0", "--trace"];
        soci.run([&words[..], &[trace.to_str().unwrap()], flags].concat())
    };
    let refused = create(&[]).failed();
    assert!(refused.contains("the page cache was warm"), "{refused}");
    let made = create(&["--allow-incomplete"]).ok();
    assert!(made.contains("Created prefetch artifact"), "{made}");
}

#[test]
fn a_running_container_is_recorded_by_name_process_and_cgroup() {
    let lab = Lab::new("overlayfs");
    for way in ["id", "pid", "cgroup", "runtime's cgroup"] {
        let (id, group) = (unique("running"), Group::new());
        let go = format!("/sync/go-{id}");
        let (before, wait, after) = (read(60), text(&["await", &go]), read(70));
        lab.ctr_run(&["-d"], &id, &words(&[&before, &wait, &after, &text(&["exit", "0"])]));
        let pid = lab.pid(&id);
        let what = match way {
            "id" => id.clone(),
            "pid" => pid.to_string(),
            "runtime's cgroup" => runtime_cgroup(pid, &id).display().to_string(),
            _ => {
                fs::write(group.0.join("cgroup.procs"), pid.to_string()).unwrap();
                group.0.display().to_string()
            }
        };
        let (dir, child) = lab.attach(&what, &[]);
        lab.go(&format!("go-{id}"));
        let output: Output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{way}: {stderr}");
        let (accesses, end) = sealed(&dir.path().join("t.trace")).unwrap();
        assert_eq!(pages(&accesses, "data/big").into_iter().collect::<Vec<_>>(), [70], "{way}: {stderr}");
        assert_eq!((end.outcome, end.exit_code), (Outcome::Exited, Some(0)), "{way}");
        assert_eq!(header(&dir.path().join("t.trace")).warm, Some(true));
        assert!(accesses.iter().all(|access| access.phase == Phase::Start));
        lab.remove(&id);
        if way == "id" {
            warm_traces_are_no_plans_by_themselves(&lab, &dir.path().join("t.trace"));
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let refused = |words: &[&str]| {
        let output = lab.command(dir.path(), words).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let noise = &*lab.noise;
    assert!(refused(&["--attach", noise, "--until", "log:x"]).contains("goes elsewhere"));
    assert!(refused(&["--attach", "nothing"]).contains("0 running containers have the name"));
    let own = std::process::id().to_string();
    assert!(refused(&["--attach", &own]).contains("is not in a running container"));
}

#[test]
fn what_is_executed_in_a_container_counts_as_its_own() {
    let lab = Lab::new("overlayfs");
    let id = unique("exec");
    lab.ctr_run(&["-d"], &id, &["await", "/sync/over", "exit", "0"]);
    let (dir, child) = lab.attach(&id, &[]);
    let page = (80 * PAGE).to_string();
    lab.containerd.ctr_ok(&[
        "tasks",
        "exec",
        "--exec-id",
        "later",
        &id,
        "/bin/do",
        "read",
        "/data/big",
        &page,
        "1",
    ]);
    lab.go("over");
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let (accesses, _) = sealed(&dir.path().join("t.trace")).unwrap();
    assert_eq!(pages(&accesses, "data/big").into_iter().collect::<Vec<_>>(), [80], "{stderr}");
}

#[test]
fn a_killed_recording_leaves_nothing_but_a_readable_trace() {
    let lab = Lab::new("overlayfs");
    let (id, dir) = (unique("killed"), tempfile::tempdir().unwrap());
    let page = read(90);
    let mut command = lab.command(dir.path(), &[]);
    command.arg("--").args(lab.run_words(&[], &id, &words(&[&page, &text(&["sleep", "100000"])])));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let path = dir.path().join("t.trace.partial");
    let seen = || {
        let Ok(reader) = TraceReader::open(&path) else { return false };
        pages(&reader.map_while(Result::ok).collect::<Vec<_>>(), "data/big").contains(&90)
    };
    eventually("the access is written", seen);
    // The kernel keeps a program for as long as somebody holds it.
    let holders = processes_mentioning(&id).into_iter().filter(|(pid, _)| {
        let held = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        held.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|link| link.to_string_lossy().contains("bpf"))
    });
    assert_eq!(holders.map(|(pid, _)| pid).collect::<Vec<_>>(), [child.id()]);
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("the command dies with the recording", || {
        processes_mentioning(&id).iter().all(|(_, line)| !line.starts_with("ctr "))
    });
    assert!(seen(), "the trace is readable");
    assert!(sealed(&path).is_none(), "and says that it has no end");
    assert!(lab.pid(&id) > 0, "the container is not ours");
}

#[test]
fn an_image_of_containerds_is_found_there_and_not_asked_of_its_registry() {
    let lab = Lab::new("overlayfs");
    lab.registry.forget_requests();
    let recording = Recording::of(|out| {
        let mut command = lab.command(out, &["--engine", "fuse", "--namespace", "k8s.io"]);
        command.arg("--state").arg(out.join("state")).args(["--image", &lab.image.reference]);
        command.args(["--", "/bin/do", "read", "/data/big", "0", "1"]);
        command
    });
    let (accesses, _) = trace(&recording, 0);
    assert_eq!(pages(&accesses, "data/big").into_iter().collect::<Vec<_>>(), [0]);
    assert_eq!(lab.registry.requests(), [], "everything is in containerd");
}

/// Reads of the backlog: more than any batch of the recorder's.
const BACKLOG: usize = 50_000;

#[test]
fn a_recorder_that_was_late_has_all_of_the_backlog_or_says_what_is_lost() {
    let lab = Lab::new("overlayfs");
    let (id, dir) = (unique("late"), tempfile::tempdir().unwrap());
    let count = BACKLOG.to_string();
    let words = ["await", "/sync/late", "many", "/data/big", &count, "write", "/sync/read"];
    let mut command = lab.command(dir.path(), &["--engine", "ebpf", "--exact"]);
    command.arg("--").args(lab.run_words(&["--rm"], &id, &words));
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let trace = dir.path().join("t.trace");
    eventually("the recording begins", || dir.path().join("t.trace.partial").exists());
    let signal = |signal| kill_process(Pid::from_raw(child.id() as i32).unwrap(), signal).unwrap();
    signal(Signal::STOP);
    lab.go("late");
    eventually("the workload has read", || lab.sync.join("read").exists());
    signal(Signal::CONT);
    let output = child.wait_with_output().unwrap();
    let (accesses, end) = sealed(&trace).unwrap();
    let of_big = accesses.iter().filter(|access| &*access.path == b"data/big" && access.len == 1).count();
    let said = String::from_utf8_lossy(&output.stderr);
    match end.dropped {
        0 => assert_eq!((of_big, output.status.code()), (BACKLOG, Some(0)), "{said}"),
        lost => assert!(of_big as u64 + lost >= BACKLOG as u64 && output.status.code() == Some(3), "{said}"),
    }
}
