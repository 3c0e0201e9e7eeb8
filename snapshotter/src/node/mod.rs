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
use crate::choice::Chooser;
use crate::engine::{Engine, EngineOptions, Load};
use crate::image::{Companions, Discovery, ImageContext, ImageOptions, ImageRequest, Source};
use crate::layer::LayerError;
use crate::layer::services::Services;
use crate::layer::tables::Tables;
use crate::mounts::{Mounts, MountsOptions};
use crate::pack::PackOptions;
use crate::span::SpanOptions;
use crate::starts::Starts;
use crate::storage::{Needed, Swept};
use crate::telemetry::stats::Stats;
use crate::telemetry::tally::Tally;

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

/// A layer that is in use.
#[derive(Debug, Clone)]
pub struct LayerInUse {
    /// Its digest.
    pub digest: Digest,
    /// Bytes of its blob.
    pub blob: u64,
    /// Plain bytes of its tar.
    pub size: u64,
    /// Of these, the bytes that are cached.
    pub cached: u64,
    /// Its counters.
    pub tally: Arc<Tally>,
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
    starts: Arc<Starts>,
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
        let starts = Starts::new(Arc::clone(&options.stats));
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
            starts,
        });
        let weak = Arc::downgrade(&node);
        options.runtime.spawn(async move {
            loop {
                tokio::time::sleep(IDLE / 4).await;
                let Some(node) = weak.upgrade() else { return };
                node.starts.look();
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
        let account = self.starts.account(&request.reference.whole(), request.manifest_digest);
        if request.companions == Companions::Discover {
            self.starts.pulling(&account);
        }
        let source = Source {
            store: self.content.clone(),
            repository: self.registry.repository(&request.reference).metered(&account.meter),
            tables: Tables::new(),
            writes: Arc::default(),
        };
        let image = Arc::new(ImageContext::new(
            request.clone(),
            images.made,
            Arc::clone(&self.services),
            Arc::clone(&self.options),
            source,
            account,
        ));
        images.live.insert(key, Arc::clone(&image));
        drop(images);
        drop(gone);
        self.services.engine.quiet();
        let starting = Arc::clone(&image);
        self.services.engine.runtime().spawn(async move { starting.start().await });
        image
    }

    /// The image of a layer that was served before, for a container that starts from it: the one that is in use, if there is one, so
    /// that nothing is opened a second time.
    pub fn image_in_use(&self, request: &ImageRequest) -> Arc<ImageContext> {
        let name = request.reference.whole();
        let same = |key: &ImageKey| key.0 == name && key.1 == request.manifest_digest;
        let images = self.images.lock();
        let known = images.live.iter().filter(|(key, _)| same(key)).map(|(_, image)| image);
        let newest = known.max_by_key(|image| image.number).cloned();
        drop(images);
        newest.unwrap_or_else(|| self.image(request))
    }

    /// Whether a start may get another pack than the one that its image was pulled with.
    pub fn chooser(&self) -> &Chooser {
        &self.options.pack.chooser
    }

    /// The process's counters.
    pub fn stats(&self) -> &Stats {
        &self.services.stats
    }

    /// The records of starts.
    pub const fn starts(&self) -> &Arc<Starts> {
        &self.starts
    }

    /// What is out and what waits now.
    pub fn load(&self) -> Load {
        self.services.engine.load()
    }

    /// Layers in use: each with its size and the bytes of it that are cached, plain both, and its counters.
    pub fn layers(&self) -> Vec<LayerInUse> {
        let slots: Vec<_> =
            self.services.layers.lock().iter().map(|(key, slot)| (key.0, Arc::clone(slot))).collect();
        let live = slots.into_iter().filter_map(|(digest, slot)| {
            let spans = slot.try_lock()?.spans.upgrade()?;
            let (blob, size) = (spans.ztoc().compressed_size(), spans.ztoc().uncompressed_size());
            let cached = spans.cache().bytes_present();
            Some(LayerInUse { digest, blob, size, cached, tally: Arc::clone(spans.tally()) })
        });
        live.collect()
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
