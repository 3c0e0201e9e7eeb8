//! After a restart: the lazy layers that are mounted are served again, from what their labels say and what is on disk. What is
//! not mounted is mounted when somebody wants it, so a node with many images starts at once.
//!
//! A layer that cannot be served now is marked. It keeps nobody from starting; a snapshot that needs it is refused as
//! unavailable, after another attempt.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use soci_core::error::chain;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::{info, warn};

use super::error::{Error, Result};
use super::labels::{self, LabelError, LayerRequest};
use super::record::{Kind, Labels, SnapshotId};
use super::serving::Missing;
use super::{Snapshotter, disk, remap};
use crate::blocking::blocking;
use crate::fs::xattr::OpaqueMark;
use crate::image::LayerState;
use crate::layer::{Layer, LayerError, MountOptions};
use crate::mounts::{MountError, Mounted, detach};

/// Layers that are made ready at the same time.
const LAYERS_AT_ONCE: usize = 16;

/// The pauses between attempts to serve what is mounted.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// A lazy layer that is mounted, and those below it, nearest first.
type Left = (SnapshotId, Vec<SnapshotId>);

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

/// Who wants a layer served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// A container that starts.
    Now,
    /// Nobody, or a container that was started before.
    Perhaps,
}

impl RestoreError {
    /// Whether the layer is to be pulled whole instead. What is mounted of it may be served again, unless the error is for good.
    fn ends_laziness(&self, missing: &Missing) -> bool {
        let is_lost = matches!(self, Self::Layer(error) if error.is_lost());
        self.is_for_good() || is_lost && *missing == Missing::Mount
    }

    /// Whether the next attempt will say the same.
    fn is_for_good(&self) -> bool {
        match self {
            Self::Labels(_) | Self::NotIndexed => true,
            Self::Layer(error) => error.is_for_good(),
            Self::Late(_) | Self::Below | Self::Mount(_) => false,
        }
    }
}

impl Snapshotter {
    /// Finds out which lazy layers of earlier processes are mounted, and begins to serve those in the background. What
    /// belongs to a connection that has ended is unmounted.
    pub async fn restore(self: &Arc<Self>) -> Result<()> {
        let this = Arc::clone(self);
        blocking(move || this.find_unsynced()).await?;
        let this = Arc::clone(self);
        let left = blocking(move || this.find_left()).await?;
        if left.is_empty() {
            return Ok(());
        }
        let this = Arc::clone(self);
        tokio::spawn(async move { this.serve_all_left(left).await });
        Ok(())
    }

