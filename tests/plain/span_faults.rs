//! Lazy layers when things go wrong, and what the fetch engine asks of the registry: requests are counted, not timed.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use harness::faults::{Fault, When};
use harness::image::{LayerSource, Published, TarWriter, gzip, publish};
use harness::node::TestNode;
use harness::patience::eventually;
use harness::registry::TestRegistry;
use serde_json::json;
use snapshotter::fs::{InodeNo, LayerFs};
use snapshotter::image::LayerState;
use snapshotter::layer::Layer;
use snapshotter::storage::Goal;
use soci_core::digest::Digest;
use soci_core::registry::{HostPolicy, Registry, RegistryOptions, Server};
use soci_core::units::SpanId;
use soci_core::ztoc::Ztoc;

const SPAN: u64 = 64 << 10;

/// Bytes that do not compress: a layer's spans are then nearly as long as its files.
fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed;
    (0..size)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

fn big() -> Vec<u8> {
    noise(1, 1 << 20)
}

fn source() -> LayerSource {
    let tar = TarWriter::default().file("big", &big()).file("small", b"hello").finish();
    LayerSource { gzip: gzip(&tar, 6), diff_id: Some(Digest::of(&tar)), ..LayerSource::default() }
}

struct Lab {
    registry: TestRegistry,
    image: Published,
    root: tempfile::TempDir,
}

impl Lab {
    fn new(sources: &[LayerSource]) -> Self {
        let registry = TestRegistry::start();
        let image = publish(&registry, "lab", sources, SPAN);
        Self { registry, image, root: tempfile::tempdir().unwrap() }
    }

    fn node(&self) -> TestNode {
        TestNode::new(self.root.path(), |_| {})
    }

    /// One whose background begins at once.
    fn node_that_completes(&self) -> TestNode {
        TestNode::new(self.root.path(), |options| {
            options.engine.background = Some(snapshotter::engine::BackgroundOptions {
                silence: Duration::ZERO,
                period: Duration::from_millis(1),
            });
        })
    }

    /// Ranged requests for layer `at` so far.
    fn ranges(&self, at: usize) -> Vec<String> {
        let path = self.image.layers[at].to_string();
        let requests = self.registry.requests();
        requests
            .into_iter()
            .filter(|request| request.path.contains(&path))
            .filter_map(|request| request.range)
            .collect()
    }

    fn break_layer(&self, fault: Fault) {
        self.registry.faults().add(When::path(self.image.layers[0].to_string()), fault);
    }
}

fn read(node: &TestNode, layer: &Arc<Layer>, name: &str, offset: u64, size: u32) -> Result<Vec<u8>, String> {
    let fs = layer.fs();
    read_fs(node, &fs, name, offset, size)
}

fn read_fs(node: &TestNode, fs: &LayerFs, name: &str, offset: u64, size: u32) -> Result<Vec<u8>, String> {
    let ino = fs.lookup(InodeNo::ROOT, name.as_bytes()).unwrap().ino;
    match fs.read_cached(ino, offset, size) {
        Ok(Some(bytes)) => Ok(bytes.to_vec()),
        Ok(None) => node
            .runtime
            .block_on(fs.read(ino, offset, size))
            .map(|bytes| bytes.to_vec())
            .map_err(|error| format!("{error:?}")),
        Err(error) => Err(format!("{error:?}")),
    }
}

#[test]
fn one_span_is_one_request_and_then_none() {
    let lab = Lab::new(&[source()]);
    let node = lab.node();
    let layer = node.layer(&lab.image, 0);
    assert_eq!(read(&node, &layer, "big", 70_000, 100).unwrap(), big()[70_000..70_100]);
    assert_eq!(lab.ranges(0).len(), 1);
    assert_eq!(read(&node, &layer, "big", 70_050, 100).unwrap(), big()[70_050..70_150]);
    assert_eq!(lab.ranges(0).len(), 1, "the second read is answered from the cache");
    assert_eq!(node.stats.demand_spans.get(), 1);
}

