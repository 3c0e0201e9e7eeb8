//! The Prepare of a snapshot: for an image layer, the choice of how it comes here.
//!
//! 1. lazily, when the image has a SOCI index with a zTOC for the layer;
//! 2. whole, pulled and unpacked here, when the image has an index but not for this layer, when the lazy way fails, or
//!    when the configuration says so. Such layers are started at the first Prepare of the image, several at once;
//! 3. by the container runtime, when the image has no index, and when everything else has failed: the caller gets the
//!    mounts of an empty snapshot, as from any snapshotter.
//!
//! The first two answer [`Error::AlreadyExists`], by which the runtime knows that it has nothing to do.

use std::sync::Arc;

use soci_core::error::chain;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, info, warn};

use super::error::{Error, Result};
use super::labels::{self, LabelError, LayerRequest};
use super::launch::Beginning;
use super::overlay::Mount;
use super::record::{Chain, Kind, Labels, Usage};
use super::serving::Missing;
use super::{Lasts, Snapshotter, unlabelled, why};
use crate::blocking::blocking;
use crate::boot::BootId;
use crate::image::{ImageContext, LayerState};
use crate::layer::Layer;
use crate::starts::Way as Came;

/// A request for an active snapshot.
#[derive(Debug, Clone)]
pub struct PrepareRequest {
    /// Its key.
    pub key: String,
    /// The committed snapshot below it.
    pub parent: Option<String>,
    /// Its labels.
    pub labels: Labels,
    /// Namespace of the client, if it said so.
    pub namespace: Option<String>,
}

/// An active snapshot that waits for its image layer.
#[derive(Debug)]
pub(super) struct LayerJob {
    /// Key of the active snapshot.
    pub(super) key: String,
    /// Name of the committed one.
    pub(super) target: String,
    /// Directories.
    pub(super) chain: Chain,
    /// The layer.
    pub(super) layer: LayerRequest,
    /// Labels that the committed snapshot gets in any case.
    pub(super) labels: Labels,
}

/// How a layer comes here.
enum Way {
    Lazy(Arc<Layer>),
    Whole,
    Runtime,
}

/// What became of one way.
enum Outcome {
    /// The layer is committed.
    Committed,
    /// It did not work out; the snapshot is as empty as before.
    NextWay,
}

impl Snapshotter {
    /// Makes an active snapshot. For an image layer that can be had without the runtime, commits it under its target
    /// name and fails with [`Error::AlreadyExists`].
    pub async fn prepare(self: &Arc<Self>, request: PrepareRequest) -> Result<Vec<Mount>> {
        let PrepareRequest { key, parent, labels, namespace } = request;
        // What becomes of an image layer lasts when it is known.
        let is_layer = labels.contains_key(labels::TARGET);
        let lasts = if is_layer { Lasts::WithTheNext } else { Lasts::Now };
        let chain = self.create(Kind::Active, key.clone(), parent.clone(), labels.clone(), lasts).await?;
        let Some(target) = labels.get(labels::TARGET).cloned() else {
            if unlabelled::is_for_a_layer(&key) {
                self.counters.unlabelled.add(namespace.as_deref(), &key);
            }
            let launching = self.announce(&chain, Beginning { key: key.clone(), parent, labels, namespace });
            let mounts = self.mounts_or_undo(key, &chain).await?;
            launching.mounted().await;
            return Ok(mounts);
        };
        if let Ok(existing) = self.stat(&target) {
            if existing.parent == parent {
                return self.abandon(key, target).await;
            }
            // The same layers on others of another namespace's runtime: containerd would not take that parent.
            return self.leave_to_runtime(key, &chain).await;
        }
        let layer = LayerRequest::from_labels(&labels).and_then(|layer| {
            layer.must_be_on(parent.as_deref())?;
            Ok(layer)
        });
        let mut layer = match layer {
            Ok(layer) => layer,
            Err(reason) => {
                if let LabelError::Missing(_) = &reason {
                    self.counters.unlabelled.add(namespace.as_deref(), &key);
                } else {
                    warn!(key, %reason, "layer cannot be served lazily: its labels do not describe it");
                }
                debug!(key, %reason, "the labels do not describe a layer");
                return self.leave_to_runtime(key, &chain).await;
            }
        };
        let mut labels = labels;
        if let Some(namespace) = labels::namespace(namespace.as_deref(), &key) {
            labels.insert(labels::NAMESPACE.to_owned(), namespace.to_owned());
            namespace.clone_into(&mut layer.client.namespace);
        }
        let job = LayerJob { key, target, chain, layer, labels };
        let begun = Instant::now();
        let provided = self.provide(&job).await;
        self.node.stats().prepares.observe(begun.elapsed());
        match provided {
            Ok(Outcome::Committed) => Err(Error::AlreadyExists(job.target)),
            Ok(Outcome::NextWay) => self.leave_to_runtime(job.key, &job.chain).await,
            // Somebody else was faster with the same layer.
            Err(Error::AlreadyExists(_)) => self.abandon(job.key, job.target).await,
            Err(error) => {
                self.undo(job.key).await;
                Err(error)
            }
        }
    }