    /// Serves what earlier processes have mounted. What cannot be served now is tried again, for as long as readers would wait for
    /// a daemon: a registry that is away for a moment, or a full disk, may be why.
    async fn serve_all_left(self: Arc<Self>, mut left: Vec<Left>) {
        let (all, begun, mut pause) = (left.len(), Instant::now(), FIRST_PAUSE);
        loop {
            self.serve_left(left.clone()).await;
            left.retain(|(id, _)| self.serving.missing(*id).is_some());
            let names = left.iter().filter_map(|(id, _)| match self.serving.missing(*id) {
                Some(Missing::Service(name)) => Some(name),
                _ => None,
            });
            let names: HashSet<_> = names.collect();
            let give_up = !left.is_empty() && begun.elapsed() >= self.policy.retry_mounted;
            let unavailable = left.len();
            let this = Arc::clone(&self);
            // Nobody has asked for the rest, and nobody will.
            blocking(move || this.node.mounts().drop_awaited(|name| !give_up && names.contains(name))).await;
            if give_up {
                self.unmount_left(std::mem::take(&mut left)).await;
            }
            if left.is_empty() {
                info!(layers = all, unavailable, "layers of an earlier process are served again");
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Unmounts what was not served in time: the next container gets it in another way, or mounted anew.
    async fn unmount_left(self: &Arc<Self>, left: Vec<Left>) {
        for (id, _) in left {
            let _turn = self.turns.of(id).await;
            if self.serving.missing(id).is_none_or(|missing| missing == Missing::Mount) {
                continue;
            }
            let mountpoint = self.dirs.fs(id);
            if let Err(error) = blocking(move || detach(&mountpoint)).await {
                warn!(snapshot = %id, %error, "cannot unmount a layer that is not served");
            }
            self.serving.absent(id);
        }
    }

    /// Remembers all lazy layers. Gives those that are mounted, each with the layers below it, nearest first.
    fn find_left(&self) -> Result<Vec<Left>> {
        let mounts = self.node.mounts();
        let resumed = mounts.begin().map_err(|error| Error::Unavailable(chain(&error)))?;
        let root = std::fs::canonicalize(self.dirs.root());
        let root = root.map_err(|source| Error::io("find the directory of snapshots", source))?;
        let unread = |error: MountError| Error::Unavailable(chain(&error));
        let mut mounted = mounts.below(&root).map_err(unread)?;
        let (mut left, mut absent) = (Vec::new(), 0usize);
        let snapshots = self.metadata.list(&[])?;
        for (id, snapshot) in &snapshots {
            let id = *id;
            if snapshot.kind != Kind::Committed || !snapshot.labels.contains_key(labels::REMOTE) {
                continue;
            }
            let name = mounted.get(&self.dirs.fs(id)).cloned().flatten().filter(|_| resumed);
            if name.is_some() {
                mounted.remove(&self.dirs.fs(id));
                left.push((id, self.metadata.parents(&snapshot.name)?));
            } else {
                absent += 1;
            }
            self.serving.earlier(id, name);
        }
        // Layers that a dead connection has served are shown to nobody.
        let users = if resumed { &snapshots[..] } else { &[] };
        for (point, error) in disk::unmount_all(remap::retain_strange(&self.dirs, mounted.into_keys(), users))
        {
            warn!(mountpoint = %point.display(), %error, "cannot unmount what an earlier process left");
        }
        if !left.is_empty() || absent > 0 {
            info!(mounted = left.len(), absent, "lazy layers of earlier pulls");
        }
        Ok(left)
    }

    /// Serves layers that are mounted, from the lowest ones up, since a layer shows the directories that it only implies as
    /// those below it do.
    async fn serve_left(self: &Arc<Self>, mut left: Vec<Left>) {
        left.sort_by_key(|(_, parents)| parents.len());
        let places = Arc::new(Semaphore::new(LAYERS_AT_ONCE));
        for row in left.chunk_by_mut(|(_, a), (_, b)| a.len() == b.len()) {
            let mut tasks = tokio::task::JoinSet::new();
            for (id, parents) in row {
                let (this, id, parents) = (Arc::clone(self), *id, std::mem::take(parents));
                let places = Arc::clone(&places);
                tasks.spawn(async move {
                    let _place = places.acquire().await;
                    // Why it failed was told. Whoever needs it tries again.
                    let _ = this.serve_one(id, &parents, Need::Perhaps).await;
                });
            }
            tasks.join_all().await;
        }
    }

    /// Serves a layer, if it is not served; those of `parents`, nearest first, that it needs are.
    pub(super) async fn serve_one(
        self: &Arc<Self>,
        id: SnapshotId,
        parents: &[SnapshotId],
        need: Need,
    ) -> Result<()> {
        let _turn = self.turns.of(id).await;
        let Some(missing) = self.serving.missing(id) else { return Ok(()) };
        if missing == Missing::Files {
            let is_there = need == Need::Now && self.is_pulled_instead(id, parents, missing).await;
            return if is_there { Ok(()) } else { Err(Error::Unavailable(id.to_string())) };
        }
        match self.bring(id, parents, missing.clone()).await {
            Ok(mounted) => {
                self.serving.mounted(id, mounted);
                Ok(())
            }
            Err(error) => {
                self.counters.restore_failures.inc();
                self.serving.dead(id);
                warn!(snapshot = %id, error = chain(&error), "lazy layer is unavailable");
                let whole = need == Need::Now && error.ends_laziness(&missing);
                if whole && self.is_pulled_instead(id, parents, missing).await {
                    return Ok(());
                }
                Err(Error::Unavailable(id.to_string()))
            }
        }
    }

    async fn bring(
        self: &Arc<Self>,
        id: SnapshotId,
        parents: &[SnapshotId],
        missing: Missing,
    ) -> std::result::Result<Mounted, RestoreError> {
        let layer = self.ready_again(&self.labels_of(id).await.unwrap_or_default()).await?;
        if layer.implies_directories() && parents.iter().any(|id| self.serving.missing(*id).is_some()) {
            return Err(RestoreError::Below);
        }
        Ok(self.mount_layer(layer, id, parents, missing).await?)
    }

    /// Mounts a lazy layer where its snapshot's files belong, or serves what is mounted there. `parents`, nearest first, are
    /// being served.
    pub(super) async fn mount_layer(
        &self,
        layer: Arc<Layer>,
        id: SnapshotId,
        parents: &[SnapshotId],
        missing: Missing,
    ) -> std::result::Result<Mounted, MountError> {
        let opaque = if self.userxattr { OpaqueMark::User } else { OpaqueMark::Trusted };
        let mountpoint = self.dirs.fs(id);
        let below = parents.iter().map(|id| self.dirs.fs(*id)).collect();
        let options = MountOptions { opaque, below };
        blocking(move || {
            if let Missing::Service(name) = missing {
                match layer.resume(&mountpoint, &options, &name) {
                    Err(MountError::Different(_)) => {
                        warn!(snapshot = %id, "another version has mounted the layer: its containers must be restarted");
                        detach(&mountpoint).map_err(MountError::Table)?;
                    }
                    served => return served,
                }
            }
            disk::make_again(&mountpoint).map_err(MountError::Table)?;
            layer.mount(&mountpoint, &options)
        })
        .await
    }

    async fn labels_of(self: &Arc<Self>, id: SnapshotId) -> Result<Labels> {
        let this = Arc::clone(self);
        let snapshots = blocking(move || this.metadata.list(&[])).await?;
        let labels = snapshots.into_iter().find(|(other, _)| *other == id).map(|(_, info)| info.labels);
        Ok(labels.unwrap_or_default())
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
