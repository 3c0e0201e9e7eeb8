//! Reports of hostile traces: names that would be markup, numbers at the end of their range.

use std::sync::Arc;

use proptest::prelude::*;
use soci_core::digest::Digest;
use soci_core::trace::{Access, AccessKind, End, Header, LayerRef, Outcome, Phase, Process, TraceWriter};

use super::{Report, page};

/// The report of a trace in which each of the names is everywhere.
fn report(names: &[Vec<u8>], numbers: u64) -> Report {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("t.trace");
    let text = |at: usize| String::from_utf8_lossy(&names[at % names.len()]).into_owned();
    let header = Header {
        image: text(0),
        manifest: Some(Digest::of(b"m")),
        layers: vec![LayerRef { digest: Digest::of(b"0"), size: numbers }],
        engine: text(1),
        argv: vec![text(0), text(1)],
        started_at: text(2),
        warm: None,
        waits: None,
        partial: false,
    };
    let mut writer = TraceWriter::create(&trace, &header).unwrap();
    for (at, name) in names.iter().enumerate() {
        let comm = name[..name.len().min(256)].into();
        writer
            .access(&Access {
                t_ns: if at == 0 { numbers } else { at as u64 },
                phase: [Phase::Start, Phase::Tail][at % 2],
                kind: AccessKind::Fault,
                path: [at.to_string().as_bytes(), name].concat().into(),
                layer: [Some(0), None][at % 2],
                offset: 0,
                len: numbers,
                process: Arc::new(Process { pid: at as u32, comm }),
                wait_ns: numbers,
            })
            .unwrap();
    }
    let (outcome, exit_code) = (Outcome::Exited, Some(i32::MIN));
    writer
        .finish(&End {
            dropped: numbers,
            outcome,
            ready_ns: Some(numbers),
            ended_ns: numbers / 2,
            exit_code,
            outside: None,
            links: std::collections::BTreeMap::new(),
        })
        .unwrap();
    Report::read(&trace, &[numbers]).unwrap()
}

/// What of a page is markup: all that stands between angle brackets.
fn tags(page: &str) -> Vec<&str> {
    page.split('<').skip(1).filter_map(|part| part.split('>').next()).collect()
}

#[test]
fn numbers_at_the_end_of_their_range_stay_there() {
    let names = vec![b"a".to_vec(); 4];
    for numbers in [0, 1, u64::MAX / 2, u64::MAX] {
        let report = report(&names, numbers);
        let sum = numbers.saturating_mul(4);
        assert_eq!((report.summary.bytes, report.waited_ns), (sum, Some(sum)));
        assert_eq!(report.timeline.cumulative_bytes.last(), Some(&sum));
        assert!(page(&report).ends_with("</html>"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn names_never_become_markup(
        names in prop::collection::vec(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300),
            "[<>&\"'/a-z= ]{0,60}".prop_map(String::into_bytes),
            Just(b"</title></style></script><script>alert(1)</script><!--".to_vec()),
        ], 3..50),
    ) {
        let tame: Vec<Vec<u8>> = names.iter().map(|_| b"x".to_vec()).collect();
        let (hostile, tame) = (page(&report(&names, 5000)), page(&report(&tame, 5000)));
        prop_assert_eq!(tags(&hostile), tags(&tame));
        prop_assert!(!hostile.chars().any(|c| c.is_control() && c != '\n'));
    }
}
