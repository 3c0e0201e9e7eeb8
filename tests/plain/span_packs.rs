//! Bytes that a pack has brought, at a node with a registry: what a reader is spared, and how spans put them right.

use std::sync::Arc;
use std::time::Duration;

use harness::image::{LayerSource, Published, TarWriter, publish};
use harness::node::TestNode;
use harness::patience::eventually;
use harness::registry::TestRegistry;
use snapshotter::engine::BackgroundOptions;
use snapshotter::fs::InodeNo;
use snapshotter::layer::Layer;
use snapshotter::node::NodeOptions;
use soci_core::units::ByteRange;

const SPAN: u64 = 64 << 10;

fn content() -> Vec<u8> {
    (0..1u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 20) as u8).collect()
}

struct Lab {
    registry: TestRegistry,
    image: Published,
    tar: Vec<u8>,
    root: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let registry = TestRegistry::start();
        let tar = TarWriter::default().file("file", &content()).finish();
        let image = publish(&registry, "lab", &[LayerSource::of_tar(&tar)], SPAN);
        Self { registry, image, tar, root: tempfile::tempdir().unwrap() }
    }

    fn node(&self, change: impl FnOnce(&mut NodeOptions)) -> (TestNode, Arc<Layer>) {
        let node = TestNode::new(self.root.path(), change);
        let layer = node.layer(&self.image, 0);
        (node, layer)
    }

    /// Ranged requests so far.
    fn ranges(&self) -> usize {
        let layer = self.image.layers[0].to_string();
        let of_layer = |path: &str| path.ends_with(&layer);
        self.registry
            .requests()
            .iter()
            .filter(|request| request.range.is_some() && of_layer(&request.path))
            .count()
    }
}

fn background(options: &mut NodeOptions) {
    options.engine.background =
        Some(BackgroundOptions { silence: Duration::ZERO, period: Duration::from_millis(1) });
}

/// Where the file's bytes `start..end` lie in the layer.
fn plain(layer: &Layer, start: u64, end: u64) -> ByteRange {
    let fs = layer_fs(layer);
    let at = fs.content(fs.lookup(InodeNo::ROOT, b"file").unwrap().ino).unwrap().start;
    ByteRange::new(at + start, at + end)
}

fn layer_fs(layer: &Layer) -> snapshotter::fs::LayerFs {
    layer.fs()
}

fn read(node: &TestNode, layer: &Layer, start: u64, end: u64) -> Vec<u8> {
    let fs = layer_fs(layer);
    let ino = fs.lookup(InodeNo::ROOT, b"file").unwrap().ino;
    let size = (end - start) as u32;
    let bytes = match fs.read_cached(ino, start, size).unwrap() {
        Some(bytes) => bytes,
        None => node.runtime.block_on(fs.read(ino, start, size)).unwrap(),
    };
    bytes.to_vec()
}

#[test]
fn packed_bytes_cost_no_request_and_outlive_the_process() {
    let lab = Lab::new();
    let content = content();
    let (node, layer) = lab.node(|_| {});
    let range = plain(&layer, 100_000, 300_000);
    layer.spans().fill_packed(&[(range.start, &content[100_000..300_000])]).unwrap();
    assert_eq!(read(&node, &layer, 100_000, 300_000), content[100_000..300_000]);
    assert_eq!((lab.ranges(), node.stats.pack_hits.get()), (0, 1));
    drop((layer, node));

    let (node, layer) = lab.node(|_| {});
    assert_eq!(read(&node, &layer, 110_000, 290_000), content[110_000..290_000]);
    assert_eq!(lab.ranges(), 0);
    assert_eq!(layer.spans().states().cached(), 0, "none was checked");
}

#[test]
fn the_background_class_compares_what_a_pack_has_brought() {
    for wrong in [false, true] {
        let lab = Lab::new();
        let mut content = content();
        if wrong {
            content[200_000] ^= 1;
        }
        let (node, layer) = lab.node(|_| {});
        let range = plain(&layer, 190_000, 210_000);
        layer.spans().fill_packed(&[(range.start, &content[190_000..210_000])]).unwrap();
        assert_eq!(read(&node, &layer, 190_000, 210_000), content[190_000..210_000]);
        drop((layer, node));

        let (node, layer) = lab.node(background);
        let spans = layer.spans().ztoc().spans().len();
        eventually("all spans are checked", || layer.spans().states().cached() == spans);
        assert_eq!(node.stats.pack_mismatches.get(), u64::from(wrong));
        let whole = ByteRange::new(0, lab.tar.len() as u64);
        assert_eq!(layer.spans().read_checked(whole).unwrap(), lab.tar, "the spans' bytes win");
    }
}

#[test]
fn a_promise_that_is_not_kept_costs_its_patience_only() {
    let lab = Lab::new();
    let (node, layer) = lab.node(|options| options.spans.pack_patience = Duration::from_millis(5));
    layer.spans().promise(vec![plain(&layer, 0, 1 << 20)]);
    assert_eq!(read(&node, &layer, 70_000, 70_100), content()[70_000..70_100]);
    assert_eq!(lab.ranges(), 1);
}