#[test]
fn concurrent_readers_of_a_span_share_one_fetch() {
    let lab = Lab::new(&[source()]);
    let node = lab.node();
    let layer = node.layer(&lab.image, 0);
    lab.break_layer(Fault::Latency(Duration::from_millis(300)));
    std::thread::scope(|scope| {
        for at in 0..8 {
            let (node, layer) = (&node, &layer);
            scope.spawn(move || assert_eq!(read(node, layer, "big", at * 1000, 1000).unwrap().len(), 1000));
        }
    });
    assert_eq!(lab.ranges(0).len(), 1);
}

#[test]
fn a_read_over_several_spans_is_one_request() {
    let lab = Lab::new(&[source()]);
    let node = lab.node();
    let layer = node.layer(&lab.image, 0);
    assert_eq!(read(&node, &layer, "big", 0, 500_000).unwrap(), big()[..500_000]);
    assert_eq!(lab.ranges(0).len(), 1);
    assert!(node.stats.demand_spans.get() >= 7);
}

#[test]
fn walking_forward_fetches_ahead_but_not_past_the_file() {
    let lab = Lab::new(&[source()]);
    let node = lab.node();
    let layer = node.layer(&lab.image, 0);
    let spans = u64::from(layer.spans().ztoc().spans().len());
    let mut at = 0;
    while at < 1 << 20 {
        let part = read(&node, &layer, "big", at, 4096).unwrap();
        at += part.len() as u64;
    }
    let requests = lab.ranges(0).len() as u64;
    assert!(requests < spans * 2 / 3, "{requests} requests for {spans} spans");
    assert!(node.stats.demand_spans.get() <= spans);
}

#[test]
fn a_failed_read_is_not_remembered() {
    let lab = Lab::new(&[source()]);
    let node = lab.node();
    let layer = node.layer(&lab.image, 0);
    for fault in [
        Fault::Status(500, None),
        Fault::Corrupt,
        Fault::Truncate(10),
        Fault::ShiftContentRange(3),
        Fault::Status(404, None),
    ] {
        lab.break_layer(fault);
        assert!(read(&node, &layer, "big", 0, 10).is_err());
        assert_eq!(layer.cached_size(), 0, "nothing unchecked is kept");
        lab.registry.faults().clear();
    }
    assert_eq!(read(&node, &layer, "big", 0, 10).unwrap(), big()[..10]);
    assert!(node.stats.span_digest_mismatches.get() >= 1);
}

#[test]
fn a_bad_download_is_fetched_again_as_often_as_configured() {
    let lab = Lab::new(&[source()]);
    let node = TestNode::new(lab.root.path(), |options| options.spans.verification_retries = 2);
    let layer = node.layer(&lab.image, 0);
    let layer_path = || When::path(lab.image.layers[0].to_string());
    lab.registry.faults().add_times(layer_path(), Fault::Corrupt, 2);
    assert_eq!(read(&node, &layer, "big", 0, 10).unwrap(), big()[..10]);
    assert_eq!(lab.ranges(0).len(), 3);
    lab.registry.faults().add_times(layer_path(), Fault::Corrupt, 3);
    assert!(read(&node, &layer, "big", 900_000, 10).is_err());
    assert_eq!(node.stats.span_digest_mismatches.get(), 5);
}

#[test]
fn a_mirror_that_sends_wrong_bytes_is_replaced_by_the_registry() {
    let lab = Lab::new(&[source()]);
    let mirror = TestRegistry::start();
    publish(&mirror, "lab", &[source()], SPAN);
    let layer_path = When::path(lab.image.layers[0].to_string());
    mirror.faults().add_times(layer_path, Fault::Corrupt, 1000);
    let node = TestNode::new(lab.root.path(), |options| {
        let server = Server::parse(&format!("http://{}", mirror.host())).unwrap();
        let mirrors = [(lab.registry.host(), vec![server])].into();
        let hosts = HostPolicy { mirrors, ..HostPolicy::default() };
        options.registry = Registry::new(RegistryOptions { hosts, ..RegistryOptions::default() });
    });
    let layer = node.layer(&lab.image, 0);
    assert_eq!(lab.registry.requests(), [], "all that describes the image came from the mirror");
    for offset in [0, 900_000] {
        let at = offset as usize;
        assert_eq!(read(&node, &layer, "big", offset, 10).unwrap(), big()[at..at + 10]);
    }
    assert_eq!(node.stats.span_digest_mismatches.get(), 1, "it is asked once");
    assert_eq!(lab.ranges(0).len(), 2);
}

