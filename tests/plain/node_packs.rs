//! Images with working-set packs at a node: what a start costs with one, which one is taken, and what a slow one delays.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use harness::companions::{PackParts, list_in_image};
use harness::faults::{Fault, When};
use harness::image::{LayerSource, TarWriter};
use harness::node::TestNode;
use harness::pack_lab::{FILE, Lab, artifact, tar, two_layers};
use harness::patience::eventually;
use snapshotter::choice::Chooser;
use snapshotter::image::{Companions, ImageRequest};
use snapshotter::node::NodeOptions;
use soci_core::digest::Digest;
use soci_core::pack::{
    Extent, Purpose,
    testing::{ForgedBlock, forged},
};
use soci_core::units::ByteRange;

/// What the workload of these tests reads. Whole pages of the tar: parts of pages are not remembered when a process is killed.
const NEEDS: &[(usize, u64, u64)] = &[
    (1, 4096, 12_288),
    (0, 700_416, 704_512),
    (0, 102_400, 352_256),
    (1, 901_120, 999_424),
    (0, 8192, 12_288),
];

/// Two layers with prefetch artifacts.
fn with_artifacts() -> Vec<(LayerSource, Vec<u8>)> {
    let mut layers = two_layers();
    for (source, _) in &mut layers {
        source.artifact = Some(artifact());
    }
    layers
}

fn check_needs(here: &harness::pack_lab::Running) {
    for &(layer, start, end) in NEEDS {
        here.check(layer, start, end);
    }
}

#[test]
fn a_start_with_fine_indexes_and_pack_is_seven_requests() {
    let lab = Lab::new(with_artifacts());
    let fine = lab.put_fine();
    let pack = lab.pack(NEEDS).put(&lab.registry);
    let here = lab.start(|_| {});
    here.packed();
    check_needs(&here);
    assert_eq!(here.node.stats.pack_hits.get(), NEEDS.len() as u64);
    let requests = lab.registry.requests();
    let single = [
        lab.image.manifest,
        lab.image.index,
        fine.descriptor.digest,
        fine.bundle,
        pack.descriptor.digest,
        pack.blob,
    ];
    for digest in single {
        let path = digest.to_string();
        let about = |request: &&harness::registry::Request| {
            request.path.ends_with(&path) && !request.path.contains("/referrers/")
        };
        assert_eq!(requests.iter().filter(about).count(), 1, "{path}: {requests:#?}");
    }
    // And the list of referrers. Not the configuration: no layer is to be unpacked.
    assert_eq!(requests.len(), single.len() + 1, "{requests:#?}");
    assert_eq!((lab.layer_ranges(), lab.artifacts_asked()), (0, false));
    let blocks = here.node.stats.pack_blocks.get();
    assert!(blocks > 0 && here.node.stats.pack_bytes.get() > 0);

    here.check_all();
    assert_eq!(here.node.stats.pack_mismatches.get(), 0);
    assert!(lab.layer_ranges() > 0);
}

#[test]
fn a_pack_serves_layers_with_ztocs_only_too() {
    let lab = Lab::new(with_artifacts());
    lab.put_fine();
    lab.pack(NEEDS).put(&lab.registry);
    let here = lab.start(|options| options.pack.fine = false);
    here.packed();
    check_needs(&here);
    assert_eq!((here.fine(), lab.layer_ranges(), lab.artifacts_asked()), (vec![false; 2], 0, false));
    here.check_all();
    assert_eq!(here.node.stats.pack_mismatches.get(), 0);
}

#[test]
fn what_a_pack_has_of_layers_outside_the_index_is_left_to_them() {
    let mut layers = two_layers();
    layers[1].0.unindexed = true;
    let lab = Lab::new(layers);
    lab.pack(NEEDS).put(&lab.registry);
    let node = lab.node(|_| {});
    let layer = node.layer(&lab.image, 0);
    eventually("the pack is here", || node.stats.packs.get() == 1);
    let range = ByteRange::new(102_400, 352_256);
    let mut bytes = vec![0; range.len() as usize];
    assert!(layer.spans().read_cached(range, &mut bytes).unwrap());
    assert!(bytes == lab.tars[0][102_400..352_256]);
}

