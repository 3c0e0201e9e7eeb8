//! Layers served with fine indexes at a node: what is fetched, what is served, and what happens when a companion is wrong.

mod node;
mod pack_lab;

use harness::companions::{FineParts, PutFine, list_in_fallback_tag, list_in_image};
use harness::faults::{Fault, When};
use harness::image::LayerSource;
use harness::registry::Habits;
use node::TestNode;
use pack_lab::{FILE, FINE, Lab, members, tar, two_layers};
use snapshotter::layer::{Fine, NodeOptions};
use soci_core::digest::Digest;
use soci_core::units::SpanId;
use soci_core::ztoc::{Bundle, Ztoc};

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
    for request in lab.registry.requests().iter().filter(|request| request.range.is_some()) {
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
    spans.fill_packed(before, &vec![b'!'; before.len() as usize]).unwrap();
    let span = here.span(0, 5);
    here.check(0, span.start, span.end);
    assert_eq!(lab.ranges(&windows), 1);
}

#[test]
fn a_wrong_window_is_an_error_that_is_not_remembered() {
    let lab = Lab::new(two_layers());
    let windows = lab.put_fine().windows[0].unwrap();
    let here = lab.start(|options| options.spans.read_ahead = 0);
    for fault in [
        Fault::Corrupt,
        Fault::Truncate(100),
        Fault::Status(404, None),
        Fault::Status(500, None),
        Fault::ShiftContentRange(1),
    ] {
        lab.registry.faults().add(When::path(windows.to_string()), fault.clone());
        let error = here.read(0, 5 * FINE, 5 * FINE + 10).unwrap_err();
        assert!(error.contains("Window") || error.contains("Fetch"), "{fault:?}: {error}");
        assert_eq!(here.layers[0].cached_size(), 0, "{fault:?}: nothing unchecked is kept");
        lab.registry.faults().clear();
    }
    lab.registry.faults().add(When::path(windows.to_string()), Fault::Corrupt);
    here.check(0, 0, 3 * FINE);
    here.check(1, 0, FILE as u64);
    lab.registry.faults().clear();
    here.check_all();
}

/// Changes a companion before it is published.
type Change = fn(&Lab, &mut FineParts) -> Option<Vec<u8>>;

/// Companions that cannot be used, each as a change of good ones; and the layers whose zTOCs are then fetched.
const UNFIT: &[(&str, Change, [bool; 2])] = &[
    (
        "table of layer 0 is damaged",
        |_, fine| {
            let mut table = fine.tables[0].1.to_vec();
            *table.last_mut().unwrap() ^= 1;
            fine.tables[0].1 = table.into();
            None
        },
        [true, false],
    ),
    (
        "layer 0 has the table of layer 1",
        |_, fine| {
            fine.tables[0].1 = fine.tables[1].1.clone();
            None
        },
        [true, false],
    ),
    (
        "table of layer 0 is a zTOC",
        |lab, fine| {
            fine.tables[0].1 = lab.image.ztocs[0].clone().into();
            None
        },
        [true, false],
    ),
    (
        "layer 1 has no table",
        |_, fine| {
            fine.tables.truncate(1);
            None
        },
        [false, true],
    ),
    (
        "windows of layer 1 are not listed",
        |_, fine| {
            fine.windows[1] = None;
            None
        },
        [false, true],
    ),
    (
        "windows of layer 1 are others",
        |_, fine| {
            let mut windows = fine.windows[1].as_ref().unwrap().to_vec();
            windows[70] ^= 1;
            fine.windows[1] = Some(windows.into());
            None
        },
        [false, true],
    ),
    ("the bundle is cut", |_, fine| Some(Bundle::encode(&fine.tables)[..1000].to_vec()), [true, true]),
    ("the bundle is none", |_, _| Some(b"no bundle".to_vec()), [true, true]),
    (
        "it is of another image",
        |_, fine| {
            fine.image = Digest::of(b"another image");
            None
        },
        [true, true],
    ),
];

#[test]
fn a_companion_that_does_not_fit_costs_the_ztoc_only() {
    for (name, change, asked) in UNFIT {
        let lab = Lab::new(two_layers());
        let mut parts = lab.fine();
        let bundle = change(&lab, &mut parts);
        let bundle = bundle.unwrap_or_else(|| Bundle::encode(&parts.tables));
        let put = parts.put_with(&lab.registry, bundle);
        // Whoever lists it lies, too.
        list_in_image(&lab.registry, &lab.image, &[&put.descriptor]);
        let here = lab.start(|_| {});
        assert_eq!(here.fine(), asked.map(|asked| !asked), "{name}");
        here.check_all();
        assert_eq!(lab.ztocs_asked(), *asked, "{name}");
    }
}

#[test]
fn a_companion_that_cannot_be_fetched_costs_the_ztoc_only() {
    let part: &[fn(&PutFine) -> Digest] = &[|put| put.descriptor.digest, |put| put.bundle];
    for part in part {
        for fault in [Fault::Corrupt, Fault::Truncate(50), Fault::Status(404, None), Fault::Status(500, None)]
        {
            let lab = Lab::new(two_layers());
            let put = lab.put_fine();
            lab.registry.faults().add(When::path(part(&put).to_string()), fault.clone());
            let here = lab.start(|_| {});
            assert_eq!(here.fine(), [false; 2], "{fault:?}");
            here.check_all();
            lab.registry.faults().clear();
            drop(here);
            let here = lab.start(|_| {});
            assert_eq!(here.fine(), [true; 2], "after {fault:?}");
            here.check_all();
        }
    }
}

#[test]
fn a_table_that_lies_about_its_layer_gives_errors_and_no_byte() {
    // Two layers of one size, and the table of the second with the name of the first.
    let [first, second] = [tar(1), tar(2)].map(|tar| {
        let gzip = harness::image::gzip(&tar, 0);
        (LayerSource { gzip, diff_id: Some(Digest::of(&tar)), ..LayerSource::default() }, tar)
    });
    let lab = Lab::new(vec![first, second]);
    let mut parts = lab.fine();
    let mut table = parts.tables[1].1.to_vec();
    table[16..48].copy_from_slice(lab.image.layers[0].as_bytes());
    parts.tables[0].1 = table.into();
    parts.windows[0] = parts.windows[1].clone();
    parts.put(&lab.registry);
    let here = lab.start(|_| {});
    assert_eq!(here.fine(), [true; 2]);
    let error = here.read(0, 5 * FINE, 5 * FINE + 10).unwrap_err();
    assert!(error.contains("Digest"), "{error}");
    assert_eq!(here.layers[0].cached_size(), 0);
    here.check(1, 0, FILE as u64);
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
    let lab = Lab::with(Habits { referrers_api: false, ..Habits::default() }, two_layers());
    let put = lab.put_fine();
    assert!(!used(&lab, |options| options.pack.referrers = true), "nothing lists them");
    list_in_fallback_tag(&lab.registry, &lab.image, &[&put.descriptor]);
    assert!(used(&lab, |options| options.pack.referrers = true));
    assert!(!used(&lab, |_| {}));
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
    let here = lab.run_with(lab.node(|_| {}), Fine::Recorded(fine));
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
    let here = lab.run_with(lab.node(|_| {}), Fine::Recorded(None));
    assert_eq!(here.fine(), [false; 2]);
    here.check_all();
    assert_eq!(lab.registry.requests(), [], "all of it is here");
    drop(here);
    let here = lab.start(|_| {});
    assert_eq!(here.fine(), [true; 2]);
    assert_eq!(Ztoc::layer(here.layers[0].spans().ztoc()), Some(lab.image.layers[0]));
    here.check_all();
}
