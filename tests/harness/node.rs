//! A data plane in the test's process, over a root of its own.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::daemon::program;
use crate::image::Published;
use snapshotter::engine::EngineOptions;
use snapshotter::hidden::helper::Program;
use snapshotter::image::{Client, Companions, Discovery, ImageContext, ImageRequest, LayerState};
use snapshotter::layer::{Layer, MountOptions};
use snapshotter::mounts::{FuseOptions, Keep, MountError, Mounted, MountsOptions};
use snapshotter::node::{Node, NodeOptions};
use snapshotter::pack::PackOptions;
use snapshotter::span::SpanOptions;
use snapshotter::telemetry::stats::Stats;
use soci_core::registry::{Registry, RegistryOptions, RetryPolicy, Timeouts};
use soci_core::store::LayoutStore;
use tokio::runtime::Runtime;

/// A node and what it stands on.
#[derive(Debug)]
pub struct TestNode {
    /// The node.
    pub node: Arc<Node>,
    /// Its counters.
    pub stats: Arc<Stats>,
    /// Its runtime.
    pub runtime: Runtime,
}

impl TestNode {
    /// A node on `root`, which gives up quickly on a bad registry.
    pub fn new(root: &Path, change: impl FnOnce(&mut NodeOptions)) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let stats = Arc::new(Stats::default());
        std::fs::create_dir_all(root).unwrap();
        let registry = Registry::new(RegistryOptions {
            retry: RetryPolicy {
                max_retries: 2,
                min_wait: Duration::from_millis(1),
                max_wait: Duration::from_millis(5),
            },
            timeouts: Timeouts { stall: Duration::from_secs(2), ..Timeouts::default() },
            ..RegistryOptions::default()
        });
        let mut options = NodeOptions {
            root: root.to_owned(),
            registry,
            content: LayoutStore::open(&root.join("content")).unwrap(),
            runtime: runtime.handle().clone(),
            stats: Arc::clone(&stats),
            discovery: Discovery::default(),
            prefetch: true,
            pack: PackOptions::default(),
            engine: EngineOptions::default(),
            spans: SpanOptions {
                read_timeout: Duration::from_secs(30),
                retry_for: Duration::ZERO,
                ..SpanOptions::default()
            },
            mounts: MountsOptions {
                root: root.to_owned(),
                program: Program {
                    path: program("soci-snapshotter-grpc"),
                    words: Vec::new(),
                    name: "soci-snapshotter-grpc".into(),
                },
                keep: Keep::Nothing,
                fuse: FuseOptions::default(),
            },
        };
        change(&mut options);
        let node = Node::new(options).unwrap();
        Self { node, stats, runtime }
    }

    /// The image's context.
    pub fn image(&self, image: &Published) -> Arc<ImageContext> {
        self.image_with(image, Companions::Discover)
    }

    /// The image's context, served with these companions.
    pub fn image_with(&self, image: &Published, companions: Companions) -> Arc<ImageContext> {
        self.node.image(&ImageRequest {
            reference: image.reference.parse().unwrap(),
            manifest_digest: image.manifest,
            index_digest: None,
            companions,
            workload: None,
            client: Client::default(),
        })
    }

    /// Layer `at` of the image, which must be lazy.
    pub fn layer(&self, image: &Published, at: usize) -> Arc<Layer> {
        match self.runtime.block_on(self.image(image).layer(&image.layers[at])).unwrap() {
            LayerState::Lazy(layer) => layer,
            other => panic!("layer {at} is not lazy: {other:?}"),
        }
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.node.mounts().close();
    }
}

/// A mounted layer, which is unmounted with the drop.
#[derive(Debug)]
pub struct TestMount {
    layer: Arc<Layer>,
    mounted: Mounted,
}

impl TestMount {
    /// Mounts a layer on an existing directory.
    ///
    /// # Errors
    /// When it cannot be mounted.
    pub fn new(layer: &Arc<Layer>, mountpoint: &Path, options: &MountOptions) -> Result<Self, MountError> {
        Ok(Self { mounted: layer.mount(mountpoint, options)?, layer: Arc::clone(layer) })
    }

    /// Where it is mounted.
    pub fn mountpoint(&self) -> &Path {
        self.mounted.mountpoint()
    }
}

impl Drop for TestMount {
    fn drop(&mut self) {
        self.layer.mounts().unmount(&self.mounted);
    }
}