#[test]
fn a_pack_that_may_not_be_used_leaves_its_place_to_the_artifacts() {
    let lab = Lab::new(with_artifacts());
    let pack = lab.pack(NEEDS).put(&lab.registry);
    let size = lab.registry.blob(&pack.blob).unwrap().len() as u64;
    let off: [fn(&mut NodeOptions, u64); 4] = [
        |options, _| options.pack.enable = false,
        |options, _| options.pack.referrers = false,
        |options, _| options.pack.require_verified = true,
        |options, size| options.pack.max_bytes = size - 1,
    ];
    for change in off {
        let root = tempfile::tempdir().unwrap();
        lab.registry.forget_requests();
        let here = lab.run(TestNode::new(root.path(), |options| {
            options.pack.referrers = true;
            change(options, size);
        }));
        eventually("artifacts are used", || here.node.stats.prefetch_artifacts.get() == 2);
        assert_eq!((lab.requests(&pack.blob), here.node.stats.pack_failures.get()), (vec![], 0));
        here.check_all();
    }
    let on: [fn(&mut NodeOptions, u64, Digest); 3] = [
        |options, size, _| {
            options.pack.referrers = true;
            options.pack.max_bytes = size;
        },
        |options, _, pack| _ = options.pack.verified.insert(pack),
        |options, _, pack| {
            options.pack.require_verified = true;
            options.pack.verified.insert(pack);
        },
    ];
    for change in on {
        let root = tempfile::tempdir().unwrap();
        lab.registry.forget_requests();
        let here =
            lab.run(TestNode::new(root.path(), |options| change(options, size, pack.descriptor.digest)));
        here.packed();
        assert_eq!((lab.requests(&pack.blob).len(), lab.artifacts_asked()), (1, false));
    }
}

#[test]
fn the_pack_of_a_converted_image_is_used_by_default() {
    let lab = Lab::new(two_layers());
    let fine = lab.put_fine();
    let pack = lab.pack(NEEDS).put(&lab.registry);
    list_in_image(&lab.registry, &lab.image, &[&fine.descriptor, &pack.descriptor]);
    let here = lab.run(TestNode::new(lab.root.path(), |_| {}));
    here.packed();
    check_needs(&here);
    assert_eq!((here.fine(), lab.layer_ranges()), (vec![true; 2], 0));
    assert!(!lab.registry.requests().iter().any(|request| request.path.contains("/referrers/")));
}

#[test]
fn of_several_packs_the_one_that_fits_best_is_taken() {
    let lab = Lab::new(two_layers());
    let put = |workload: &str, gpu: &str, start: u64| {
        let of = |name: &str, value: &str| (!value.is_empty()).then(|| (name.to_owned(), value.to_owned()));
        let workload = of("", workload).map(|(_, name)| name);
        let purpose = Purpose { workload, selectors: of("gpu", gpu).into_iter().collect() };
        let parts = PackParts { purpose, ..lab.pack(&[(0, start, start + 8192)]) };
        parts.put(&lab.registry).blob
    };
    // Which of the blobs a node takes that is for a workload, with a GPU or none, for a request for a workload or none.
    let taken = |workload: &str, gpu: &str, asked: Option<&str>| {
        let root = tempfile::tempdir().unwrap();
        lab.registry.forget_requests();
        let node = TestNode::new(root.path(), |options| {
            options.pack.referrers = true;
            options.pack.chooser = Chooser::new(Vec::new(), None, workload.to_owned());
            options.pack.attributes.extend((!gpu.is_empty()).then(|| ("gpu".to_owned(), gpu.to_owned())));
        });
        let image = node.image(&lab.image);
        eventually("the pack is here", || node.stats.packs.get() == 1);
        if let Some(workload) = asked {
            lab.registry.forget_requests();
            let request = ImageRequest { workload: Some(workload.to_owned()), ..image.request().clone() };
            let _other = node.node.image(&request);
            eventually("the other pack is here", || node.stats.packs.get() == 2);
        }
        let paths: Vec<_> = lab.registry.requests().into_iter().map(|request| request.path).collect();
        move |blob: Digest| paths.iter().any(|path| path.contains(&blob.to_string()))
    };
    let [web, job] = [put("web", "", 102_400), put("job", "", 204_800)];
    let first = taken("", "", None);
    assert!(first(web) != first(job), "one of them, and one only");
    let union = put("union", "", 512_000);
    assert!(taken("", "", None)(union), "that of all workloads, where there is none without a name");
    let [plain, gpu] = [put("", "", 307_200), put("", "a100", 409_600)];
    let all = [web, job, plain, gpu];
    for (workload, node, asked, wanted) in [
        ("web", "", None, web),
        ("job", "", None, job),
        ("", "", None, plain),
        ("unknown", "", None, plain),
        ("", "b", None, plain),
        ("", "a100", None, gpu),
        ("web", "a100", None, web),
        ("web", "", Some("job"), job),
    ] {
        let taken = taken(workload, node, asked);
        let hits = all.map(&taken);
        assert_eq!(hits, all.map(|blob| blob == wanted), "{workload:?} {node:?} {asked:?}");
    }
}

