//! What a process has once: registry client, store of small blobs, cache directory, fetch engine; and the images that are alive.
//!
//! State: images by request, kept while used, and for a while after. What must always hold: the first request for an image starts
//! everything, and nobody waits here.

mod disk;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use soci_core::digest::Digest;
use soci_core::registry::Registry;
use soci_core::store::{self, Artifacts, LayoutStore};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::boot::BootId;
use crate::cache::stored;
use crate::engine::{Engine, EngineOptions};
use crate::image::{Companions, Discovery, ImageContext, ImageOptions, ImageRequest, Source};
use crate::layer::LayerError;
use crate::layer::services::Services;
use crate::layer::tables::Tables;
use crate::mounts::{Mounts, MountsOptions};
use crate::pack::PackOptions;
use crate::span::SpanOptions;
use crate::storage::{Needed, Swept};
use crate::telemetry::stats::Stats;

/// An image that nobody asked about for so long gives up its layers, unless they are mounted.
const IDLE: Duration = Duration::from_mins(2);
/// How long "this image has no index" is believed: long enough for all layers of one pull.
const NO_INDEX: Duration = Duration::from_secs(10);

/// What a [`Node`] is made of.
#[derive(Debug)]
pub struct NodeOptions {
    /// The daemon's directory; span caches go to `cache/` below it.
    pub root: PathBuf,
    /// The registry client.
    pub registry: Registry,
    /// Store of manifests, indexes, zTOCs and artifacts.
    pub content: LayoutStore,
    /// Runtime for everything asynchronous.
    pub runtime: Handle,
    /// The process's counters.
    pub stats: Arc<Stats>,
    /// Which ways of finding an index are allowed.
    pub discovery: Discovery,
    /// Whether prefetch artifacts are used.
    pub prefetch: bool,
    /// Which companions of an image are used.
    pub pack: PackOptions,
    /// The fetch engine.
    pub engine: EngineOptions,
    /// Reads.
    pub spans: SpanOptions,
    /// Mounts.
    pub mounts: MountsOptions,
}

/// The data plane of one process.
#[derive(Debug)]
pub struct Node {
    root: PathBuf,
    services: Arc<Services>,
    options: Arc<ImageOptions>,
    registry: Registry,
    content: LayoutStore,
    images: Mutex<Images>,
}

#[derive(Debug, Default)]
struct Images {
    live: HashMap<ImageKey, Arc<ImageContext>>,
    made: u64,
}

/// All that makes one image another: what a request says.
type ImageKey = (String, Digest, Option<Digest>, Companions, Option<String>);

impl Node {
    /// Makes the cache directory and starts the engine.
    pub fn new(options: NodeOptions) -> Result<Arc<Self>, LayerError> {
        let cache = options.root.join("cache");
        std::fs::create_dir_all(&cache).map_err(LayerError::Cache)?;
        let engine = Engine::new(options.runtime.clone(), options.engine, Arc::clone(&options.stats));
        let mounts = Mounts::new(options.mounts, options.runtime.clone(), Arc::clone(&options.stats));
        let node = Arc::new(Self {
            root: options.root,
            services: Arc::new(Services {
                engine,
                stats: options.stats,
                cache,
                boot: BootId::current(),
                spans: options.spans,
                mounts,
                mounted: watch::Sender::default(),
                silent: Mutex::default(),
                layers: Mutex::default(),
            }),
            options: Arc::new(ImageOptions {
                discovery: options.discovery,
                prefetch: options.prefetch,
                pack: options.pack,
            }),
            registry: options.registry,
            content: options.content,
            images: Mutex::default(),
        });
        let weak = Arc::downgrade(&node);
        options.runtime.spawn(async move {
            loop {
                tokio::time::sleep(IDLE / 4).await;
                let Some(node) = weak.upgrade() else { return };
                let gone = node.images.lock().sweep();
                drop(gone);
            }
        });
        Ok(node)
    }

    /// The image of a request. The first call for it starts everything: index discovery, all zTOCs and artifacts, then
    /// prefetch. Never blocks; errors are met by [`ImageContext::layer`].
    pub fn image(&self, request: &ImageRequest) -> Arc<ImageContext> {
        let (name, workload) = (request.reference.whole(), request.workload.clone());
        let key = (name, request.manifest_digest, request.index_digest, request.companions, workload);
        let mut images = self.images.lock();
        let gone = images.sweep();
        if let Some(known) = images.live.get(&key) {
            known.touch();
            return Arc::clone(known);
        }
        images.made += 1;
        let source = Source {
            store: self.content.clone(),
            repository: self.registry.repository(&request.reference),
            tables: Tables::new(),
            writes: Arc::default(),
        };
        let image = Arc::new(ImageContext::new(
            request.clone(),
            images.made,
            Arc::clone(&self.services),
            Arc::clone(&self.options),
            source,
        ));
        images.live.insert(key, Arc::clone(&image));
        drop(images);
        drop(gone);
        self.services.engine.quiet();
        let starting = Arc::clone(&image);
        self.services.engine.runtime().spawn(async move { starting.start().await });
        image
    }

    /// What images use that somebody has asked for within this time: as a rule, they are being pulled.
    pub fn in_work(&self, within: Duration) -> Needed {
        let mut needed = Needed::default();
        let images: Vec<_> = self.images.lock().live.values().cloned().collect();
        for image in images.iter().filter(|image| image.idle() <= within) {
            needed.documents.extend(image.documents());
            needed.layers.extend(image.known_layers());
        }
        needed
    }

    /// Takes away what goes; the bytes that this gave, and whether a layer is still in use. Blocking.
    pub fn reclaim(&self, Swept { kept, over }: &Swept) -> Result<(u64, bool), LayerError> {
        let is_over = |image: &ImageContext| !kept.documents.contains(&image.request().manifest_digest);
        // They hold their layers; dropped outside the lock.
        let images: Vec<_> = self.images.lock().live.extract_if(|_, image| is_over(image)).collect();
        drop(images);
        let (mut bytes, mut in_use) = (0, false);
        for cache in stored::stored(&self.services.cache).map_err(LayerError::Cache)? {
            if kept.layers.contains(&cache.layer) {
                continue;
            }
            if self.services.drop_cache(&cache) {
                bytes += cache.bytes;
            } else {
                in_use = true;
            }
        }
        if !over.is_empty() {
            let (artifacts, kept) = (Artifacts::open(&self.root)?, kept.documents.iter().copied());
            bytes += store::reclaim(&self.content, &artifacts, over.iter().copied(), kept)?.bytes();
        }
        Ok((bytes, in_use))
    }

    /// The mounts.
    pub fn mounts(&self) -> &Arc<Mounts> {
        &self.services.mounts
    }

    /// Brings the caches of all layers in use to disk and marks them as closed cleanly. For the end of the process, after
    /// the last mount is gone or when mounts stay behind.
    pub fn close(&self) {
        let live: Vec<_> = self.services.layers.lock().values().cloned().collect();
        for layer in live {
            let Some(spans) = layer.lock().spans.upgrade() else { continue };
            if let Err(error) = spans.cache().close() {
                tracing::warn!(%error, "span cache was not closed cleanly");
            }
        }
    }
}

impl Images {
    /// Takes out what is idle. The result is dropped outside the lock.
    #[must_use]
    fn sweep(&mut self) -> Vec<Arc<ImageContext>> {
        let idle =
            |image: &ImageContext| image.idle() > IDLE || image.without_index() && image.idle() > NO_INDEX;
        self.live.extract_if(|_, image| idle(image)).map(|(_, image)| image).collect()
    }
}
