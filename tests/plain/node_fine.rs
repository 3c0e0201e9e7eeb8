//! Layers served with fine indexes at a node: what is fetched, what is served, whose indexes are used.

use std::collections::BTreeSet;

use harness::companions::{REPOSITORY, list_in_fallback_tag, list_in_image};
use harness::image::LayerSource;
use harness::node::TestNode;
use harness::pack_lab::{FILE, FINE, Lab, members, tar, two_layers};
use harness::patience::eventually;
use harness::registry::{Habits, Referrers};
use serde_json::json;
use snapshotter::image::Companions;
use snapshotter::node::NodeOptions;

use soci_core::digest::Digest;
use soci_core::units::{ByteRange, SpanId};

/// Numbers that are the same in each run.
fn numbers() -> impl Iterator<Item = u64> {
    std::iter::successors(Some(88_172_645_463_325_252u64), |state| {
        let mut next = state ^ state << 13;
        next ^= next >> 7;
        Some(next ^ next << 17)
    })
}

#[test]
fn any_read_is_right_and_fetches_fine_spans_and_windows_only() {
    let gzip_members = tar(3);
    let frames = tar(4);
    let mut layers = two_layers();
    layers.push((members(&gzip_members, 150_000), gzip_members));
    layers.push((LayerSource::of_frames(&frames, 50_000), frames));
    let lab = Lab::new(layers);
    let put = lab.put_fine();
    assert!(put.windows[..3].iter().all(Option::is_some) && put.windows[3].is_none(), "{put:?}");
    {
        let here = lab.start(|_| {});
        assert_eq!(here.fine(), [true; 4]);
        let mut numbers = numbers();
        let mut next = |below: u64| numbers.next().unwrap() % below;
        for _ in 0..120 {
            let layer = next(4) as usize;
            let size = lab.tars[layer].len() as u64;
            let start = next(size);
            here.check(layer, start, (start + 1 + next(100_000)).min(size));
        }
        assert!(here.node.stats.demand_spans.get() > 0);
        assert_eq!(here.node.stats.span_failures.get(), 0);
    }
    std::fs::remove_dir_all(lab.root.path().join("cache")).unwrap();
    lab.start(|_| {}).check_all();
    assert_eq!(lab.ztocs_asked(), [false; 4]);
    assert_eq!(lab.requests(&put.bundle).len(), 1, "the second start has it in its store");
    let known: Vec<_> = lab.image.layers.iter().chain(put.windows.iter().flatten()).collect();
    // A small blob is asked for from its beginning to its end: whether that comes as a part tells whether layers can be lazy.
    let is_part = |range: &String| !range.starts_with("bytes=0-");
    for request in lab.registry.requests().iter().filter(|one| one.range.as_ref().is_some_and(is_part)) {
        assert!(known.iter().any(|digest| request.path.contains(&digest.to_string())), "{request:?}");
    }
}

#[test]
fn a_small_read_moves_a_fine_span_and_its_window() {
    let lab = Lab::new(two_layers());
    let put = lab.put_fine();
    let here = lab.start(|_| {});
    let span = here.span(0, 5);
    here.check(0, span.start + 100, span.start + 200);
    assert_eq!((lab.ranges(&lab.image.layers[0]), lab.ranges(&put.windows[0].unwrap())), (1, 1));
    assert_eq!(here.node.stats.demand_spans.get(), 1);
    let moved = here.layers[0].spans().ztoc().spans().compressed_range(SpanId(5)).len();
    assert_eq!(here.node.stats.demand_bytes.get(), moved);
    assert!(moved < FINE, "{moved} bytes of half random ones");
}