#[test]
fn what_a_pack_brought_is_there_after_a_restart_without_the_registry() {
    let mut lab = Lab::new(two_layers());
    lab.put_fine();
    lab.pack(NEEDS).put(&lab.registry);
    let fine = {
        let here = lab.start(|_| {});
        here.packed();
        here.node.runtime.block_on(here.image.fine_digest())
    };
    lab.registry.stop();
    let here = lab.run_with(lab.node(|_| {}), Companions::Recorded { fine, pack: None });
    check_needs(&here);
    assert_eq!(here.fine(), [true; 2]);
    assert!(here.read(0, 500_000, 500_001).is_err(), "there is no registry");
}

#[test]
fn what_lacks_after_a_restart_comes_when_it_is_wanted() {
    let lab = Lab::new(with_artifacts());
    let pack = lab.pack(NEEDS).put(&lab.registry);
    let companions = {
        let here = lab.start(|_| {});
        here.packed();
        let digest = here.node.runtime.block_on(here.image.pack_digest());
        assert_eq!(digest, Some(pack.descriptor.digest));
        Companions::Recorded { fine: None, pack: digest }
    };
    std::fs::remove_dir_all(lab.root.path().join("cache")).unwrap();
    lab.registry.forget_requests();
    let here = lab.run_with(lab.node(|_| {}), companions);
    assert_eq!(
        lab.registry.requests(),
        [],
        "nobody wants it yet, and the artifacts name nothing that it has not"
    );
    here.node.runtime.block_on(here.image.wanted());
    here.packed();
    check_needs(&here);
    assert_eq!(lab.layer_ranges(), 0);
    // The head is here: it is asked for from the first block on.
    let asked = lab.requests(&pack.blob);
    let range = asked[0].range.as_deref().unwrap_or_default();
    assert!(asked.len() == 1 && range.starts_with("bytes=") && !range.starts_with("bytes=0-"), "{asked:?}");
}

#[test]
fn a_pack_that_is_here_is_not_fetched_again() {
    let lab = Lab::new(two_layers());
    let pack = lab.pack(NEEDS).put(&lab.registry);
    let size = lab.registry.blob(&pack.blob).unwrap().len() as u64;
    let here = lab.start(|_| {});
    here.packed();
    let first = here.node.stats.pack_bytes.get();
    assert!(first > 0 && first < size, "{first} bytes of blocks behind the head");
    drop(here);
    let here = lab.start(|_| {});
    here.packed();
    assert_eq!((here.node.stats.pack_bytes.get(), here.node.stats.pack_blocks.get()), (0, 0));
    check_needs(&here);
    assert_eq!(lab.layer_ranges(), 0);
}