#[test]
fn a_silent_registry_is_an_error_in_time() {
    let lab = Lab::new(&[source()]);
    let node =
        TestNode::new(lab.root.path(), |options| options.spans.read_timeout = Duration::from_millis(200));
    let layer = node.layer(&lab.image, 0);
    lab.break_layer(Fault::Hang);
    assert!(read(&node, &layer, "big", 0, 10).unwrap_err().contains("TimedOut"));
}

#[test]
fn cached_bytes_outlive_the_process_and_the_registry() {
    let mut lab = Lab::new(&[source()]);
    {
        let node = lab.node();
        let layer = node.layer(&lab.image, 0);
        read(&node, &layer, "big", 0, 1 << 20).unwrap();
        read(&node, &layer, "small", 0, 5).unwrap();
    }
    lab.registry.stop();
    let node = lab.node();
    let layer = node.layer(&lab.image, 0);
    assert_eq!(layer.cached_size(), layer.uncompressed_size());
    assert_eq!(read(&node, &layer, "big", 0, 1 << 20).unwrap(), big());
    assert_eq!(read(&node, &layer, "small", 0, 5).unwrap(), b"hello");
}

#[test]
fn images_that_share_a_layer_share_its_cache() {
    let lab = Lab::new(&[source()]);
    let other = publish(
        &lab.registry,
        "other",
        &[source(), LayerSource::of_tar(&TarWriter::default().file("x", b"y").finish())],
        SPAN,
    );
    let node = lab.node();
    let first = node.layer(&lab.image, 0);
    read(&node, &first, "big", 0, 10).unwrap();
    let second = node.layer(&other, 0);
    assert!(Arc::ptr_eq(first.spans(), second.spans()));
    read(&node, &second, "big", 0, 10).unwrap();
    assert_eq!(lab.ranges(0).len(), 1);
}

#[test]
fn prefetch_follows_priority_over_all_layers_and_joins_neighbours() {
    let span = |from: u32, to: u32, priority: u32| json!({ "start_span": from, "end_span": to, "priority": priority });
    let artifact = |spans: Vec<serde_json::Value>| {
        Some(json!({ "version": "1.0", "prefetch_spans": spans }).to_string().into_bytes())
    };
    let layer = |seed| {
        let tar = TarWriter::default().file("f", &noise(seed, 1 << 20)).finish();
        LayerSource::of_tar(&tar)
    };
    let bottom = LayerSource { artifact: artifact(vec![span(9, 9, 1), span(2, 4, 3)]), ..layer(7) };
    let top = LayerSource { artifact: artifact(vec![span(5, 6, 2)]), ..layer(8) };
    let lab = Lab::new(&[bottom, top]);
    // Until all artifacts and zTOCs are here nothing is prefetched; then one request at a time, to see the order.
    let node = TestNode::new(lab.root.path(), |options| options.engine.prefetch_requests = 1);
    let layers = [node.layer(&lab.image, 0), node.layer(&lab.image, 1)];
    eventually("all prefetch", || {
        node.stats.prefetch_spans.get() == 6 && layers[0].spans().states().cached() == 4
    });
    let wanted: Vec<_> = [(0, 9, 9), (1, 5, 6), (0, 2, 4)]
        .into_iter()
        .map(|(layer, first, last)| {
            let ztoc = Ztoc::open(lab.image.ztocs[layer].clone().into()).unwrap();
            let table = ztoc.spans();
            let (from, to) =
                (table.compressed_range(SpanId(first)).start, table.compressed_range(SpanId(last)).end);
            (lab.image.layers[layer], format!("bytes={from}-{}", to - 1))
        })
        .collect();
    let requests: Vec<_> = lab
        .registry
        .requests()
        .into_iter()
        .filter(|request| lab.image.layers.iter().any(|layer| request.path.ends_with(&layer.to_string())))
        .filter_map(|request| Some((request.path, request.range?)))
        .collect();
    assert_eq!(requests.len(), 3, "{requests:?}");
    for ((digest, range), (path, got)) in wanted.iter().zip(&requests) {
        assert!(path.contains(&digest.to_string()), "{requests:?}");
        assert_eq!(range, got);
    }
    let before = lab.registry.requests().len();
    let (start, length) = {
        let range = layers[1].spans().ztoc().spans().uncompressed_range(SpanId(5));
        (range.start - 512, range.len() as u32)
    };
    assert_eq!(
        read(&node, &layers[1], "f", start, length).unwrap(),
        noise(8, 1 << 20)[start as usize..][..length as usize]
    );
    assert_eq!(lab.registry.requests().len(), before, "a prefetched span costs its reader nothing");
    assert_eq!(node.stats.prefetch_hits.get(), 1);
}

