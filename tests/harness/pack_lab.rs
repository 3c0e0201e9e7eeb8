//! An image with companions in a test registry, and nodes that read its plain tars.

use std::sync::Arc;
use std::time::Duration;

use crate::companions::{FineParts, PackParts, PutFine, REPOSITORY};
use crate::disk_image::half_random;
use crate::image::{LayerSource, Published, TarWriter, gzip, publish};
use crate::registry::{Habits, Request, TestRegistry};
use serde_json::json;
use snapshotter::engine::BackgroundOptions;
use snapshotter::image::{Companions, ImageContext, LayerState};
use snapshotter::layer::Layer;
use snapshotter::node::NodeOptions;
use soci_core::digest::Digest;
use soci_core::units::{ByteRange, SpanId};

use crate::node::TestNode;
use crate::patience::eventually;

/// Plain bytes of the spans of a zTOC here.
pub const COARSE: u64 = 256 << 10;
/// Plain bytes of the spans of a fine index here.
pub const FINE: u64 = 64 << 10;
/// Plain bytes of a layer's file.
pub const FILE: usize = 1 << 20;

/// The image, its truth, and where nodes live.
#[derive(Debug)]
pub struct Lab {
    /// Where the image is.
    pub registry: TestRegistry,
    /// The image.
    pub image: Published,
    /// Its layers.
    pub sources: Vec<LayerSource>,
    /// Their plain tars.
    pub tars: Vec<Vec<u8>>,
    /// The node's directory.
    pub root: tempfile::TempDir,
}

/// The plain tar of layer `seed`.
pub fn tar(seed: u64) -> Vec<u8> {
    TarWriter::default().file(&format!("file{seed}"), &half_random(FILE, seed)).finish()
}

/// Two gzip layers.
pub fn two_layers() -> Vec<(LayerSource, Vec<u8>)> {
    [tar(1), tar(2)].map(|tar| (LayerSource::of_tar(&tar), tar)).into()
}

/// A prefetch artifact that names the last span of the zTOC.
pub fn artifact() -> Vec<u8> {
    let spans = json!([{ "start_span": 3, "end_span": 3, "priority": 1 }]);
    json!({ "version": "1.0", "prefetch_spans": spans }).to_string().into_bytes()
}

/// gzip members of so many plain bytes each.
pub fn members(tar: &[u8], size: usize) -> LayerSource {
    let gzip = tar.chunks(size).flat_map(|part| gzip(part, 6)).collect();
    LayerSource { gzip, diff_id: Some(Digest::of(tar)), ..LayerSource::default() }
}

impl Lab {
    /// These layers, each with its plain tar, in a registry that follows the specification.
    pub fn new(layers: Vec<(LayerSource, Vec<u8>)>) -> Self {
        Self::with(Habits::default(), layers)
    }

    /// The same in a registry with habits.
    pub fn with(habits: Habits, layers: Vec<(LayerSource, Vec<u8>)>) -> Self {
        let registry = TestRegistry::with(habits);
        let (sources, tars): (Vec<_>, Vec<_>) = layers.into_iter().unzip();
        let image = publish(&registry, REPOSITORY, &sources, COARSE);
        Self { registry, image, sources, tars, root: tempfile::tempdir().unwrap() }
    }

    /// The fine indexes that the builder makes of the image.
    pub fn fine(&self) -> FineParts {
        FineParts::build(&self.image, &self.sources, COARSE, FINE)
    }

    /// Puts those beside the image.
    pub fn put_fine(&self) -> PutFine {
        self.fine().put(&self.registry)
    }

    /// The product's pack of these plain bytes: (layer, start, end).
    pub fn pack(&self, needs: &[(usize, u64, u64)]) -> PackParts {
        let needs: Vec<_> =
            needs.iter().map(|&(layer, start, end)| (layer, ByteRange::new(start, end))).collect();
        PackParts::of_needs(&self.image, &self.tars, &needs)
    }

    /// A node that trusts referrers.
    pub fn node(&self, change: impl FnOnce(&mut NodeOptions)) -> TestNode {
        TestNode::new(self.root.path(), |options| {
            options.pack.referrers = true;
            change(options);
        })
    }

    /// The layers at a node that trusts referrers.
    pub fn start(&self, change: impl FnOnce(&mut NodeOptions)) -> Running {
        let node = self.node(change);
        self.run(node)
    }

