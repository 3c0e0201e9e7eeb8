//! What images and layers use, and the layers that are alive: one for each layer and table, kept by whoever uses it.
//!
//! State: the table of live layers. Two images that share a layer and its zTOC share its cache, its fetches and its tree. Who holds
//! the lock of a layer's place is the only one to open or remove the layer's cache.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use parking_lot::Mutex;
use soci_core::digest::Digest;
use soci_core::tree::LayerTree;
use soci_core::ztoc::Ztoc;
use tokio::sync::watch;

use super::{Layer, LayerError};
use crate::boot::BootId;
use crate::cache::bitmap::Identity;
use crate::cache::stored;
use crate::cache::{SpanCache, is_for_space};
use crate::engine::Engine;
use crate::mounts::Mounts;
use crate::span::room::Round;
use crate::span::{SpanManager, SpanOptions};
use crate::storage::Goal;
use crate::telemetry::stats::Stats;

/// Room that is made for a cache on a full disk, bytes.
const FOR_A_CACHE: u64 = 16 << 20;

/// What images and layers use.
#[derive(Debug)]
pub(crate) struct Services {
    pub(crate) engine: Engine,
    pub(crate) stats: Arc<Stats>,
    pub(crate) cache: PathBuf,
    pub(crate) boot: BootId,
    pub(crate) spans: SpanOptions,
    pub(crate) mounts: Arc<Mounts>,
    /// Changes when a layer is mounted.
    pub(crate) mounted: watch::Sender<()>,
    /// Registries that have not answered in time, and when.
    pub(crate) silent: Mutex<HashMap<String, Instant>>,
    pub(crate) layers: Mutex<HashMap<LayerKey, Arc<Mutex<Live>>>>,
}

/// Digests of a layer and of its zTOC.
pub(crate) type LayerKey = (Digest, Digest);

/// A layer that is in use, or whose fetches still end.
#[derive(Debug, Default)]
pub(crate) struct Live {
    layer: Weak<Layer>,
    pub(crate) spans: Weak<SpanManager>,
}

impl Services {
    /// Takes a cache away that nobody uses; whether it is gone.
    pub(crate) fn drop_cache(&self, cache: &stored::Stored) -> bool {
        let slot = self.slot((cache.layer, cache.ztoc));
        // Who holds the lock may be making room, too.
        let Some(live) = slot.try_lock().filter(|live| live.spans.strong_count() == 0) else { return false };
        match cache.remove() {
            Ok(true) => {
                self.stats.caches_evicted.inc();
                tracing::info!(layer = %cache.layer, bytes = cache.bytes, "unused span cache evicted");
                drop(live);
                true
            }
            Ok(false) => false,
            Err(error) => {
                tracing::warn!(layer = %cache.layer, %error, "span cache could not be evicted");
                false
            }
        }
    }

    /// Opens a cache. On a full disk others must make room for what it has to write at first.
    fn open_cache(&self, identity: Identity) -> io::Result<SpanCache> {
        let open = || SpanCache::open(&self.cache, identity, self.boot);
        match open() {
            Err(error) if is_for_space(&error) => {
                let goal = Goal { must: FOR_A_CACHE, may: 0 };
                let given = self.make_room(goal, Round::MAX, &|layer| *layer == identity.layer);
                tracing::warn!(layer = %identity.layer, given, "the disk is full: other layers have made room");
                open()
            }
            opened => opened,
        }
    }

    /// The slot of a layer; who holds its lock is the only one to open or remove the layer's cache.
    fn slot(&self, key: LayerKey) -> Arc<Mutex<Live>> {
        let mut layers = self.layers.lock();
        layers.retain(|_, live| Arc::strong_count(live) > 1 || live.lock().spans.strong_count() > 0);
        Arc::clone(layers.entry(key).or_default())
    }

    /// The layer with this zTOC: the live one, or a new one over its cache.
    pub(crate) async fn layer(self: Arc<Self>, digest: Digest, ztoc: Ztoc) -> Result<Arc<Layer>, LayerError> {
        let made = tokio::task::spawn_blocking(move || self.layer_blocking(digest, ztoc));
        made.await.map_err(|_| LayerError::CutOff)?
    }

    fn layer_blocking(&self, digest: Digest, ztoc: Ztoc) -> Result<Arc<Layer>, LayerError> {
        let slot = self.slot((digest, ztoc.digest()));
        let mut live = slot.lock();
        if let Some(layer) = live.layer.upgrade() {
            return Ok(layer);
        }
        let spans = if let Some(spans) = live.spans.upgrade() {
            spans
        } else {
            let identity = SpanManager::identity(digest, &ztoc);
            let cache = self.open_cache(identity).map_err(LayerError::Cache)?;
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