#[test]
fn prefetch_keeps_to_the_limit_and_ends_all_the_same() {
    let all =
        json!({ "version": "1.0", "prefetch_spans": [{ "start_span": 0, "end_span": 12 }] }).to_string();
    let lab = Lab::new(&[LayerSource { artifact: Some(all.into_bytes()), ..source() }]);
    let node = TestNode::new(lab.root.path(), |options| {
        options.engine.max_bandwidth = NonZeroU64::new(500_000);
    });
    let begun = Instant::now();
    let _layer = node.layer(&lab.image, 0);
    eventually("all prefetch", || node.stats.prefetch_spans.get() == 13);
    // A megabyte; what the last request brings is due later.
    assert!(begun.elapsed() >= Duration::from_millis(1500), "{:?}", begun.elapsed());
    assert!(lab.ranges(0).len() > 4, "a request is as large as a quarter of a second: {:?}", lab.ranges(0));
}

#[test]
fn a_reader_goes_before_a_full_prefetch_queue() {
    let all =
        json!({ "version": "1.0", "prefetch_spans": [{ "start_span": 0, "end_span": 15 }] }).to_string();
    let slow = LayerSource { artifact: Some(all.into_bytes()), ..source() };
    let tar = TarWriter::default().file("wanted", &noise(5, 1000)).finish();
    let lab = Lab::new(&[slow, LayerSource::of_tar(&tar)]);
    lab.break_layer(Fault::Throttle(20_000));
    let node = lab.node();
    let _prefetching = node.layer(&lab.image, 0);
    eventually("prefetch is under way", || !lab.ranges(0).is_empty());
    let wanted = node.layer(&lab.image, 1);
    assert_eq!(read(&node, &wanted, "wanted", 0, 1000).unwrap(), noise(5, 1000));
    assert_eq!(
        node.stats.prefetch_spans.get(),
        0,
        "the reader was answered while the first prefetched span was still arriving"
    );
}

#[test]
fn a_bad_artifact_costs_its_prefetch_only() {
    let bad: [&[u8]; 6] = [
        b"not json",
        b"{\"version\":\"9.9\",\"prefetch_spans\":[{\"start_span\":0,\"end_span\":0}]}",
        b"{\"version\":\"1.0\",\"prefetch_spans\":[{\"start_span\":100000,\"end_span\":100001}]}",
        b"{\"version\":\"1.0\",\"prefetch_spans\":[{\"start_span\":-1,\"end_span\":0}]}",
        b"{\"version\":\"1.0\",\"prefetch_spans\":[{\"start_span\":3,\"end_span\":1}]}",
        b"",
    ];
    for artifact in bad {
        let lab = Lab::new(&[LayerSource { artifact: Some(artifact.to_vec()), ..source() }]);
        let node = lab.node();
        let layer = node.layer(&lab.image, 0);
        assert_eq!(read(&node, &layer, "small", 0, 5).unwrap(), b"hello");
        eventually("the failure is counted", || node.stats.prefetch_artifact_failures.get() == 1);
        assert_eq!(node.stats.prefetch_spans.get(), 0);
    }
    let lab = Lab::new(&[LayerSource { artifact: Some(b"{}".to_vec()), ..source() }]);
    lab.registry.remove_blob(&Digest::of(b"{}"));
    let node = lab.node();
    let layer = node.layer(&lab.image, 0);
    assert_eq!(read(&node, &layer, "small", 0, 5).unwrap(), b"hello");
    eventually("the failure is counted", || node.stats.prefetch_artifact_failures.get() == 1);
}