#[test]
fn one_read_of_many_spans_needs_one_window_at_most() {
    let lab = Lab::new(two_layers());
    let windows = lab.put_fine().windows[0].unwrap();
    let here = lab.start(|options| options.spans.read_ahead = 0);
    let ranges = || (lab.ranges(&lab.image.layers[0]), lab.ranges(&windows));
    here.check(0, here.span(0, 3).start + 1, here.span(0, 7).end);
    assert_eq!(here.node.stats.demand_spans.get(), 5);
    assert_eq!(ranges(), (1, 1), "spans of one request follow each other");
    here.check(0, here.span(0, 8).end - 10, here.span(0, 8).end);
    assert_eq!(ranges(), (2, 1), "the span before it is here and was checked");
    here.check(0, 0, here.span(0, 1).end);
    assert_eq!(ranges(), (3, 1), "the first span needs none");
    here.check(0, here.span(0, 12).start, here.span(0, 12).start + 1);
    assert_eq!(ranges(), (4, 2));
    here.check(1, 0, FILE as u64);
    assert_eq!(ranges(), (4, 2), "another layer");
}

#[test]
fn what_only_a_pack_has_brought_is_no_window() {
    let lab = Lab::new(two_layers());
    let windows = lab.put_fine().windows[0].unwrap();
    // Wrong bytes: a window made of them would give wrong bytes of the span behind.
    let here = lab.start(|_| {});
    let spans = here.layers[0].spans();
    let before = here.span(0, 4);
    spans.fill_packed(&[(before.start, &vec![b'!'; before.len() as usize])]).unwrap();
    let span = here.span(0, 5);
    here.check(0, span.start, span.end);
    assert_eq!(lab.ranges(&windows), 1);
}

#[test]
fn prefetch_brings_what_its_artifact_needs_in_fine_spans() {
    // The same coarse span with and without the bytes that are needed of it.
    for ranges in [json!([[300_000, 310_000], [480_000, 480_001]]), json!([])] {
        let whole = ranges == json!([]);
        let spans = json!([{ "start_span": 1, "end_span": 1, "priority": 1, "ranges": ranges }]);
        let artifact = json!({ "version": "1.0", "prefetch_spans": spans }).to_string().into_bytes();
        let mut layers = two_layers();
        layers[0].0.artifact = Some(artifact);
        let lab = Lab::new(layers);
        lab.put_fine();
        let here = lab.start(|_| {});
        let ztoc = here.layers[0].spans().ztoc();
        let plain = match ztoc.coarse() {
            [_, start, end, ..] if whole => vec![ByteRange::new(*start, *end)],
            _ => vec![ByteRange::new(300_000, 310_000), ByteRange::new(480_000, 480_001)],
        };
        let wanted: BTreeSet<u32> =
            plain.iter().flat_map(|range| ztoc.spans().spans_covering(*range)).collect();
        let states = here.layers[0].spans().states();
        eventually("prefetch is over", || states.cached() as usize >= wanted.len());
        assert_eq!(here.node.stats.prefetch_spans.get(), wanted.len() as u64);
        let requests = lab.layer_ranges();
        for range in plain {
            here.check(0, range.start, range.end);
        }
        assert_eq!((lab.layer_ranges(), lab.ztocs_asked()), (requests, vec![false; 2]));
    }
}

/// Whether a node with these options serves the image with fine indexes.
fn used(lab: &Lab, change: impl FnOnce(&mut NodeOptions)) -> bool {
    let root = tempfile::tempdir().unwrap();
    let here = lab.run(TestNode::new(root.path(), change));
    here.check(0, 5 * FINE, 5 * FINE + 10);
    let fine = here.fine();
    assert!(fine == [true; 2] || fine == [false; 2]);
    fine[0]
}

#[test]
fn what_a_registry_lists_is_used_when_it_is_trusted_or_verified() {
    let lab = Lab::new(two_layers());
    let digest = lab.put_fine().descriptor.digest;
    assert!(!used(&lab, |_| {}));
    assert!(!lab.registry.requests().iter().any(|request| request.path.contains("/referrers/")));
    assert!(!used(&lab, |options| _ = options.pack.verified.insert(Digest::of(b"another"))));
    assert!(lab.requests(&digest).is_empty(), "what may not be used is not fetched");
    assert!(used(&lab, |options| _ = options.pack.verified.insert(digest)));
    assert!(used(&lab, |options| options.pack.referrers = true));
    assert!(!used(&lab, |options| {
        options.pack.referrers = true;
        options.pack.fine = false;
    }));
    let strict = |options: &mut NodeOptions| {
        options.pack.referrers = true;
        options.pack.require_verified = true;
    };
    assert!(!used(&lab, strict));
    assert!(used(&lab, |options| {
        strict(options);
        options.pack.verified.insert(digest);
    }));
}