    /// Tries the ways that do without the runtime.
    async fn provide(self: &Arc<Self>, job: &LayerJob) -> Result<Outcome> {
        let mut request = job.layer.image();
        if self.policy.always_whole {
            // Without an index nothing of it is fetched, nor anything that it would have prefetched.
            request.index_digest = None;
        }
        let image = self.node.image(&request);
        if image.is_given_up() {
            let reason = "the registry did not answer a moment ago";
            image.account().came(job.layer.layer_digest, Came::Runtime, reason, why::REGISTRY);
            debug!(key = job.key, "the image could not be found out about a moment ago");
            return Ok(Outcome::NextWay);
        }
        let deadline = Instant::now() + self.policy.mount_timeout;
        // Both before this Prepare ends: the next one must find the layers above begun.
        let begun = timeout_at(deadline, self.start_whole_layers(&image, job));
        let fits = self.must_have_diff_id(&image, job, deadline);
        let (way, _, fits) = tokio::join!(self.choose(&image, job, deadline), begun, fits);
        if let Err(different) = fits {
            self.lazy_failed(&image, job, &different);
            return Ok(Outcome::NextWay);
        }
        if matches!(way, Way::Whole) {
            // Whoever pulls it whole needs that first. The runtime may have another way to it.
            match timeout_at(deadline, image.manifest()).await {
                Ok(Ok(_)) => {}
                failed => {
                    image.give_up(failed.is_err());
                    let reason = "the manifest of the image cannot be had";
                    image.account().came(job.layer.layer_digest, Came::Runtime, reason, why::REGISTRY);
                    return Ok(Outcome::NextWay);
                }
            }
        }
        // They say what the directories look like that the layer only implies.
        self.serve(&job.chain.parents).await?;
        match way {
            Way::Lazy(layer) => {
                if let Outcome::Committed = self.provide_lazy(&image, job, layer).await? {
                    return Ok(Outcome::Committed);
                }
            }
            Way::Whole => {}
            Way::Runtime => return Ok(Outcome::NextWay),
        }
        self.provide_whole(&image, job).await
    }

    /// Decides how the layer of `job` comes here.
    async fn choose(&self, image: &ImageContext, job: &LayerJob, deadline: Instant) -> Way {
        let digest = job.layer.layer_digest;
        let came = |way, reason: &str, advice: &str| image.account().came(digest, way, reason, advice);
        if self.policy.always_whole {
            came(Came::Whole, why::NOTHING_LAZY.0, why::NOTHING_LAZY.1);
            return Way::Whole;
        }
        let state = image.layer(&job.layer.layer_digest);
        match timeout_at(deadline, state).await {
            Ok(Ok(LayerState::Lazy(layer))) if layer.size() < self.policy.min_layer_size => {
                came(Came::Whole, why::SMALL.0, why::SMALL.1);
                Way::Whole
            }
            Ok(Ok(LayerState::Lazy(layer))) => Way::Lazy(layer),
            Ok(Ok(LayerState::NoZtoc)) => {
                let why = if image.is_advised_whole() { why::ADVISED } else { why::NO_TABLE };
                came(Came::Whole, why.0, why.1);
                Way::Whole
            }
            Ok(Ok(LayerState::NoIndex)) if self.policy.whole_without_index => {
                came(Came::Whole, why::NO_INDEX.0, why::NO_INDEX.1);
                Way::Whole
            }
            Ok(Ok(LayerState::NoIndex)) => {
                came(Came::Runtime, why::NO_INDEX.0, why::NO_INDEX.1);
                Way::Runtime
            }
            Ok(Err(error)) => {
                self.lazy_failed(image, job, &error);
                Way::Whole
            }
            Err(elapsed) => {
                self.lazy_failed(image, job, &elapsed);
                Way::Whole
            }
        }
    }