/// Bytes that do not compress.
fn noise(size: usize) -> Vec<u8> {
    let mut state = 1u64;
    (0..size)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

/// A pack of all of the first layer, so many bytes of noise; the second layer is in no pack. How many blocks it has.
fn large(size: usize, fault: Fault) -> (Lab, u64, Digest) {
    let big = TarWriter::default().file("big", &noise(size)).finish();
    let other = tar(2);
    let lab = Lab::new(vec![(LayerSource::of_tar(&big), big), (LayerSource::of_tar(&other), other)]);
    lab.put_fine();
    let tar = &lab.tars[0];
    let blocks: Vec<_> = (0..tar.len())
        .step_by(128 << 10)
        .map(|start| {
            let end = tar.len().min(start + (128 << 10));
            let extent = Extent { layer: 0, range: ByteRange::new(start as u64, end as u64) };
            ForgedBlock::of_plain(&[extent], &tar[start..end])
        })
        .collect();
    let (blob, head) = forged(&lab.image.manifest, &lab.image.layers[..1], &blocks);
    let pack = PackParts::of_blob(lab.image.manifest, blob, head).put(&lab.registry);
    lab.registry.faults().add(When::path(pack.blob.to_string()), fault);
    (lab, blocks.len() as u64, pack.blob)
}

/// A pack of 4 MiB at 10 Mbit/s.
fn slow() -> (Lab, u64) {
    let (lab, blocks, _) = large(4 << 20, Fault::Throttle(1_250_000));
    (lab, blocks)
}

#[test]
fn what_is_fetched_ahead_keeps_to_the_limit_and_readers_do_not() {
    let (lab, blocks, _) = large(1 << 20, Fault::Latency(Duration::ZERO));
    let begun = Instant::now();
    let here = lab.start(|options| {
        options.engine.max_bandwidth = NonZeroU64::new(400_000);
        options.spans.pack_patience = Duration::from_millis(1);
    });
    // Of the layer that is in no pack.
    here.check(1, 0, lab.tars[1].len() as u64);
    let read = begun.elapsed();
    here.packed();
    let packed = begun.elapsed();
    assert_eq!(here.node.stats.pack_blocks.get(), blocks);
    // All blocks but the last are due before the last is read.
    let least = Duration::from_secs_f64(f64::from((1 << 20) - (128 << 10)) / 400_000.0);
    assert!(packed >= least && read < packed, "{read:?}, {packed:?}");
}

#[test]
fn before_the_layers_are_ready_no_more_is_read_than_the_limit_allows_at_once() {
    let (lab, _, _) = large(2 << 20, Fault::Latency(Duration::ZERO));
    let tables = lab.put_fine().bundle;
    lab.registry.faults().add(When::path(tables.to_string()), Fault::Latency(Duration::from_secs(1)));
    let mut traffic = None;
    let _here = lab.start(|options| {
        options.engine.max_bandwidth = NonZeroU64::new(400_000);
        traffic = Some(options.registry.traffic());
    });
    // A quarter of a second's bytes, and what one read of the network brings on top.
    let received = traffic.unwrap().bytes_received();
    assert!(received > 100_000 && received < 1 << 20, "{received}");
}

#[test]
fn a_pack_from_far_away_comes_in_parts() {
    let (lab, blocks, pack) = large(9 << 20, Fault::Latency(Duration::from_millis(60)));
    let here = lab.start(|_| {});
    here.packed();
    assert_eq!((lab.ranges(&pack), here.node.stats.pack_blocks.get()), (3, blocks));
    here.check(0, 0, lab.tars[0].len() as u64);
    assert_eq!(lab.layer_ranges(), 0);
}

#[test]
fn a_read_outside_of_a_slow_pack_is_over_long_before_the_pack() {
    let (lab, blocks) = slow();
    let here = lab.start(|options| options.spans.pack_patience = Duration::from_mins(10));
    eventually("the pack has begun", || here.node.stats.pack_blocks.get() > 0);
    let begun = Instant::now();
    here.check(1, 300_000, 301_000);
    let read = begun.elapsed();
    let came = here.node.stats.pack_blocks.get();
    assert!(came < blocks, "the pack was here first");
    assert_eq!((here.node.stats.packs.get(), lab.ranges(&lab.image.layers[1])), (0, 1));
    here.check(0, 0, FILE as u64);
    here.check(0, 3 << 20, 4 << 20);
    assert_eq!(lab.ranges(&lab.image.layers[0]), 0, "what is promised is waited for");
    here.packed();
    println!("read took {read:?} with {came} of {blocks} blocks here; the pack took {:?}", begun.elapsed());
    assert_eq!(here.node.stats.pack_blocks.get(), blocks);
}

#[test]
fn patience_with_a_slow_pack_ends() {
    let (lab, blocks) = slow();
    let here = lab.start(|options| options.spans.pack_patience = Duration::from_millis(50));
    eventually("the pack has begun", || here.node.stats.pack_blocks.get() > 0);
    let begun = Instant::now();
    let end = lab.tars[0].len() as u64 - 2048;
    here.check(0, end - 1000, end);
    let (read, came) = (begun.elapsed(), here.node.stats.pack_blocks.get());
    assert!(came < blocks && here.node.stats.packs.get() == 0, "the pack was here first");
    assert_eq!(lab.ranges(&lab.image.layers[0]), 1);
    here.packed();
    println!("read took {read:?} with {came} of {blocks} blocks here; the pack took {:?}", begun.elapsed());
    here.check_all();
    assert_eq!(here.node.stats.pack_mismatches.get(), 0);
}
