//! What a process has once, and the tables of what is alive in it.
//!
//! State: images by request (kept while used, and for a while after), layers by layer and zTOC digest (kept by whoever
//! uses them). Two images that share a layer and its zTOC share its cache, its fetches and its tree.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use soci_core::digest::Digest;
use soci_core::registry::Registry;
use soci_core::store::{self, Artifacts, LayoutStore};
use soci_core::tree::LayerTree;
use soci_core::ztoc::Ztoc;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::companions::Companions;
use super::image::{ImageContext, ImageRequest};
use super::resolver::{Discovery, Source};
use super::tables::Tables;
use super::{Layer, LayerError, PackOptions};
use crate::mounts::{Mounts, MountsOptions};
use crate::prefetch::{Engine, EngineOptions};
use crate::span::bitmap::BootId;
use crate::span::cache::SpanCache;
use crate::span::{SpanManager, SpanOptions, eviction};
use crate::stats::Stats;
use crate::storage::{Needed, Swept};

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
    /// Bytes on disk above which caches of unused layers are evicted, the longest unused first. 0: no limit.
    pub cache_limit: u64,
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

/// What images and layers use.
#[derive(Debug)]
pub(super) struct Services {
    pub(super) engine: Engine,
    pub(super) stats: Arc<Stats>,
    pub(super) discovery: Discovery,
    pub(super) prefetch: bool,
    pub(super) pack: PackOptions,
    cache: PathBuf,
    cache_limit: u64,
    boot: BootId,
    spans: SpanOptions,
    mounts: Arc<Mounts>,
    /// Changes when a layer is mounted.
    pub(super) mounted: watch::Sender<()>,
    layers: Mutex<HashMap<LayerKey, Arc<Mutex<Live>>>>,
}

/// Digests of a layer and of its zTOC.
type LayerKey = (Digest, Digest);

/// A layer that is in use, or whose fetches still end.
#[derive(Debug, Default)]
struct Live {
    layer: Weak<Layer>,
    spans: Weak<SpanManager>,
}

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
                discovery: options.discovery,
                prefetch: options.prefetch,
                pack: options.pack,
                cache,
                cache_limit: options.cache_limit,
                boot: BootId::current(),
                spans: options.spans,
                mounts,
                mounted: watch::Sender::default(),
                layers: Mutex::default(),
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
                let services = Arc::clone(&node.services);
                drop(node);
                // A panic in there was logged by its thread.
                let _ = tokio::task::spawn_blocking(move || services.evict()).await;
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
        };
        let image =
            Arc::new(ImageContext::new(request.clone(), images.made, Arc::clone(&self.services), source));
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
        for cache in eviction::stored(&self.services.cache).map_err(LayerError::Cache)? {
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

impl Services {
    /// Takes away the longest unused caches until the rest fits the limit.
    fn evict(&self) {
        if self.cache_limit == 0 {
            return;
        }
        let stored = match eviction::stored(&self.cache) {
            Ok(stored) => stored,
            Err(error) => return tracing::warn!(%error, "span caches cannot be listed"),
        };
        let mut total: u64 = stored.iter().map(|cache| cache.bytes).sum();
        for cache in stored {
            if total <= self.cache_limit {
                return;
            }
            if self.drop_cache(&cache) {
                total -= cache.bytes;
            }
        }
    }

    /// Takes a cache away that nobody uses; whether it is gone.
    fn drop_cache(&self, cache: &eviction::Stored) -> bool {
        let slot = self.slot((cache.layer, cache.ztoc));
        let live = slot.lock();
        if live.spans.strong_count() > 0 {
            return false;
        }
        match cache.remove() {
            Ok(true) => {
                self.stats.caches_evicted.inc();
                tracing::info!(layer = %cache.layer, bytes = cache.bytes, "unused span cache evicted");
                true
            }
            Ok(false) => false,
            Err(error) => {
                tracing::warn!(layer = %cache.layer, %error, "span cache could not be evicted");
                false
            }
        }
    }

    /// The slot of a layer; who holds its lock is the only one to open or remove the layer's cache.
    fn slot(&self, key: LayerKey) -> Arc<Mutex<Live>> {
        let mut layers = self.layers.lock();
        layers.retain(|_, live| Arc::strong_count(live) > 1 || live.lock().spans.strong_count() > 0);
        Arc::clone(layers.entry(key).or_default())
    }

    /// The layer with this zTOC: the live one, or a new one over its cache.
    pub(super) async fn layer(self: Arc<Self>, digest: Digest, ztoc: Ztoc) -> Result<Arc<Layer>, LayerError> {
        let made = tokio::task::spawn_blocking(move || self.layer_blocking(digest, ztoc));
        made.await.map_err(|_| LayerError::CutOff)?
    }

    fn layer_blocking(&self, digest: Digest, ztoc: Ztoc) -> Result<Arc<Layer>, LayerError> {
        self.evict();
        let slot = self.slot((digest, ztoc.digest()));
        let mut live = slot.lock();
        if let Some(layer) = live.layer.upgrade() {
            return Ok(layer);
        }
        let spans = if let Some(spans) = live.spans.upgrade() {
            spans
        } else {
            let identity = SpanManager::identity(digest, &ztoc);
            let cache = SpanCache::open(&self.cache, identity, self.boot).map_err(LayerError::Cache)?;
            SpanManager::new(ztoc, cache, self.engine.clone(), Arc::clone(&self.stats), self.spans)
        };
        let files = spans.ztoc().files();
        let tree = LayerTree::build(files, files.len());
        if let Some(first) = tree.refused().first() {
            let name = String::from_utf8_lossy(&files[first.entry as usize].name).into_owned();
            return Err(LayerError::Entries { count: tree.refused().len(), name, reason: first.reason });
        }
        let layer = Arc::new(Layer {
            digest,
            tree: Arc::new(tree),
            mounts: Arc::clone(&self.mounts),
            image: OnceLock::new(),
            stats: Arc::clone(&self.stats),
            kernels: Mutex::default(),
            mounted: self.mounted.clone(),
            _interest: spans.attach(),
            spans,
        });
        // All layers of an image come here at once; their mounts come one after another.
        layer.image_ahead();
        self.engine.runtime().spawn(Layer::follow(Arc::downgrade(&layer), layer.spans.forgotten()));
        *live = Live { layer: Arc::downgrade(&layer), spans: Arc::downgrade(layer.spans()) };
        self.stats.layers_resolved.inc();
        Ok(layer)
    }
}
