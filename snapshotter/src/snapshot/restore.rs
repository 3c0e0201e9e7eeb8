//! After a restart: the lazy layers are mounted again, from what their labels say and what is on disk.
//!
//! A layer that cannot be served now is marked. It keeps nobody from starting; a snapshot that needs it is refused as
//! unavailable, after another attempt.

use std::sync::Arc;

use tracing::{info, warn};

use super::error::{Error, Result};
use super::labels::{self, LabelError, LayerRequest};
use super::record::{Chain, Kind, Labels, SnapshotId};
use super::{Snapshotter, causes};
use crate::fuse::mount::MountError;
use crate::layer::{LayerError, LayerState};

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
    #[error("mount")]
    Mount(#[from] MountError),
}

impl Snapshotter {
    /// Mounts every committed lazy layer, all at once. Ends when each is served or marked.
    pub async fn restore(self: &Arc<Self>) -> Result<()> {
        let mut layers = tokio::task::JoinSet::new();
        for (id, snapshot) in self.metadata.list(&[])? {
            if snapshot.kind == Kind::Committed && snapshot.labels.contains_key(labels::REMOTE) {
                let this = Arc::clone(self);
                layers.spawn(async move { this.restore_layer(id, &snapshot.labels).await });
            }
        }
        let all = layers.len();
        let served = layers.join_all().await.into_iter().filter(|served| *served).count();
        if all > 0 {
            info!(served, unavailable = all - served, "lazy layers of earlier pulls");
        }
        Ok(())
    }

    /// Tries again to serve a layer that could not be.
    pub(super) async fn revive(self: &Arc<Self>, id: SnapshotId) -> Result<()> {
        if self.restore_layer(id, &self.labels_of(id)?).await {
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
            let labels = this.labels_of(id).unwrap_or_default();
            let layer = LayerRequest::from_labels(&labels);
            if let Some(layer) = layer.ok().filter(|_| labels.contains_key(labels::PACK)) {
                this.node.image(&layer.image()).wanted().await;
            }
        });
    }

    fn labels_of(&self, id: SnapshotId) -> Result<Labels> {
        let snapshots = self.metadata.list(&[])?;
        let labels = snapshots.into_iter().find(|(other, _)| *other == id).map(|(_, info)| info.labels);
        Ok(labels.unwrap_or_default())
    }

    async fn restore_layer(&self, id: SnapshotId, labels: &Labels) -> bool {
        match self.mount_again(id, labels).await {
            Ok(()) => true,
            Err(error) => {
                self.counters.restore_failures.inc();
                self.serving.dead(id);
                warn!(snapshot = %id, error = causes(&error), "lazy layer is unavailable");
                false
            }
        }
    }

    async fn mount_again(&self, id: SnapshotId, labels: &Labels) -> std::result::Result<(), RestoreError> {
        let request = LayerRequest::from_labels(labels)?;
        let image = self.node.image(&request.image());
        let state = image.layer(&request.layer_digest);
        let LayerState::Lazy(layer) = tokio::time::timeout(self.policy.mount_timeout, state).await?? else {
            return Err(RestoreError::NotIndexed);
        };
        self.serving.restored(id, self.mount_layer(layer, id).await?);
        Ok(())
    }
}