#[test]
fn what_cannot_be_lazy_says_so() {
    let lab = Lab::new(&[
        source(),
        LayerSource {
            unindexed: true,
            ..LayerSource::of_tar(&TarWriter::default().file("x", b"y").finish())
        },
    ]);
    let node = lab.node();
    let image = node.image(&lab.image);
    let state = |at: usize| node.runtime.block_on(image.layer(&lab.image.layers[at]));
    assert!(matches!(state(1), Ok(LayerState::NoZtoc)));
    assert!(matches!(state(0), Ok(LayerState::Lazy(_))));
    let manifest = node.runtime.block_on(image.manifest()).unwrap();
    assert_eq!((manifest.manifest.layers.len(), manifest.config.diff_ids.len()), (2, 2));

    let bare = TestNode::new(&lab.root.path().join("bare"), |options| options.discovery.v2 = false);
    let state = bare.runtime.block_on(bare.image(&lab.image).layer(&lab.image.layers[0]));
    assert!(matches!(state, Ok(LayerState::NoIndex)));
}

#[test]
fn a_failed_discovery_is_paid_for_once_and_tried_again_by_the_next_start() {
    let lab = Lab::new(&[source()]);
    let node = lab.node();
    let image = node.image(&lab.image);
    lab.registry.faults().add(When::always(), Fault::Status(500, None));
    assert!(node.runtime.block_on(image.layer(&lab.image.layers[0])).is_err());
    let asked = lab.registry.requests().len();
    assert!(node.runtime.block_on(image.layer(&lab.image.layers[0])).is_err());
    assert_eq!(
        lab.registry.requests().len(),
        asked,
        "what failed for one layer is not asked for by the next"
    );
    lab.registry.faults().clear();
    drop((image, node));
    let node = lab.node();
    let state = node.runtime.block_on(node.image(&lab.image).layer(&lab.image.layers[0]));
    assert!(matches!(state, Ok(LayerState::Lazy(_))));
}

#[test]
fn a_wrong_ztoc_is_refused() {
    let good = Lab::new(&[source()]);
    let mut cut = good.image.ztocs[0].clone();
    cut.truncate(cut.len() / 2);
    let mut other_tar = TarWriter::default();
    let other = gzip(&other_tar.file("other", b"other").finish(), 6);
    let other = soci_core::ztoc::build_gzip(other.as_slice(), &soci_core::ztoc::BuildOptions::default())
        .unwrap()
        .ztoc;
    for ztoc in [cut, other, Vec::new()] {
        let lab = Lab::new(&[LayerSource { ztoc: Some(ztoc), ..source() }]);
        let node = lab.node();
        assert!(node.runtime.block_on(node.image(&lab.image).layer(&lab.image.layers[0])).is_err());
    }
}

#[test]
fn the_background_class_completes_a_layer() {
    let lab = Lab::new(&[source()]);
    let node = lab.node_that_completes();
    let layer = node.layer(&lab.image, 0);
    eventually("the whole layer is here", || layer.cached_size() == layer.uncompressed_size());
    assert_eq!(node.stats.background_spans.get(), u64::from(layer.spans().ztoc().spans().len()));
    assert_eq!(lab.ranges(0).len(), 1, "short spans that follow each other come together");
}

#[test]
fn what_the_background_did_not_get_it_asks_for_again() {
    let lab = Lab::new(&[source()]);
    // One request and its repetitions.
    let blob = When::path(lab.image.layers[0].to_string());
    lab.registry.faults().add_times(blob, Fault::Status(503, None), 3);
    let node = lab.node_that_completes();
    let layer = node.layer(&lab.image, 0);
    eventually("the whole layer is here", || layer.cached_size() == layer.uncompressed_size());
}

