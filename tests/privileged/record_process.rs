//! The process that `soci record` and `soci run` make of a workload, held against what runc makes of one: its standard
//! streams, session, limits and control groups; what a terminal's Ctrl-C does to it; and its end when the recorder is
//! killed. Needs root, FUSE and eBPF.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use harness::daemon::program;
use harness::layout;
use harness::machine::processes_mentioning;
use harness::patience::eventually;
use harness::recording::{Recording, sealed};
use serde_json::json;
use soci_core::trace::Outcome;

/// An image with the program `do`, the same as a set-user-ID program, and a script without a first line.
fn home() -> &'static Path {
    static HOME: OnceLock<PathBuf> = OnceLock::new();
    HOME.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(module_path!().replace("::", "-"));
        let _ = fs::remove_dir_all(&dir); // of an earlier run
        let layer = dir.join("layer");
        let mode = |name: &str, mode: u32| {
            fs::set_permissions(layer.join(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        layout::compile_workload(&layer.join("bin/do"));
        mode("bin/do", 0o755);
        fs::copy(layer.join("bin/do"), layer.join("bin/other")).unwrap();
        mode("bin/other", 0o4755);
        // If a shell were asked, it would find this one and succeed.
        fs::copy(layer.join("bin/do"), layer.join("bin/sh")).unwrap();
        fs::write(layer.join("bin/script"), "say hello\n").unwrap();
        mode("bin/script", 0o755);
        layout::write(&dir.join("image"), &[layer], &json!({"Env": ["PATH=/bin"]}));
        dir
    })
}

fn command(out: &Path, flags: &[&str], words: &[&str]) -> Command {
    let mut command = Command::new(program("soci"));
    command.args(["record", "--image", &format!("oci:{}", home().join("image").display()), "--name", "t"]);
    command.arg("--state").arg(home().join("state")).arg("--out").arg(out).args(flags);
    command.stdin(Stdio::null()).arg("--").args(words);
    command
}

fn record(flags: &[&str], words: &[&str]) -> Recording {
    Recording::of(|out| command(out, flags, words))
}

#[test]
fn the_streams_are_those_of_the_workloads_user() {
    let words = ["do", "write", "/dev/stdout", "write", "/proc/self/fd/2", "show", "/dev/stdin"];
    for engine in ["ebpf", "fuse"] {
        for input in ["file", "pipe"] {
            let dir = tempfile::tempdir().unwrap();
            let mut command = command(dir.path(), &["--engine", engine, "--user", "1000:1001"], &words);
            let file = dir.path().join("input");
            fs::write(&file, "given").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
            let output = if input == "file" {
                command.stdin(fs::File::open(&file).unwrap()).output().unwrap()
            } else {
                let (reader, mut writer) = std::io::pipe().unwrap();
                writer.write_all(b"given").unwrap();
                drop(writer);
                command.stdin(reader).output().unwrap()
            };
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(0), "{engine}, {input}: {said}");
            assert_eq!(String::from_utf8_lossy(&output.stdout), "xgiven", "{engine}, {input}");
            assert!(said.contains('x'), "{said}");
            assert_eq!(fs::metadata(&file).unwrap().uid(), 0, "it is its owner's again");
        }
    }
}

#[test]
fn session_limits_and_groups_are_those_of_a_container() {
    let words = ["do", "session", "show", "/proc/self/limits", "show", "/proc/self/mountinfo"];
    for engine in ["ebpf", "fuse"] {
        let recording = record(&["--engine", engine], &words);
        let said = recording.stdout();
        assert_eq!(recording.code(), Some(0), "{}", recording.stderr());
        assert!(said.starts_with("session own\n"), "{said}");
        let files = said.lines().find(|line| line.starts_with("Max open files")).unwrap();
        assert_eq!(files.split_whitespace().nth(3), Some("1024"), "{files}");
        let groups: Vec<&str> = said.lines().filter(|line| line.contains(" /sys/fs/cgroup")).collect();
        assert!(!groups.is_empty(), "{said}");
        for line in groups {
            assert_eq!(line.split(' ').nth(5).map(|options| &options[..3]), Some("ro,"), "{line}");
        }
    }
    let write = record(&[], &["do", "write", "/sys/fs/cgroup/mine"]);
    assert!(
        write.code() == Some(5) && write.stderr().contains("Read-only file system"),
        "{}",
        write.stderr()
    );
}

#[test]
fn what_the_kernel_cannot_execute_is_given_to_no_shell() {
    let recording = record(&[], &["script"]);
    assert_eq!(recording.code(), Some(126), "{}", recording.stderr());
    assert!(recording.stderr().contains("exec format error"), "{}", recording.stderr());
}

