//! `soci record --runs`: what most of several real runs need, how much they agree, and the worst of their exit codes.
//!
//! A server of the test tells each run what to do, so that the runs differ as the test wants. Needs root and FUSE.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::sync::OnceLock;

use harness::recording::{Bench, Recording, pages};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use soci_core::trace::{Outcome, Phase};

fn bench() -> &'static Bench {
    static BENCH: OnceLock<Bench> = OnceLock::new();
    BENCH.get_or_init(|| {
        Bench::new(&Path::new(env!("CARGO_TARGET_TMPDIR")).join(module_path!().replace("::", "-")))
    })
}

/// A server that gives these answers, one to each connection; returns its port.
fn answers(answers: &'static [u8]) -> String {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for answer in answers {
            server.accept().unwrap().0.write_all(&[*answer]).unwrap();
        }
    });
    port.to_string()
}

fn paths(recording: &Recording) -> Vec<String> {
    serde_json::from_slice(&fs::read(recording.dir.path().join("t.prefetch.json")).unwrap()).unwrap()
}

#[test]
fn runs_that_are_alike_agree_and_their_merged_trace_is_theirs() {
    let words = [
        "read",
        "/data/a",
        "0",
        "9999",
        "read",
        "/data/big",
        "40960",
        "4096",
        "say",
        "READY",
        "sleep",
        "300",
        "read",
        "/data/b",
        "0",
        "9",
        "sleep",
        "100000",
    ];
    let recording = bench().record(&["--runs", "3", "--until", "log:READY+1s or 60s"], &words);
    let said = recording.stderr();
    assert_eq!(recording.code(), Some(0), "{said}");
    for part in
        ["run 1 of 3: ready after", "run 3 of 3: ready after", "3 runs", "100.0 %", "rank correlation 1.00"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    let (merged, end) = recording.trace("t.trace");
    assert_eq!(end.outcome, Outcome::Ready);
    let mut ready: Vec<u64> = Vec::new();
    for run in 1..=3 {
        let (accesses, end) = recording.trace(&format!("t.{run}.trace"));
        ready.extend(end.ready_ns);
        for path in ["data/a", "data/b", "data/big", "bin/do"] {
            assert_eq!(pages(&merged, path), pages(&accesses, path), "run {run}, {path}: each run is cold");
        }
    }
    ready.sort_unstable();
    assert_eq!(end.ready_ns, Some(ready[1]), "the median");
    let phase = |path: &[u8]| merged.iter().find(|access| &*access.path == path).map(|access| access.phase);
    assert_eq!((phase(b"data/a"), phase(b"data/b")), (Some(Phase::Start), Some(Phase::Tail)));
    assert_eq!(paths(&recording), ["/bin/do", "/data/a", "/data/big", "/data/b"]);
}

#[test]
fn what_most_runs_need_is_in_the_merged_trace_and_the_rest_is_not() {
    let port = answers(&[5, 6, 5]);
    let words =
        ["read", "/data/a", "0", "9", "ask", &port, "read-answer", "/data/big", "read", "/data/b", "0", "9"];
    let recording = bench().record(&["--runs", "3", "--json"], &words);
    let said = recording.stderr();
    assert_eq!(recording.code(), Some(0), "{said}");
    for (trace, page) in [("t.1.trace", 5), ("t.2.trace", 6), ("t.3.trace", 5), ("t.trace", 5)] {
        assert_eq!(pages(&recording.trace(trace).0, "data/big"), BTreeSet::from([page]), "{trace}");
    }
    let summary: Value = serde_json::from_str(&recording.stdout()).unwrap();
    let stability = &summary["stability"];
    let number = |name: &str| stability[name].as_f64().unwrap();
    assert_eq!((stability["runs"].as_u64(), stability["common_files"].as_u64()), (Some(3), Some(4)));
    let bytes = |name: &str| stability[name].as_u64().unwrap();
    let (common, all) = (bytes("common_bytes"), bytes("all_bytes"));
    assert_eq!(all - common, 2, "a byte of page 5 and one of page 6");
    assert_eq!(summary["bytes"].as_u64().unwrap(), common + 1);
    let expected = common as f64 / all as f64;
    assert!((number("overlap") - expected).abs() < 1e-9);
    assert!((number("worst_pair_overlap") - expected).abs() < 1e-9, "runs 1 and 2");
    assert!((number("worst_pair_order") - 1.0).abs() < 1e-9);
}

#[test]
fn the_worst_run_is_the_exit_code_and_all_are_merged() {
    let port = answers(&[0, 3, 0]);
    let recording =
        bench().record(&["--runs", "3"], &["ask", &port, "read", "/data/a", "0", "9", "exit-answer"]);
    assert_eq!(recording.code(), Some(5), "{}", recording.stderr());
    let end = recording.trace("t.trace").1;
    assert_eq!((end.outcome, end.exit_code), (Outcome::Exited, Some(3)));
    assert_eq!(paths(&recording), ["/bin/do", "/data/a"]);
}

#[test]
fn a_signal_stops_all_runs_and_nothing_is_merged() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("t.trace"), "of an earlier call").unwrap();
    let mut command =
        bench().command(dir.path(), &["--runs", "3", "--force"], &["say", "up", "sleep", "2000"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    for _ in 0..2 {
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "up\n");
    }
    kill_process(Pid::from_raw(child.id() as i32).unwrap(), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(String::from_utf8_lossy(&output.stderr).contains("run 2 of 3 was stopped"), "{output:?}");
    let there: Vec<bool> = ["t.1.trace", "t.2.trace", "t.3.trace", "t.trace", "t.prefetch.json"]
        .iter()
        .map(|name| dir.path().join(name).exists())
        .collect();
    assert_eq!(there, [true, true, false, false, false]);
}