#[test]
fn a_layer_that_goes_away_takes_its_queue_along() {
    let all =
        json!({ "version": "1.0", "prefetch_spans": [{ "start_span": 0, "end_span": 15 }] }).to_string();
    let lab = Lab::new(&[LayerSource { artifact: Some(all.into_bytes()), ..source() }]);
    lab.break_layer(Fault::Hang);
    let root = lab.root.path();
    {
        let node = lab.node();
        let layer = node.layer(&lab.image, 0);
        eventually("prefetch is under way", || !lab.ranges(0).is_empty());
        drop(layer);
    }
    // The caches of the ended node are closed: another one can open them.
    lab.registry.faults().clear();
    let node = TestNode::new(root, |options| options.prefetch = false);
    let layer = node.layer(&lab.image, 0);
    assert_eq!(read(&node, &layer, "small", 0, 5).unwrap(), b"hello");
}

#[test]
fn unused_caches_go_before_parts_of_layers_in_use() {
    let tar = |seed| TarWriter::default().file("f", &noise(seed, 1 << 20)).finish();
    let lab = Lab::new(&[LayerSource::of_tar(&tar(3)), LayerSource::of_tar(&tar(4)), source()]);
    let node = || TestNode::new(lab.root.path(), |_| {});
    let caches = || std::fs::read_dir(lab.root.path().join("cache")).unwrap().count();
    let goal = |must, may| Goal { must, may };
    {
        let node = node();
        for at in [0, 1] {
            read(&node, &node.layer(&lab.image, at), "f", 0, 1 << 20).unwrap();
        }
        assert_eq!(caches(), 3, "the context opens all layers of its image");
        assert!(node.node.disk().unwrap().cached >= 2 << 20);
        let (bytes, files) = node.node.disk_of(&lab.image.layers[0]);
        assert!((1 << 20..2 << 20).contains(&bytes) && files >= 3, "{bytes} bytes, {files} files");
    }
    let node = node();
    let other = publish(&lab.registry, "other", &[source()], SPAN * 2);
    let layer = node.layer(&other, 0);
    assert_eq!(read(&node, &layer, "small", 0, 5).unwrap(), b"hello");
    let needed = lab.image.layers[0];
    let make = |goal| node.node.make_room(goal, 0, &|layer| *layer == needed);
    assert_eq!(make(goal(0, 0)), 0);
    assert!(make(goal(1, 0)) >= 1);
    assert!(caches() < 4 && node.stats.caches_evicted.get() >= 1);
    // What is needed goes last, and only if it must. What was read in this round is not idle.
    while make(goal(0, 1)) > 0 {}
    assert!(node.node.disk_of(&needed).0 >= 1 << 20, "it is needed");
    let held = layer.spans().cache().bytes_present();
    assert!(held > 0);
    assert!(make(goal(u64::MAX, 0)) >= 1 << 20);
    assert_eq!((node.node.disk_of(&needed), layer.spans().cache().bytes_present()), ((0, 0), 0));
    assert_eq!(read(&node, &layer, "small", 0, 5).unwrap(), b"hello", "it is fetched again");
    assert_eq!(layer.spans().cache().bytes_present(), held);
}

#[test]
fn reads_wait_for_what_may_heal() {
    let faults = [
        Fault::Status(401, None),
        Fault::Status(403, None),
        Fault::Status(404, None),
        Fault::Status(503, None),
        Fault::Corrupt,
        Fault::Truncate(100),
        Fault::NoContentRange,
    ];
    for fault in faults {
        let lab = Lab::new(&[source()]);
        let node = TestNode::new(lab.root.path(), |options| {
            options.prefetch = false;
            options.spans.retry_for = Duration::from_secs(25);
        });
        let layer = node.layer(&lab.image, 0);
        assert_eq!(read(&node, &layer, "small", 0, 5).unwrap(), b"hello");
        lab.break_layer(fault.clone());
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| read(&node, &layer, "big", 0, 100_000));
            eventually("a read asks again", || node.stats.reads_retried.get() > 1);
            lab.registry.faults().clear();
            let bytes = reader.join().unwrap().unwrap_or_else(|error| panic!("{fault:?}: {error}"));
            assert!(bytes == big()[..100_000], "{fault:?}");
        });
    }
}