/// A command on a terminal of its own: what it shows, and where to type.
struct Terminal {
    script: Child,
    shows: BufReader<std::process::ChildStdout>,
}

impl Terminal {
    fn of(command: &Command) -> Self {
        let words = [command.get_program()].into_iter().chain(command.get_args());
        let quoted = words.map(|word| format!("'{}'", word.to_str().unwrap()));
        let line = quoted.collect::<Vec<_>>().join(" ");
        let mut script = Command::new("script");
        // A shell that waits for it would be interrupted, too, and report that.
        script.args(["--quiet", "--return", "--command", &format!("exec {line}"), "/dev/null"]);
        let script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut script = script.expect("util-linux is installed");
        let shows = BufReader::new(script.stdout.take().unwrap());
        Self { script, shows }
    }

    fn wait_for(&mut self, text: &str) {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            assert!(self.shows.read_line(&mut line).unwrap() > 0, "it ended before {text}");
        }
    }

    fn types(&mut self, bytes: &[u8]) {
        self.script.stdin.as_mut().unwrap().write_all(bytes).unwrap();
    }

    /// What it showed to its end, and its exit code.
    fn rest(mut self) -> (String, Option<i32>) {
        let mut text = Vec::new();
        self.shows.read_to_end(&mut text).unwrap();
        (String::from_utf8_lossy(&text).into_owned(), self.script.wait().unwrap().code())
    }
}

const CTRL_C: &[u8] = &[3];

#[test]
fn a_terminals_interrupt_reaches_the_workload_once() {
    let dir = tempfile::tempdir().unwrap();
    let words = ["do", "count-int", "say", "up", "await", "/nothing"];
    let mut terminal = Terminal::of(&command(dir.path(), &[], &words));
    terminal.wait_for("up");
    terminal.types(CTRL_C);
    let (shown, code) = terminal.rest();
    assert_eq!((code, shown.matches("INT number").count()), (Some(130), 1), "{shown}");
    assert_eq!(sealed(&dir.path().join("t.trace")).unwrap().1.outcome, Outcome::Interrupted);

    // A command of the machine, likewise.
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(program("soci"));
    command.args(["record", "--name", "t", "--rootfs"]).arg(home().join("layer")).arg("--state");
    command.arg(home().join("state")).arg("--out").arg(dir.path()).arg("--");
    command.arg(home().join("layer/bin/do")).args(&words[1..]);
    let mut terminal = Terminal::of(&command);
    terminal.wait_for("up");
    terminal.types(CTRL_C);
    let (shown, code) = terminal.rest();
    assert_eq!((code, shown.matches("INT number").count()), (Some(130), 1), "{shown}");
}

#[test]
fn a_terminals_interrupt_can_be_the_moment_of_readiness() {
    let dir = tempfile::tempdir().unwrap();
    let words = ["do", "count-int", "say", "up", "await", "/nothing"];
    let mut terminal = Terminal::of(&command(dir.path(), &["--until", "signal+1s"], &words));
    terminal.wait_for("up");
    terminal.types(CTRL_C);
    let (shown, code) = terminal.rest();
    assert_eq!((code, shown.matches("INT number").count()), (Some(0), 0), "{shown}");
    let end = sealed(&dir.path().join("t.trace")).unwrap().1;
    assert_eq!((end.outcome, end.ended_ns - end.ready_ns.unwrap()), (Outcome::Ready, 1_000_000_000));
}

/// Groups of recordings, whether or not somebody is in them.
fn groups() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let root = table.lines().find(|line| line.contains(" - cgroup2 ")).unwrap().split(' ').nth(4).unwrap();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
    let entries = fs::read_dir(Path::new(root).join(own)).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("soci-record-")).collect()
}

#[test]
fn a_killed_recorder_leaves_no_workload_that_became_another_user() {
    for engine in ["ebpf", "fuse"] {
        let (dir, mark) = (tempfile::tempdir().unwrap(), format!("mark-set-uid-{engine}"));
        let words = ["other", "fork-sleep", "say", "up", "await", "/nothing", &mark];
        let mut command = command(dir.path(), &["--engine", engine, "--user", "7"], &words);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "up\n");
        let own = format!("soci-record-{}-", child.id());
        let group = || groups().into_iter().find(|path| path.to_string_lossy().contains(&own));
        assert_eq!(group().is_some(), engine == "ebpf");
        child.kill().unwrap();
        child.wait().unwrap();
        eventually("the workload ends", || processes_mentioning(&mark).is_empty());
        eventually("its group is removed", || group().is_none());
    }
}
