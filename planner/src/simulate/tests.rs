//! A made-up image and workload: what the model must say of them, whatever its parameters.

use std::sync::Arc;

use proptest::prelude::*;
use soci_core::index::{LayerAnatomy, Mark};
use soci_core::prefetch::LayerFile;
use soci_core::tar::EntryKind;
use soci_core::trace::{Access, AccessKind, End, Header, Outcome as Ended, Phase, Process, Tail};
use soci_core::units::ByteRange;

use super::*;
use crate::profile::{Profile, Threshold};

const MIB: u64 = 1 << 20;

/// A layer of files of 1 MiB that compress to a half.
fn layer(name: &str, files: u64) -> LayerAnatomy {
    let plain = files * MIB;
    let file = |at: u64| LayerFile {
        name: format!("{name}/{at}").into(),
        kind: EntryKind::Reg,
        content: ByteRange::new(at * MIB, (at + 1) * MIB),
        link: bytes::Bytes::new(),
        device: (0, 0),
    };
    let marks = (0..=plain / 65_536).map(|at| Mark { plain: at * 65_536, compressed: at * 32_768 });
    LayerAnatomy {
        compressed: plain / 2,
        plain,
        in_parts: true,
        marks: marks.collect(),
        files: (0..files).map(file).collect(),
    }
}

/// A workload that reads `reads` files, the first `bytes` of each, one each 10 ms, of an image of two layers of 40 MiB.
fn case(reads: u64, bytes: u64) -> Case {
    let header = Header {
        image: "registry/app:1".to_owned(),
        manifest: None,
        layers: Vec::new(),
        engine: "fuse".to_owned(),
        argv: Vec::new(),
        started_at: "2026-12-01T00:00:00Z".to_owned(),
        warm: None,
        waits: None,
        partial: false,
    };
    let access = |at: u64| Access {
        t_ns: (at + 1) * 10_000_000,
        phase: Phase::Start,
        kind: AccessKind::Read,
        path: Arc::from(format!("{}/{}", ["low", "high"][at as usize % 2], at / 2 * 7 % 40).into_bytes()),
        layer: None,
        offset: 0,
        len: bytes,
        process: Arc::new(Process { pid: 1, comm: Arc::from(&b"x"[..]) }),
        wait_ns: 0,
    };
    let tail = Tail::Sealed(End {
        dropped: 0,
        outcome: Ended::Ready,
        ready_ns: Some((reads + 1) * 10_000_000),
        ended_ns: (reads + 2) * 10_000_000,
        exit_code: None,
        outside: None,
        links: std::collections::BTreeMap::default(),
    });
    let accesses: Vec<Access> = (0..reads).map(access).collect();
    let profile = Profile::of_run("", &header, Some(&tail), &accesses);
    Case::new(vec![layer("low", 40), layer("high", 40)], &profile, Threshold::default(), None).unwrap()
}

fn ready(case: &Case, mode: Mode, link: Link) -> f64 {
    predict(case, mode, link, &Node::default(), &Layout::default()).ready
}

#[test]
fn a_sparse_workload_is_best_served_by_a_pack_and_a_dense_one_does_not_gain_from_spans() {
    let sparse = case(20, 64 << 10);
    assert_eq!((sparse.compressed(), sparse.needed()), (40 * MIB, 20 << 16));
    let link = Link::new(5.0, 100.0);
    let rows = table(&sparse, &Mode::ALL, &[link], &Node::default(), &Layout::default());
    let times: Vec<f64> = [Mode::Bound, Mode::Pack, Mode::Prefetch, Mode::Lazy]
        .map(|mode| rows[0].of(mode).unwrap().ready)
        .into();
    assert!(times.is_sorted(), "{times:?}");
    assert_eq!(rows[0].best().unwrap().0, Mode::Pack);
    assert!(!Advice::of(&sparse, Mode::Pack, &Node::default(), &Layout::default()).is_whole());
    // All of it, byte for byte, over a span each that costs a round trip: a pull of all of it is better.
    let dense = case(80, MIB);
    assert!(ready(&dense, Mode::Full, link) < ready(&dense, Mode::Lazy, link));
}

#[test]
fn what_is_read_is_counted() {
    let case = case(4, 4096);
    let link = Link::new(5.0, 100.0);
    let of = |mode| predict(&case, mode, link, &Node::default(), &Layout::default());
    let (full, pack, lazy) = (of(Mode::Full), of(Mode::Pack), of(Mode::Lazy));
    assert!((full.bytes - (40 * MIB) as f64).abs() < 100.0, "{full:?}");
    // The two zTOCs, and a span of 4 MiB for each file.
    assert_eq!(lazy.requests, 2 + 4);
    assert!(pack.bytes < 200e3 && pack.requests == 3, "{pack:?}");
    assert!(pack.begin < lazy.begin && lazy.begin < full.begin);
}

#[test]
fn a_case_needs_a_recording_that_became_ready_and_its_image() {
    let header = |started: &str| Header {
        image: String::new(),
        manifest: None,
        layers: Vec::new(),
        engine: "fuse".to_owned(),
        argv: Vec::new(),
        started_at: started.to_owned(),
        warm: None,
        waits: None,
        partial: false,
    };
    let torn = Profile::of_run("", &header("2026-12-01T00:00:00Z"), None, &[]);
    let of = |profile| Case::new(vec![layer("low", 1)], profile, Threshold::default(), None).map(|_| ());
    assert_eq!(of(&torn), Err(CaseError::NeverReady));
    let end = End {
        dropped: 0,
        outcome: Ended::Ready,
        ready_ns: Some(1),
        ended_ns: 2,
        exit_code: None,
        outside: None,
        links: std::collections::BTreeMap::default(),
    };
    let nothing = Profile::of_run("", &header("2026-12-01T00:00:00Z"), Some(&Tail::Sealed(end)), &[]);
    assert_eq!(of(&nothing), Err(CaseError::OtherImage));
}

#[test]
fn a_drawing_has_a_bar_for_each_start() {
    let rows = table(
        &case(4, 4096),
        &[Mode::Full, Mode::Pack],
        &[Link::new(1.0, 10.0)],
        &Node::default(),
        &Layout::default(),
    );
    let drawing = chart(&rows);
    assert!(drawing.contains("1ms/10Mbit") && drawing.matches("<rect").count() == 2, "{drawing}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Nothing is faster than the bound (but for what a pack compresses better), a better link never hurts a full pull, and the same
    /// gives the same.
    #[test]
    fn predictions_are_finite_bounded_and_the_same_each_time(
        reads in 1..60u64, kib in 4..1024u64, rtt in 0.0..200.0f64, mbit in 1.0..10_000.0f64,
    ) {
        let (case, link) = (case(reads, kib << 10), Link::new(rtt, mbit));
        let (node, layout) = (Node::default(), Layout::default());
        let bound = ready(&case, Mode::Bound, link);
        for mode in Mode::ALL {
            let start = predict(&case, mode, link, &node, &layout);
            prop_assert!(start.ready.is_finite() && start.ready >= bound * 0.85, "{mode:?} {start:?} {bound}");
            prop_assert_eq!(start, predict(&case, mode, link, &node, &layout));
        }
        prop_assert!(ready(&case, Mode::Full, Link::new(rtt, mbit * 2.0)) <= ready(&case, Mode::Full, link) + 1e-6);
    }
}
