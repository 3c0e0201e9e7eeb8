//! Plans against hand-made traces.

use soci_core::trace::{AccessKind, Phase, Process};

use super::*;

fn access(t_ms: u64, path: &str, offset: u64, len: u64) -> Access {
    Access {
        t_ns: t_ms * 1_000_000,
        phase: Phase::Start,
        kind: AccessKind::Read,
        path: Arc::from(path.as_bytes()),
        layer: Some(0),
        offset,
        len,
        process: Arc::new(Process { pid: 1, comm: Arc::from(&b"x"[..]) }),
        wait_ns: 0,
    }
}

fn planned(accesses: &[Access]) -> Vec<(String, u64, u64, u64)> {
    let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    let items = plan(accesses).items.into_iter();
    items.map(|i| (text(&i.path), i.range.start, i.range.end, i.first_need_ns / 1_000_000)).collect()
}

fn owned((path, start, end, t): (&str, u64, u64, u64)) -> (String, u64, u64, u64) {
    (path.to_owned(), start, end, t)
}

#[test]
fn pages_of_one_need_become_one_range_in_order_of_first_need() {
    let trace = [
        access(5, "b", 0, 4096),
        access(1, "a", 4096, 4096),
        access(2, "a", 8192, 4096),
        access(3, "a", 4096, 4096),
        access(4, "a", 0, 4096),
        access(40, "a", 12288, 100),
    ];
    let expected = [("a", 4096, 12288, 1), ("a", 0, 4096, 4), ("b", 0, 4096, 5), ("a", 12288, 16384, 40)];
    assert_eq!(planned(&trace), expected.map(owned));
    let order: Vec<_> = first_use(&trace).iter().map(|path| path.to_vec()).collect();
    assert_eq!(order, [b"a".to_vec(), b"b".to_vec()]);
}

#[test]
fn pages_mapped_beside_a_fault_come_behind_the_needs_of_their_part_of_the_run() {
    let kind = |kind, access: Access| Access { kind, ..access };
    let tail = |access: Access| Access { phase: Phase::Tail, ..access };
    let trace = [
        kind(AccessKind::Fault, access(1, "lib", 4096, 4096)),
        kind(AccessKind::Map, access(2, "lib", 0, 16384)),
        kind(AccessKind::Fault, access(30, "lib", 8192, 4096)),
        tail(access(60, "late", 0, 4096)),
    ];
    let expected = [
        ("lib", 4096, 8192, 1),
        ("lib", 8192, 12288, 30),
        ("lib", 0, 4096, 2),
        ("lib", 12288, 16384, 2),
        ("late", 0, 4096, 60),
    ];
    assert_eq!(plan(&trace).asked, 2, "what was asked for before the workload was ready");
    assert_eq!(plan(&trace).must_have, 4, "and what was mapped along");
    assert_eq!(planned(&trace), expected.map(owned));
}

#[test]
fn only_pages_not_seen_before_are_planned() {
    let trace = [
        access(1, "a", 5000, 100),
        access(50, "a", 0, 9000),
        access(60, "a", 4095, 2),
        access(70, "b", 5, 0),
    ];
    let expected = [("a", 4096, 8192, 1), ("a", 0, 4096, 50), ("a", 8192, 12288, 50)];
    assert_eq!(planned(&trace), expected.map(owned));
    assert!(plan(&[]).items.is_empty());
}

#[test]
fn a_file_that_is_read_for_long_keeps_nobody_waiting() {
    // One file is read in small steps for 1.6 s; another one is needed at 0.3 s.
    let long = (0..400).map(|step| access(step * 4, "big", step * 65536, 65536));
    let mut trace: Vec<_> = long.collect();
    trace.push(access(300, "small", 0, 4096));
    let items = planned(&trace);
    let at = items.iter().position(|item| item.0 == "small").unwrap();
    let before: u64 = items[..at].iter().map(|item| item.2 - item.1).sum();
    assert!(before <= (310 / 4 + 1) * 65536, "{before} bytes come before what is needed at 0.3 s");
    assert!(items.is_sorted_by_key(|item| item.3));
    let all: u64 = items.iter().map(|item| item.2 - item.1).sum();
    assert_eq!(all, 400 * 65536 + 4096);
}
