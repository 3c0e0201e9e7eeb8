//! What images and layers use, and the layers that are alive: one for each layer and table, kept by whoever uses it.
//!
//! State: the table of live layers. Two images that share a layer and its zTOC share its cache, its fetches and its tree. Who holds
//! the lock of a layer's place is the only one to open or remove the layer's cache.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use parking_lot::Mutex;
use soci_core::digest::Digest;
use soci_core::tree::LayerTree;
use soci_core::ztoc::Ztoc;
use tokio::sync::watch;

use super::resolver::Discovery;
use super::{Layer, LayerError, PackOptions};
use crate::mounts::Mounts;
use crate::prefetch::Engine;
use crate::span::bitmap::BootId;
use crate::span::cache::SpanCache;
use crate::span::{SpanManager, SpanOptions, eviction};
use crate::stats::Stats;

/// What images and layers use.
#[derive(Debug)]
pub(super) struct Services {
    pub(super) engine: Engine,
    pub(super) stats: Arc<Stats>,
    pub(super) discovery: Discovery,
    pub(super) prefetch: bool,
    pub(super) pack: PackOptions,
    pub(super) cache: PathBuf,
    pub(super) cache_limit: u64,
    pub(super) boot: BootId,
    pub(super) spans: SpanOptions,
    pub(super) mounts: Arc<Mounts>,
    /// Changes when a layer is mounted.
    pub(super) mounted: watch::Sender<()>,
    /// Registries that have not answered in time, and when.
    pub(super) silent: Mutex<HashMap<String, Instant>>,
    pub(super) layers: Mutex<HashMap<LayerKey, Arc<Mutex<Live>>>>,
}

/// Digests of a layer and of its zTOC.
pub(super) type LayerKey = (Digest, Digest);

/// A layer that is in use, or whose fetches still end.
#[derive(Debug, Default)]
pub(super) struct Live {
    layer: Weak<Layer>,
    pub(super) spans: Weak<SpanManager>,
}

impl Services {
    /// Takes away the longest unused caches until the rest fits the limit.
    pub(super) fn evict(&self) {
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
    pub(super) fn drop_cache(&self, cache: &eviction::Stored) -> bool {
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
            let engine = Arc::new(self.engine.clone());
            SpanManager::new(ztoc, cache, engine, Arc::clone(&self.stats), self.spans)
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