    /// The layers at this node.
    pub fn run(&self, node: TestNode) -> Running {
        self.run_with(node, Companions::Discover)
    }

    /// The layers at this node, served with these companions.
    pub fn run_with(&self, node: TestNode, companions: Companions) -> Running {
        let image = node.image_with(&self.image, companions);
        let layer = |digest| match node.runtime.block_on(image.layer(digest)).unwrap() {
            LayerState::Lazy(layer) => layer,
            other => panic!("{digest} is not lazy: {other:?}"),
        };
        let layers = self.image.layers.iter().map(layer).collect();
        Running { layers, image, node, tars: self.tars.clone() }
    }

    /// Requests so far that speak of a digest.
    pub fn requests(&self, digest: &Digest) -> Vec<Request> {
        let digest = digest.to_string();
        let all = self.registry.requests().into_iter();
        all.filter(|request| request.path.contains(&digest)).collect()
    }

    /// Ranged requests so far for a blob.
    pub fn ranges(&self, digest: &Digest) -> usize {
        self.requests(digest).iter().filter(|request| request.range.is_some()).count()
    }

    /// Ranged requests so far for any layer.
    pub fn layer_ranges(&self) -> usize {
        self.image.layers.iter().map(|layer| self.ranges(layer)).sum()
    }

    /// For each layer, whether its zTOC was asked for.
    pub fn ztocs_asked(&self) -> Vec<bool> {
        self.image.ztocs.iter().map(|ztoc| !self.requests(&Digest::of(ztoc)).is_empty()).collect()
    }

    /// Whether any prefetch artifact was asked for.
    pub fn artifacts_asked(&self) -> bool {
        let artifacts = self.sources.iter().filter_map(|source| source.artifact.as_ref());
        artifacts.map(|raw| Digest::of(raw)).any(|digest| !self.requests(&digest).is_empty())
    }
}

/// A node with all layers of the image.
#[derive(Debug)]
pub struct Running {
    /// The layers.
    pub layers: Vec<Arc<Layer>>,
    /// What keeps them.
    pub image: Arc<ImageContext>,
    /// The node.
    pub node: TestNode,
    tars: Vec<Vec<u8>>,
}

impl Running {
    /// Plain bytes of a layer's tar.
    pub fn read(&self, layer: usize, start: u64, end: u64) -> Result<Vec<u8>, String> {
        let spans = self.layers[layer].spans();
        let range = ByteRange::new(start, end);
        let mut bytes = vec![0; range.len() as usize];
        match spans.read_cached(range, &mut bytes) {
            Ok(true) => Ok(bytes),
            Ok(false) => {
                let whole = ByteRange::new(0, self.tars[layer].len() as u64);
                let read = self.node.runtime.block_on(spans.read(range, whole));
                read.map_err(|error| format!("{error:?}"))
            }
            Err(error) => Err(format!("{error:?}")),
        }
    }

    /// Reads plain bytes and compares them with the truth.
    #[track_caller]
    pub fn check(&self, layer: usize, start: u64, end: u64) {
        let read = self.read(layer, start, end).unwrap();
        // No `assert_eq`: a megabyte of numbers helps nobody.
        assert!(read == self.tars[layer][start as usize..end as usize], "layer {layer}, {start}..{end}");
    }

    /// Reads all of every layer and compares.
    #[track_caller]
    pub fn check_all(&self) {
        for layer in 0..self.layers.len() {
            self.check(layer, 0, self.tars[layer].len() as u64);
        }
    }

    /// Plain bytes of a span.
    pub fn span(&self, layer: usize, span: u32) -> ByteRange {
        self.layers[layer].spans().ztoc().spans().uncompressed_range(SpanId(span))
    }

    /// Whether the layers are served with fine indexes.
    pub fn fine(&self) -> Vec<bool> {
        self.layers.iter().map(|layer| layer.spans().ztoc().layer().is_some()).collect()
    }

    /// Waits until the pack is here.
    pub fn packed(&self) {
        eventually("the pack is here", || self.node.stats.packs.get() == 1);
        assert_eq!(self.node.stats.pack_failures.get(), 0);
    }
}

/// Lets the background class run without pause.
pub fn background(options: &mut NodeOptions) {
    options.engine.background =
        Some(BackgroundOptions { silence: Duration::ZERO, period: Duration::from_millis(1) });
}