#[test]
fn what_the_image_itself_lists_is_used_by_default() {
    let lab = Lab::new(two_layers());
    let put = lab.put_fine();
    list_in_image(&lab.registry, &lab.image, &[&put.descriptor]);
    assert!(used(&lab, |_| {}));
    assert!(!used(&lab, |options| options.pack.require_verified = true));
    assert!(used(&lab, |options| {
        options.pack.require_verified = true;
        options.pack.verified.insert(put.descriptor.digest);
    }));
}

#[test]
fn a_registry_without_referrers_has_them_under_a_tag() {
    let lab = Lab::with(Habits { referrers: Referrers::Status(404), ..Habits::default() }, two_layers());
    let put = lab.put_fine();
    assert!(!used(&lab, |options| options.pack.referrers = true), "nothing lists them");
    list_in_fallback_tag(&lab.registry, &lab.image, &[&put.descriptor]);
    assert!(used(&lab, |options| options.pack.referrers = true));
    assert!(!used(&lab, |_| {}));
}

#[test]
fn a_manifest_that_the_list_carries_is_not_asked_for() {
    for (carried, asked) in [(None, 1), (Some(true), 0), (Some(false), 1)] {
        let lab = Lab::with(Habits { referrers: Referrers::Status(404), ..Habits::default() }, two_layers());
        let put = lab.put_fine();
        let (_, raw) = lab.registry.manifest(REPOSITORY, &put.descriptor.digest.to_string()).unwrap();
        let entry = match carried {
            None => put.descriptor.clone(),
            Some(true) => put.descriptor.clone().embed(&raw),
            Some(false) => put.descriptor.clone().embed(&raw.to_ascii_uppercase()),
        };
        list_in_fallback_tag(&lab.registry, &lab.image, &[&entry]);
        assert!(used(&lab, |options| options.pack.referrers = true), "{carried:?}");
        assert_eq!(lab.requests(&put.descriptor.digest).len(), asked, "{carried:?}");
    }
}

#[test]
fn what_was_served_is_served_again_without_the_registry() {
    let mut lab = Lab::new(two_layers());
    let put = lab.put_fine();
    let fine = {
        let here = lab.start(|_| {});
        here.check_all();
        here.node.runtime.block_on(here.image.fine_digest())
    };
    assert_eq!(fine, Some(put.descriptor.digest));
    lab.registry.stop();
    let here = lab.run_with(lab.node(|_| {}), Companions::Recorded { fine, pack: None });
    assert_eq!(here.fine(), [true; 2]);
    here.check_all();
    assert_eq!(here.node.stats.demand_spans.get(), 0);
}

#[test]
fn what_was_served_without_stays_without() {
    let lab = Lab::new(two_layers());
    let none = lab.start(|_| {});
    assert_eq!(none.node.runtime.block_on(none.image.fine_digest()), None);
    none.check_all();
    drop(none);
    lab.put_fine();
    lab.registry.forget_requests();
    let here = lab.run_with(lab.node(|_| {}), Companions::Recorded { fine: None, pack: None });
    assert_eq!(here.fine(), [false; 2]);
    here.check_all();
    assert_eq!(lab.registry.requests(), [], "all of it is here");
    drop(here);
    let here = lab.start(|_| {});
    assert_eq!(here.fine(), [true; 2]);
    assert_eq!(here.layers[0].spans().ztoc().layer(), Some(lab.image.layers[0]));
    here.check_all();
}
