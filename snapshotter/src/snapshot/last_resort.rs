//! A layer that cannot be used any more is pulled whole into its place: the index of a lazy one is gone, the configuration does not
//! take it any more, what was stored of it is damaged; or a whole one may not have been on the disk when the machine went down.
//!
//! Stateless. What must always hold: only on behalf of somebody who waits for the layer; what is mounted and may be served again is
//! left alone; the snapshot is a whole one only after all its files are in place.

use std::sync::Arc;

use soci_core::error::chain;
use tracing::{info, warn};

use super::error::Error;
use super::labels::{LabelError, LayerRequest};
use super::prepare::LayerJob;
use super::record::{Chain, Kind, SnapshotId};
use super::serving::Missing;
use super::{Snapshotter, disk};
use crate::blocking::blocking;
use crate::unpack::WholeLayerError;

#[derive(Debug, thiserror::Error)]
pub(super) enum LastResortError {
    #[error("labels of the snapshot")]
    Labels(#[from] LabelError),
    #[error(transparent)]
    Pull(#[from] WholeLayerError),
    #[error("the snapshot is gone")]
    Gone,
    #[error(transparent)]
    Snapshot(#[from] Error),
}

impl Snapshotter {
    /// Pulls the layer of a snapshot whole, in place of what cannot be used. `parents`, nearest first, are being served.
    pub(super) async fn pull_in_place(
        self: &Arc<Self>,
        id: SnapshotId,
        parents: &[SnapshotId],
        missing: Missing,
    ) -> Result<(), LastResortError> {
        let this = Arc::clone(self);
        let snapshots = blocking(move || this.metadata.list(&[])).await?;
        let (_, info) = snapshots.into_iter().find(|(other, _)| *other == id).ok_or(LastResortError::Gone)?;
        let layer = LayerRequest::from_labels(&info.labels)?;
        let image = self.node.image(&layer.image());
        let job = LayerJob {
            key: info.name.clone(),
            target: info.name.clone(),
            chain: Chain { id, kind: Kind::Committed, parents: parents.to_vec() },
            layer,
            labels: info.labels,
        };
        let unpacked = self.fetch_layer(&image, &job).await?;
        if let Missing::Service(_) = missing {
            warn!(snapshot = %id, "what is mounted of the layer is given up: containers that use it must be restarted");
        }
        let this = Arc::clone(self);
        let placed = blocking(move || {
            let gone = |source| WholeLayerError::Io { action: "take away what was mounted", source };
            // Also what an attempt has left that was cut off.
            disk::discard(&this.dirs.fs(id)).map_err(gone)?;
            disk::make_again(&this.dirs.fs(id)).map_err(gone)?;
            let usage = this.place_layer(unpacked, &job.chain)?;
            this.metadata.make_whole(&job.target, usage, this.boot)?;
            Ok::<_, LastResortError>(())
        });
        placed.await?;
        self.serving.forget(id);
        self.sync_later(id);
        self.counters.whole_layers.inc();
        info!(snapshot = %id, "the layer was pulled whole in place of what cannot be used");
        Ok(())
    }

    /// The same, for who has the error of the lazy way; gives whether it is there now.
    pub(super) async fn is_pulled_instead(
        self: &Arc<Self>,
        id: SnapshotId,
        parents: &[SnapshotId],
        missing: Missing,
    ) -> bool {
        match self.pull_in_place(id, parents, missing).await {
            Ok(()) => true,
            Err(error) => {
                self.counters.whole_failures.inc();
                warn!(snapshot = %id, error = chain(&error), "nor can the layer be pulled whole");
                false
            }
        }
    }
}
