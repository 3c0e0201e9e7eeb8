//! What one registry host does, or does not do, is nothing to what comes from another: readers' requests, and prefetch.

use std::sync::Arc;
use std::time::Duration;

use harness::disk_image::half_random;
use harness::faults::{Fault, When};
use harness::image::{LayerSource, Published, TarWriter, gzip, publish};
use harness::node::TestNode;
use harness::patience::eventually;
use harness::registry::TestRegistry;
use serde_json::json;
use snapshotter::layer::Layer;
use soci_core::digest::Digest;
use soci_core::registry::{HostPolicy, Registry, RegistryOptions, RetryPolicy, Timeouts};
use soci_core::units::{ByteRange, SpanId};
use tokio::task::JoinHandle;

const SPAN: u64 = 32 << 10;
/// More than a host may have readers' requests out.
const READERS: u32 = 80;
/// How long a registry may be silent here: longer than these tests take.
const SILENCE: Duration = Duration::from_mins(10);

/// A registry with images of one layer.
struct Host(TestRegistry);

impl Host {
    fn image(&self, seed: u64, artifact: Option<Vec<u8>>) -> Published {
        let tar = TarWriter::default().file("big", &half_random(6 << 20, seed)).finish();
        let layer = LayerSource {
            gzip: gzip(&tar, 6),
            diff_id: Some(Digest::of(&tar)),
            artifact,
            ..LayerSource::default()
        };
        publish(&self.0, &format!("image-{seed}"), &[layer], SPAN)
    }

    fn requests(&self, layer: &Digest) -> usize {
        self.0.requests().iter().filter(|request| request.path.contains(&layer.to_string())).count()
    }

    fn fault(&self, image: &Published, fault: Fault) {
        self.0.faults().add(When::path(image.layers[0].to_string()), fault);
    }
}

fn patient_node(root: &tempfile::TempDir) -> TestNode {
    TestNode::new(root.path(), |options| {
        let timeouts = Timeouts { header: SILENCE, stall: SILENCE, whole: SILENCE, ..Timeouts::default() };
        options.registry = Registry::new(RegistryOptions { timeouts, ..RegistryOptions::default() });
        options.spans.read_timeout = SILENCE;
    })
}

/// Reads one span, and nothing beside it.
fn reader(node: &TestNode, layer: &Arc<Layer>, span: u32) -> JoinHandle<Vec<u8>> {
    let spans = Arc::clone(layer.spans());
    assert!(spans.ztoc().spans().len() > READERS);
    let range = spans.ztoc().spans().uncompressed_range(SpanId(span));
    let part = ByteRange::new(range.start + 1, range.end - 1);
    node.runtime.spawn(async move { spans.read(part, part).await.unwrap() })
}

fn artifact() -> Vec<u8> {
    let spans = json!([{ "start_span": 1, "end_span": 40, "priority": 1 }]);
    json!({ "version": "1.0", "prefetch_spans": spans }).to_string().into_bytes()
}

#[test]
fn a_host_that_does_not_answer_holds_back_no_reader_of_another() {
    let (dead, alive) = (Host(TestRegistry::start()), Host(TestRegistry::start()));
    let (theirs, ours) = (dead.image(1, None), alive.image(2, None));
    let root = tempfile::tempdir().unwrap();
    let node = patient_node(&root);
    let (their_layer, our_layer) = (node.layer(&theirs, 0), node.layer(&ours, 0));
    let before = dead.requests(&theirs.layers[0]);
    dead.fault(&theirs, Fault::Hang);
    let waiting: Vec<_> = (0..READERS).map(|span| reader(&node, &their_layer, span)).collect();
    eventually("all requests are out that may be", || dead.requests(&theirs.layers[0]) - before >= 48);
    let read = node
        .runtime
        .block_on(async { tokio::time::timeout(SILENCE / 5, reader(&node, &our_layer, 3)).await });
    assert!(!read.expect("it is answered").unwrap().is_empty());
    assert!(waiting.iter().all(|reader| !reader.is_finished()));
    waiting.iter().for_each(JoinHandle::abort);
    dead.0.faults().clear();
}

#[test]
fn a_body_that_stands_still_stops_no_prefetch() {
    let (stalls, other) = (Host(TestRegistry::start()), Host(TestRegistry::start()));
    let theirs = stalls.image(1, None);
    let root = tempfile::tempdir().unwrap();
    let node = patient_node(&root);
    let layer = node.layer(&theirs, 0);
    stalls.fault(&theirs, Fault::Stall(1000));
    let before = stalls.requests(&theirs.layers[0]);
    let waiting = reader(&node, &layer, 50);
    eventually("its request is out", || stalls.requests(&theirs.layers[0]) > before);
    // Of another host at once, and of the same one when it is seen that nothing comes.
    for (number, host) in [&other, &stalls].into_iter().enumerate() {
        let image = host.image(7 + number as u64, Some(artifact()));
        node.layer(&image, 0);
        eventually("what is named is here", || node.stats.prefetch_spans.get() >= 40 * (number as u64 + 1));
    }
    assert!(!waiting.is_finished());
    waiting.abort();
    stalls.0.faults().clear();
}

#[test]
fn a_mounted_layer_follows_what_hosts_toml_says() {
    let (first, second) = (Host(TestRegistry::start()), Host(TestRegistry::start()));
    let (image, same) = (first.image(1, None), second.image(1, None));
    assert_eq!(image.layers, same.layers);
    let (root, hosts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let node = TestNode::new(root.path(), |options| {
        let policy = HostPolicy { dirs: vec![hosts.path().to_owned()], ..HostPolicy::default() };
        let retry = RetryPolicy { max_retries: 0, ..RetryPolicy::default() };
        options.registry =
            Registry::new(RegistryOptions { hosts: policy, retry, ..RegistryOptions::default() });
    });
    let layer = node.layer(&image, 0);
    let reads = |span: u32| {
        let spans = Arc::clone(layer.spans());
        let range = spans.ztoc().spans().uncompressed_range(SpanId(span));
        node.runtime.block_on(async move { spans.read(range, range).await }).is_ok()
    };
    assert!(reads(1));
    first.fault(&image, Fault::Status(503, None));
    assert!(!reads(2));
    let dir = hosts.path().join(first.0.host());
    std::fs::create_dir(&dir).unwrap();
    let write = |text: &str| std::fs::write(dir.join("hosts.toml"), text).unwrap();
    write(&format!("[host.\"http://{}\"]\ncapabilities = [\"pull\"]\n", second.0.host()));
    eventually("the mirror is asked", || reads(3));
    // A file that is half written changes nothing.
    write("[host.");
    let until = std::time::Instant::now() + Duration::from_secs(11);
    let mut span = 4;
    while std::time::Instant::now() < until {
        assert!(reads(span), "{span}");
        span += 1;
        std::thread::sleep(Duration::from_millis(250));
    }
}
