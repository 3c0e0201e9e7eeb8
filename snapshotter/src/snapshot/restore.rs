//! After a restart: the lazy layers are mounted again, from what their labels say and what is on disk.
//!
//! A layer that cannot be served now is marked. It keeps nobody from starting; a snapshot that needs it is refused as
//! unavailable, after another attempt.

use std::sync::Arc;

use tracing::{info, warn};

use super::error::{Error, Result};
use super::labels::{self, LabelError, LayerRequest};
use super::record::{Chain, Kind, Labels, SnapshotId};
use super::{Snapshotter, blocking, causes};
use crate::fuse::mount::MountError;
use crate::layer::{Layer, LayerError, LayerState};

/// Why a lazy layer cannot be served again.
#[derive(Debug, thiserror::Error)]
enum RestoreError {
    #[error("labels of the snapshot")]
    Labels(#[from] LabelError),
    #[error(transparent)]
    Layer(#[from] LayerError),
    #[error("the index has no zTOC for the layer any more")]
    NotIndexed,
    #[error("not ready in time")]
    Late(#[from] tokio::time::error::Elapsed),
    #[error("a layer below is unavailable")]
    Below,
    #[error("mount")]
    Mount(#[from] MountError),
}

impl Snapshotter {
    /// Mounts every committed lazy layer. All are made ready at once, and mounted from the lowest ones up, since a layer shows
    /// the directories that it only implies as those below it do. Ends when each is served or marked.
    pub async fn restore(self: &Arc<Self>) -> Result<()> {
        let mut layers = tokio::task::JoinSet::new();
        for (id, snapshot) in self.metadata.list(&[])? {
            if snapshot.kind == Kind::Committed && snapshot.labels.contains_key(labels::REMOTE) {
                let parents = self.metadata.parents(&snapshot.name)?;
                let this = Arc::clone(self);
                layers.spawn(async move { (id, parents, this.ready_again(&snapshot.labels).await) });
            }
        }
        let mut ready = layers.join_all().await;
        let all = ready.len();
        ready.sort_by_key(|(_, parents, _)| parents.len());
        let mut served = 0;
        for row in ready.chunk_by_mut(|(_, a, _), (_, b, _)| a.len() == b.len()) {
            let mut mounts = tokio::task::JoinSet::new();
            for (id, parents, layer) in row {
                let (this, id, parents) = (Arc::clone(self), *id, std::mem::take(parents));
                let layer = std::mem::replace(layer, Err(RestoreError::NotIndexed));
                mounts.spawn(async move { this.restore_layer(id, &parents, layer).await });
            }
            served += mounts.join_all().await.into_iter().filter(|served| *served).count();
        }
        if all > 0 {
            info!(served, unavailable = all - served, "lazy layers of earlier pulls");
        }
        Ok(())
    }

    /// Tries again to serve a layer that could not be; those of `parents`, nearest first, are served.
    pub(super) async fn revive(self: &Arc<Self>, id: SnapshotId, parents: &[SnapshotId]) -> Result<()> {
        let layer = self.ready_again(&self.labels_of(id).await?).await;
        if self.restore_layer(id, parents, layer).await {
            Ok(())
        } else {
            Err(Error::Unavailable(id.to_string()))
        }
    }

    /// Tells the image of the nearest lazy layer that a container begins to use it, the first time after a restart. Nobody waits
    /// for what comes of it.
    pub(super) fn announce(self: &Arc<Self>, chain: &Chain) {
        let Some(id) = self.serving.begin_use(&chain.parents) else { return };
        let this = Arc::clone(self);
        tokio::spawn(async move {
            let labels = this.labels_of(id).await.unwrap_or_default();
            let layer = LayerRequest::from_labels(&labels);
            if let Some(layer) = layer.ok().filter(|_| labels.contains_key(labels::PACK)) {
                this.node.image(&layer.image()).wanted().await;
            }
        });
    }

    async fn labels_of(self: &Arc<Self>, id: SnapshotId) -> Result<Labels> {
        let this = Arc::clone(self);
        let snapshots = blocking(move || this.metadata.list(&[])).await?;
        let labels = snapshots.into_iter().find(|(other, _)| *other == id).map(|(_, info)| info.labels);
        Ok(labels.unwrap_or_default())
    }

    /// Mounts a layer, or marks it as one that cannot be served.
    async fn restore_layer(
        &self,
        id: SnapshotId,
        parents: &[SnapshotId],
        layer: std::result::Result<Arc<Layer>, RestoreError>,
    ) -> bool {
        let mounted = async {
            let layer = layer?;
            if layer.implies_directories() && parents.iter().any(|id| self.serving.is_dead(*id)) {
                return Err(RestoreError::Below);
            }
            Ok(self.mount_layer(layer, id, parents).await?)
        };
        match mounted.await {
            Ok(mount) => {
                self.serving.restored(id, mount);
                true
            }
            Err(error) => {
                self.counters.restore_failures.inc();
                self.serving.dead(id);
                warn!(snapshot = %id, error = causes(&error), "lazy layer is unavailable");
                false
            }
        }
    }

    /// The layer that labels describe, ready to be mounted.
    async fn ready_again(&self, labels: &Labels) -> std::result::Result<Arc<Layer>, RestoreError> {
        let request = LayerRequest::from_labels(labels)?;
        let image = self.node.image(&request.image());
        let state = image.layer(&request.layer_digest);
        match tokio::time::timeout(self.policy.mount_timeout, state).await?? {
            LayerState::Lazy(layer) => Ok(layer),
            _ => Err(RestoreError::NotIndexed),
        }
    }
}
