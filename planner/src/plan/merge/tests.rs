//! Merging by hand-made runs, and its laws: a run with itself is that run, the order of runs does not matter, and each
//! byte is there exactly when most runs need it.

use proptest::prelude::*;
use soci_core::trace::{AccessKind, Process};

use super::*;
use crate::plan::plan;

fn access(t_ns: u64, path: &str, offset: u64, len: u64) -> Access {
    Access {
        t_ns,
        phase: if t_ns == 0 { Phase::Setup } else { Phase::Start },
        kind: AccessKind::Read,
        path: Arc::from(path.as_bytes()),
        layer: Some(0),
        offset,
        len,
        process: Arc::new(Process { pid: 1, comm: Arc::from(&b"x"[..]) }),
        wait_ns: t_ns / 2,
    }
}

fn rows(accesses: &[Access]) -> Vec<(u64, String, u64, u64)> {
    let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    accesses.iter().map(|a| (a.t_ns, text(&a.path), a.offset, a.offset + a.len)).collect()
}

fn row(t_ns: u64, path: &str, start: u64, end: u64) -> (u64, String, u64, u64) {
    (t_ns, path.into(), start, end)
}

#[test]
fn most_runs_decide_and_the_middle_one_says_when() {
    let runs = [
        vec![access(0, "a", 0, 100), access(10, "b", 0, 50), access(90, "c", 0, 10)],
        vec![access(0, "a", 0, 60), access(30, "b", 0, 100)],
        vec![access(20, "b", 0, 100), access(5, "d", 0, 10), access(40, "b", 0, 100)],
    ];
    // 0..50 of b is needed at 10, 20, 30 and 50..100 at 20, 30: by the same access, so it is one piece.
    assert_eq!(rows(&merge(&runs, None)), [row(0, "a", 0, 60), row(20, "b", 0, 100)]);
    assert_eq!(
        rows(&merge(&runs[..2], None)),
        [row(0, "a", 0, 60), row(10, "b", 0, 50)],
        "of two runs, both"
    );
    assert!(merge(&[], None).is_empty());
}

#[test]
fn phases_are_those_of_the_result() {
    let run = vec![access(0, "a", 0, 1), access(10, "b", 0, 1), access(20, "c", 0, 1)];
    let phases: Vec<Phase> = merge(&[run], Some(10)).iter().map(|access| access.phase).collect();
    assert_eq!(phases, [Phase::Setup, Phase::Start, Phase::Tail]);
}

#[test]
fn the_end_is_the_worst_and_the_middle() {
    let end = |outcome, ready_ns, ended_ns, dropped| End {
        dropped,
        outcome,
        ready_ns,
        ended_ns,
        exit_code: None,
        outside: None,
        links: std::collections::BTreeMap::new(),
    };
    let ends = [
        end(Outcome::Ready, Some(5), 10, 1),
        end(Outcome::TimedOut, None, 99, 2),
        end(Outcome::Ready, Some(3), 20, 0),
    ];
    assert_eq!(merge_ends(&ends), Some(end(Outcome::TimedOut, Some(3), 20, 3)));
    assert_eq!(merge_ends(&ends[1..]).unwrap().ready_ns, None, "half is not most");
    assert_eq!(merge_ends(&ends[..1]), Some(ends[0].clone()));
    assert_eq!(merge_ends(&[]), None);
}

fn any_run() -> impl Strategy<Value = Vec<Access>> {
    let access = (0u64..20, 0usize..3, 0u64..40, 1u64..12)
        .prop_map(|(t, path, offset, len)| access(t * 1_000_000, ["a", "b", "c"][path], offset, len));
    prop::collection::vec(access, 0..15).prop_map(|mut run| {
        run.sort_by_key(|access| access.t_ns);
        run
    })
}

proptest! {
    #[test]
    fn a_run_merged_with_itself_is_its_needs(run in any_run(), times in 1usize..5) {
        let merged = merge(&vec![run.clone(); times], Some(u64::MAX));
        prop_assert_eq!(plan(&merged), plan(&run));
    }

    #[test]
    fn the_order_of_runs_does_not_matter(runs in prop::collection::vec(any_run(), 0..5), by in 0usize..5) {
        let mut other = runs.clone();
        other.reverse();
        if !other.is_empty() {
            let by = by % other.len();
            other.rotate_left(by);
        }
        prop_assert_eq!(merge(&runs, None), merge(&other, None));
    }

    #[test]
    fn a_byte_is_needed_when_most_runs_need_it_at_the_median_time(runs in prop::collection::vec(any_run(), 1..6)) {
        let first = |run: &[Access], path: &[u8], at: u64| {
            let covers = |a: &&Access| *a.path == *path && (a.offset..a.offset + a.len).contains(&at);
            run.iter().filter(covers).map(|a| a.t_ns).min()
        };
        let merged = merge(&runs, None);
        for path in [b"a", b"b", b"c"] {
            for at in 0..52 {
                let needs: Vec<u64> = runs.iter().filter_map(|run| first(run, path, at)).collect();
                let expected = if needs.len() * 2 > runs.len() { median(needs) } else { None };
                prop_assert_eq!(first(&merged, path, at), expected);
            }
        }
        let bytes: u64 = merged.iter().map(|a| a.len).sum();
        let again: u64 = merge(std::slice::from_ref(&merged), None).iter().map(|a| a.len).sum();
        prop_assert_eq!(bytes, again, "every byte once");
    }
}
