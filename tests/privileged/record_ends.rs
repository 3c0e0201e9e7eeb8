//! The ends of a recording: commands inside, notifications, and rules joined with tails of their own.
//!
//! The workload is a program that does what its arguments say. Needs root and FUSE.

use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use harness::machine::processes_mentioning;
use harness::recording::{Bench, phase};
use soci_core::trace::{Outcome, Phase};

/// A time that a workload waits between its steps: long enough to be told apart on a busy machine.
const STEP: &str = "600";
/// A workload that reads page 0, does a step, reads page 1, says so and goes on for ever.
fn around<'a>(middle: &[&'a str]) -> Vec<&'a str> {
    let before = ["read", "/data/big", "0", "1", "sleep", STEP];
    let after = ["sleep", STEP, "read", "/data/big", "4096", "1", "say", "DONE", "sleep", "100000"];
    [&before[..], middle, &after].concat()
}
/// The end behind a rule that tells readiness: when page 1 has been read, however long that takes.
const DONE: &str = "log:^DONE+0s or ready+300s";

fn bench() -> &'static Bench {
    static BENCH: OnceLock<Bench> = OnceLock::new();
    BENCH.get_or_init(|| {
        Bench::new(&Path::new(env!("CARGO_TARGET_TMPDIR")).join(module_path!().replace("::", "-")))
    })
}

#[test]
fn a_command_inside_the_workload_tells_readiness() {
    // The file is one that the workload writes, so that the command must see the workload's own root.
    let flags = ["--until", "exec:do need made", "--until", DONE];
    let recording = bench().record(&flags, &around(&["write", "/data/made"]));
    assert_eq!(recording.code(), Some(0), "{}", recording.stderr());
    let (accesses, end) = recording.trace("t.trace");
    assert_eq!((end.outcome, end.exit_code), (Outcome::Ready, None));
    assert_eq!((phase(&accesses, 0), phase(&accesses, 1)), (Some(Phase::Start), Some(Phase::Tail)));

    // It is the workload's user, who may not write there, and its network.
    let user = |rule: &str, timeout: &str| {
        let flags = ["--until", rule, "--user", "7:8", "--timeout", timeout];
        bench().record(&flags, &["sleep", "100000"]).code()
    };
    assert_eq!(user("exec:do need /data/big", "120"), Some(0));
    assert_eq!(user("exec:do write /data/mine", "10"), Some(4));
    let inside = bench().record(
        &["--until", "exec:do sleep 500 listen 9", "--net", "none", "--timeout", "20"],
        &["listen", "7", "sleep", "100000"],
    );
    assert_eq!(inside.code(), Some(0), "{}", inside.stderr());
    let taken = bench().record(
        &["--until", "exec:do sleep 500 listen 7", "--net", "none", "--timeout", "2"],
        &["listen", "7", "sleep", "100000"],
    );
    assert_eq!(taken.code(), Some(4), "the port is the workload's: {}", taken.stderr());
}

#[test]
fn commands_end_with_the_recording_and_their_absence_is_said() {
    let mark = "mark-exec-sleeps";
    let rule = format!("exec:do sleep 100000 {mark} or 1s");
    let begin = Instant::now();
    let recording = bench().record(&["--until", &rule], &["sleep", "100000"]);
    assert_eq!(recording.code(), Some(0), "{}", recording.stderr());
    assert!(begin.elapsed() < Duration::from_mins(1), "nothing waits for the command");
    assert!(processes_mentioning(mark).is_empty());

    let early = format!("exec:do sleep 100000 {mark}");
    let recording = bench().record(&["--until", &early], &["sleep", STEP]);
    assert_eq!(recording.code(), Some(4), "the workload's end ends the command: {}", recording.stderr());
    assert_eq!(recording.trace("t.trace").1.outcome, Outcome::Exited);

    let missing = bench().record(&["--until", "exec:nothing here or 1s"], &["sleep", "100000"]);
    assert_eq!(missing.code(), Some(0));
    assert!(missing.stderr().contains("nothing: no such program"), "{}", missing.stderr());
}

#[test]
fn a_notification_tells_readiness() {
    for flags in [&["--until", "notify"][..], &["--until", "notify", "--user", "7"]] {
        let flags = [flags, &["--until", DONE]].concat();
        let recording = bench().record(&flags, &around(&["notify", "STATUS=soon", "notify", "A=1\nREADY=1"]));
        assert_eq!(recording.code(), Some(0), "{}", recording.stderr());
        let (accesses, end) = recording.trace("t.trace");
        assert_eq!(end.outcome, Outcome::Ready);
        assert_eq!((phase(&accesses, 0), phase(&accesses, 1)), (Some(Phase::Start), Some(Phase::Tail)));
        assert!(end.ready_ns.unwrap() >= 600_000_000);
    }
    let quiet = bench().record(&["--until", "notify"], &["notify", "STATUS=READY=1", "exit", "0"]);
    assert_eq!(quiet.code(), Some(4), "{}", quiet.stderr());
    // More messages than a socket's queue holds: a workload that talks on is not stopped by it.
    let mut words = vec!["notify", "READY=1"];
    words.extend([["notify", "WATCHDOG=1"]; 300].concat());
    let talking = bench().record(&["--until", "notify+60s or exit"], &[&words[..], &["exit", "0"]].concat());
    assert_eq!(talking.code(), Some(0), "{}", talking.stderr());
    assert_eq!(talking.trace("t.trace").1.exit_code, Some(0));
}

#[test]
fn rules_joined_by_or_end_at_the_earliest_tail_or_limit() {
    let words = around(&["say", "READY to go"]);
    let recording = bench().record(&["--until", "log:^READY+2s or 300s"], &words);
    let (accesses, end) = recording.trace("t.trace");
    assert_eq!((recording.code(), end.outcome), (Some(0), Outcome::Ready));
    assert_eq!(phase(&accesses, 0), Some(Phase::Start));
    assert_eq!(end.ended_ns - end.ready_ns.unwrap(), 2_000_000_000);

    let limited = bench().record(&["--until", "log:^NEVER+60s or 1s"], &words);
    let (accesses, end) = limited.trace("t.trace");
    assert_eq!((end.ready_ns, end.ended_ns), (Some(1_000_000_000), 1_000_000_000));
    assert_eq!((phase(&accesses, 0), phase(&accesses, 1)), (Some(Phase::Start), None));

    // The rule of the first flag tells, the second flag ends.
    let ready = bench().record(&["--until", "log:^READY", "--until", "ready+2s or 300s"], &words);
    let end = ready.trace("t.trace").1;
    assert_eq!(end.ended_ns - end.ready_ns.unwrap(), 2_000_000_000, "{}", ready.stderr());
    let done = bench().record(&["--until", "log:^READY", "--until", DONE], &words);
    let accesses = done.trace("t.trace").0;
    assert_eq!((phase(&accesses, 0), phase(&accesses, 1)), (Some(Phase::Start), Some(Phase::Tail)));

    for (rule, hint) in [("log:cat or dog", "or\\ "), ("ready+5s", "log:REGEX"), ("tcp:80+5", "unit")] {
        let refused = bench().record(&["--until", rule], &words);
        assert_ne!(refused.code(), Some(0));
        assert!(refused.stderr().contains(hint), "{rule}: {}", refused.stderr());
    }
}