    /// Mounts and commits a lazy layer.
    async fn provide_lazy(
        self: &Arc<Self>,
        image: &ImageContext,
        job: &LayerJob,
        layer: Arc<Layer>,
    ) -> Result<Outcome> {
        let id = job.chain.id;
        let mount = match self.mount_layer(layer, id, &job.chain.parents, Missing::Mount).await {
            Ok(mount) => mount,
            Err(error) => {
                self.lazy_failed(image, job, &error);
                return Ok(Outcome::NextWay);
            }
        };
        let mut labels = job.labels.clone();
        labels.insert(labels::REMOTE.to_owned(), labels::REMOTE_VALUE.to_owned());
        labels.insert(labels::HAS_INDEX.to_owned(), "true".to_owned());
        // With the index named, a restart finds everything in the store.
        if let Ok(Some(index)) = image.index_digest().await {
            labels.insert(labels::INDEX.to_owned(), index.to_string());
        }
        if let Some(fine) = image.fine_digest().await {
            labels.insert(labels::FINE_INDEX.to_owned(), fine.to_string());
        }
        if let Some(pack) = image.pack_digest().await {
            labels.insert(labels::PACK.to_owned(), pack.to_string());
        }
        // A container for the same workload needs no other pack.
        if let Some(workload) = image.workload().await {
            labels.insert(labels::WORKLOAD.to_owned(), workload.to_owned());
        }
        image.settle().await;
        self.serving.mounted(id, mount);
        if let Err(error) = self.commit_layer(job, Usage::default(), labels, None).await {
            if let Some(mounted) = self.serving.forget(id) {
                let mounts = Arc::clone(self.node.mounts());
                blocking(move || mounts.unmount(&mounted)).await;
            }
            return Err(error);
        }
        self.counters.lazy_layers.inc();
        let (layer, how) =
            (job.layer.layer_digest, if image.fine_digest().await.is_some() { why::FINE } else { why::LAZY });
        image.account().came(layer, Came::Lazy, how, "");
        info!(key = job.key, %layer, "remote-snapshot-prepared" = "true", "layer is served lazily");
        Ok(Outcome::Committed)
    }

    /// Pulls, unpacks and commits a whole layer.
    async fn provide_whole(self: &Arc<Self>, image: &ImageContext, job: &LayerJob) -> Result<Outcome> {
        let digest = job.layer.layer_digest;
        let usage = match self.unpack_layer(image, job).await {
            Ok(usage) => usage,
            Err(error) => {
                self.counters.whole_failures.inc();
                let error = chain(&error);
                image.account().came(
                    digest,
                    Came::Runtime,
                    format!("it cannot be unpacked here: {error}"),
                    why::LOG,
                );
                let key = &job.key;
                warn!(key, layer = %digest, error, "local-snapshot-prepared" = "false", "layer cannot be unpacked");
                return Ok(Outcome::NextWay);
            }
        };
        let mut labels = job.labels.clone();
        labels.insert(labels::HAS_INDEX.to_owned(), "true".to_owned());
        self.commit_layer(job, usage, labels, Some(self.boot)).await?;
        self.sync_later(job.chain.id);
        self.counters.whole_layers.inc();
        info!(key = job.key, layer = %digest, "local-snapshot-prepared" = "true", "layer was pulled and unpacked");
        Ok(Outcome::Committed)
    }

    async fn commit_layer(
        self: &Arc<Self>,
        job: &LayerJob,
        usage: Usage,
        labels: Labels,
        written: Option<BootId>,
    ) -> Result<()> {
        let (this, key, target) = (Arc::clone(self), job.key.clone(), job.target.clone());
        blocking(move || this.metadata.commit(&key, &target, None, usage, labels, written)).await
    }

    /// The runtime downloads and unpacks the layer into the mounts.
    async fn leave_to_runtime(self: &Arc<Self>, key: String, chain: &Chain) -> Result<Vec<Mount>> {
        self.counters.runtime_layers.inc();
        info!(key, "defer-snapshot-runtime" = "true", "layer is left to the container runtime");
        let this = Arc::clone(self);
        blocking(move || this.metadata.sync()).await?;
        self.mounts_or_undo(key, chain).await
    }

    /// The layer is committed already: its active snapshot has no use.
    async fn abandon(self: &Arc<Self>, key: String, target: String) -> Result<Vec<Mount>> {
        self.undo(key).await;
        Err(Error::AlreadyExists(target))
    }

    fn lazy_failed(&self, image: &ImageContext, job: &LayerJob, error: &dyn std::error::Error) {
        self.counters.lazy_failures.inc();
        let (key, layer, error) = (&job.key, job.layer.layer_digest, chain(error));
        image.account().came(layer, Came::Whole, format!("it cannot be served lazily: {error}"), why::LOG);
        warn!(key, %layer, error, "remote-snapshot-prepared" = "false", "layer cannot be served lazily");
    }
}
