//! Readers, packs and the background class at the same bytes at the same time.

use std::time::Duration;

use harness::companions::PackParts;
use harness::faults::{Fault, When};
use harness::image::LayerSource;
use harness::pack_lab::{Lab, artifact, background, members, tar};
use harness::patience::eventually;
use soci_core::units::ByteRange;

/// Numbers that are the same in each run.
fn numbers(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    }
}

/// Three layers with artifacts, gzip in one member and in many, and zstd.
fn lab() -> Lab {
    let tars = [tar(1), tar(2), tar(3)];
    let sources =
        [LayerSource::of_tar(&tars[0]), members(&tars[1], 100_000), LayerSource::of_frames(&tars[2], 90_000)];
    let with_artifact = |source| LayerSource { artifact: Some(artifact()), ..source };
    Lab::new(sources.map(with_artifact).into_iter().zip(tars).collect())
}

#[test]
fn whoever_brings_them_bytes_are_right() {
    for fine in [true, false] {
        let lab = lab();
        lab.put_fine();
        // Scattered needs that are no whole pages, all over the layers.
        let mut next = numbers(7);
        let needs: Vec<_> = (0..150)
            .map(|_| {
                let (layer, length) = (next(3) as usize, 1 + next(9000));
                let start = next(lab.tars[layer].len() as u64 - length);
                (layer, ByteRange::new(start, start + length))
            })
            .collect();
        let pack = PackParts::of_needs(&lab.image, &lab.tars, &needs).put(&lab.registry);
        lab.registry.faults().add(When::path(pack.blob.to_string()), Fault::Throttle(2 << 20));
        let here = lab.start(|options| {
            options.pack.fine = fine;
            options.spans.pack_patience = Duration::from_millis(20);
            background(options);
        });
        std::thread::scope(|scope| {
            for reader in 0..4 {
                let here = &here;
                let lab = &lab;
                scope.spawn(move || {
                    let mut next = numbers(reader + 100);
                    for _ in 0..60 {
                        let layer = next(3) as usize;
                        let size = lab.tars[layer].len() as u64;
                        let start = next(size);
                        here.check(layer, start, (start + 1 + next(60_000)).min(size));
                    }
                });
            }
        });
        here.packed();
        let checked = |layer: usize| {
            let whole = ByteRange::new(0, lab.tars[layer].len() as u64);
            here.layers[layer].spans().read_checked(whole).is_some_and(|bytes| bytes == lab.tars[layer])
        };
        eventually("all is checked", || (0..3).all(checked));
        let stats = &here.node.stats;
        assert_eq!(
            (stats.pack_mismatches.get(), stats.span_failures.get(), stats.span_digest_mismatches.get()),
            (0, 0, 0)
        );
        assert_eq!(here.fine(), [fine; 3]);
        drop(here);

        let here = lab.start(|options| options.pack.fine = fine);
        here.check_all();
        assert_eq!(here.node.stats.demand_spans.get(), 0, "all of it outlives the process");
    }
}

#[test]
fn two_images_with_packs_share_a_layer() {
    let lab = lab();
    lab.put_fine();
    lab.pack(&[(0, 40_960, 81_920), (1, 0, 4096)]).put(&lab.registry);
    // The same layers in another order are another image.
    let order = [2, 0, 1];
    let sources: Vec<_> = order.iter().map(|at| lab.sources[*at].clone()).collect();
    let second = harness::image::publish(&lab.registry, "lab", &sources, harness::pack_lab::COARSE);
    let tars: Vec<_> = order.iter().map(|at| lab.tars[*at].clone()).collect();
    let other = [(1, ByteRange::new(61_440, 122_880)), (0, ByteRange::new(8192, 12_288))];
    PackParts::of_needs(&second, &tars, &other).put(&lab.registry);
    let here = lab.start(|options| options.pack.fine = false);
    let layers: Vec<_> = (0..3).map(|at| here.node.layer(&second, at)).collect();
    eventually("both packs are here", || here.node.stats.packs.get() == 2);
    assert!(std::sync::Arc::ptr_eq(layers[1].spans(), here.layers[0].spans()), "one cache for both");
    here.check(0, 40_960, 122_880);
    here.check(1, 0, 4096);
    here.check(2, 8192, 12_288);
    assert_eq!((lab.layer_ranges(), here.node.stats.pack_failures.get()), (0, 0));
    here.check_all();
    assert_eq!(here.node.stats.pack_mismatches.get(), 0);
}
