//! Snapshots: what containerd asks for, decided.
//!
//! [`Snapshotter`] owns the database, the directories of the snapshots and the mounts of lazy layers. What always holds:
//! a record has its directory; a committed layer is complete, either because every byte of it was verified before the
//! commit, or because it is a lazy layer whose bytes are verified as they are read.
//!
//! What is shown to user namespaces (`remap`) is in the mount table alone.
//!
//! Methods that only touch disk and database are plain functions and block; those that may wait for a registry are
//! async.

mod database;
mod disk;
mod durable;
mod error;
mod filter;
mod identity;
pub mod labels;
mod last_resort;
mod launch;
mod metadata;
mod overlay;
mod prepare;
mod record;
mod remap;
mod restore;
mod serving;
#[cfg(test)]
mod tests;
mod turns;
mod unlabelled;
mod whole;
mod why;

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use soci_core::digest::Digest;
use soci_core::error::chain;
use tracing::warn;

pub use error::{Error, Result};
pub use filter::{Filter, FilterError};
pub use metadata::{Lasts, Metadata};
pub use overlay::{Directories, Mount, needs_userxattr};
pub use prepare::PrepareRequest;
pub use record::{Chain, Info, Kind, Labels, SnapshotId, Usage};
pub use serving::{Served, SnapshotStats};
pub use unlabelled::{Unlabelled, UnlabelledStats};

use crate::blocking::blocking;
use crate::boot::BootId;
use crate::mounts::Keep;
use crate::node::Node;
use crate::storage::Needed;
use crate::unpack::Unpacker;
use durable::Unsynced;
use restore::Need;
use serving::Serving;
use turns::Turns;

/// How the snapshotter decides.
#[derive(Debug, Clone)]
pub struct Policy {
    /// How long a Prepare waits for a lazy layer before it pulls the layer as a whole.
    pub mount_timeout: Duration,
    /// Nothing is lazy: every layer is pulled and unpacked here.
    pub always_whole: bool,
    /// Images without an index are pulled here and not left to the runtime.
    pub whole_without_index: bool,
    /// Layers with fewer compressed bytes are pulled as a whole.
    pub min_layer_size: u64,
    /// Layers below a snapshot with a user namespace are shown with its ids, because containerd leaves that to us.
    pub remap_ids: bool,
    /// How long it is tried to serve layers again that an earlier process has mounted. Their readers wait meanwhile.
    pub retry_mounted: Duration,
}

/// The room where requests are decided. One per root directory and process.
#[derive(Debug)]
pub struct Snapshotter {
    metadata: Metadata,
    dirs: Directories,
    userxattr: bool,
    policy: Policy,
    node: Arc<Node>,
    unpacker: Arc<Unpacker>,
    serving: Serving,
    turns: Turns,
    boot: BootId,
    unsynced: Unsynced,
    counters: Arc<SnapshotStats>,
    warned_of_ids: AtomicBool,
}

impl Snapshotter {
    /// Opens the snapshots below `root`, which is made if it does not exist. [`Snapshotter::restore`] finds out what is
    /// mounted there.
    pub fn open(
        root: PathBuf,
        policy: Policy,
        node: Arc<Node>,
        unpacker: Arc<Unpacker>,
        counters: Arc<SnapshotStats>,
    ) -> Result<Self> {
        // These characters separate the options of an overlay and the directories of its lowerdir.
        if root.to_str().is_none_or(|path| path.contains([',', ':', '\\'])) {
            let reason = format!("root directory {} must not contain , : or \\", root.display());
            return Err(Error::InvalidArgument(reason));
        }
        let dirs = Directories::new(root.join("snapshots"));
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dirs.root());
        made.map_err(|source| Error::io(format!("make {}", dirs.root().display()), source))?;
        // The lock on the database comes before anything is touched: another process may be serving these mounts.
        let metadata = Metadata::open(&root.join("metadata.redb"))?;
        Ok(Self {
            metadata,
            dirs,
            userxattr: needs_userxattr(),
            policy,
            node,
            unpacker,
            serving: Serving::default(),
            turns: Turns::default(),
            boot: BootId::current(),
            unsynced: Unsynced::default(),
            counters,
            warned_of_ids: AtomicBool::new(false),
        })
    }

    /// Makes a read-only snapshot of a committed one.
    pub async fn view(
        self: &Arc<Self>,
        key: String,
        parent: Option<String>,
        labels: Labels,
    ) -> Result<Vec<Mount>> {
        let chain = self.create(Kind::View, key.clone(), parent, labels, Lasts::Now).await?;
        self.mounts_or_undo(key, &chain).await
    }

    /// The mounts of an active or view snapshot.
    pub async fn mounts(self: &Arc<Self>, key: &str) -> Result<Vec<Mount>> {
        let chain = self.metadata.chain(key)?;
        self.mounts_of(key, &chain).await
    }

    /// Turns an active snapshot into a committed one; see [`Metadata::commit`].
    pub fn commit(&self, key: &str, name: &str, parent: Option<&str>, labels: Labels) -> Result<()> {
        let id = self.metadata.stat(key)?.0;
        let usage = self.measure(id)?;
        self.metadata.commit(key, name, parent, usage, labels, None)?;
        self.hide_mapped(id);
        Ok(())
    }

    /// Removes a snapshot that has no children, with its directory and mount.
    pub fn remove(&self, key: &str) -> Result<()> {
        let id = self.metadata.remove(key)?;
        if let Some(mounted) = self.serving.forget(id) {
            self.node.mounts().unmount(&mounted);
        }
        let path = self.dirs.snapshot(id);
        if let Err(error) = disk::discard(&path) {
            warn!(path = %path.display(), %error, "directory of a removed snapshot is left to Cleanup");
        }
        Ok(())
    }

    /// Describes a snapshot.
    pub fn stat(&self, name: &str) -> Result<Info> {
        self.metadata.stat(name).map(|(_, info, _)| info)
    }

    /// Changes labels; see [`Metadata::update`].
    pub fn update(&self, name: &str, labels: &Labels, paths: &[String]) -> Result<Info> {
        self.metadata.update(name, labels, paths)
    }

    /// All snapshots that match one of the filters.
    pub fn list(&self, filters: &[Filter]) -> Result<Vec<Info>> {
        Ok(self.metadata.list(filters)?.into_iter().map(|(_, info)| info).collect())
    }

    /// Disk usage of a snapshot alone. A lazy layer uses what is cached of it now.
    pub fn usage(&self, name: &str) -> Result<Usage> {
        let (id, info, stored) = self.metadata.stat(name)?;
        if info.kind == Kind::Active {
            return self.measure(id);
        }
        let lazy = info.labels.get(labels::LAYER).filter(|_| info.labels.contains_key(labels::REMOTE));
        Ok(lazy.and_then(|layer| layer.parse().ok()).map_or(stored, |layer| {
            let (size, inodes) = self.node.disk_of(&layer);
            Usage { size, inodes }
        }))
    }

    /// The layers and documents that snapshots name, so that they can be served, also after a restart.
    pub fn needed(&self) -> Result<Needed> {
        let mut needed = Needed::default();
        for (_, info) in self.metadata.list(&[])? {
            let digest = |label: &str| info.labels.get(label)?.parse::<Digest>().ok();
            needed.layers.extend(digest(labels::LAYER));
            let documents = [labels::MANIFEST, labels::INDEX, labels::FINE_INDEX, labels::PACK];
            needed.documents.extend(documents.into_iter().filter_map(digest));
        }
        Ok(needed)
    }

    /// Layers by how they are served.
    pub fn served(&self) -> Served {
        self.serving.counts()
    }

    /// What is wrong with the database, if something is. Blocking, for a moment.
    ///
    /// # Errors
    /// When it is gone, or cannot be read or written.
    pub fn check_database(&self) -> Result<()> {
        self.metadata.check()
    }

    /// Removes directories that belong to no snapshot.
    pub fn cleanup(&self) -> Result<()> {
        let aside = self.metadata.exclusively(|known| disk::set_aside(&self.dirs, known))?;
        for path in aside.map_err(|source| Error::io("set aside directories of no snapshot", source))? {
            if let Err(error) = disk::discard(&path) {
                warn!(path = %path.display(), %error, "cannot remove a directory that belongs to no snapshot");
            }
        }
        Ok(())
    }

    /// Unmounts every lazy layer, unless mounts outlive the process. Containers that still use one get errors from then on.
    pub fn close(&self) {
        let mounts = self.node.mounts();
        if mounts.keep() != Keep::Nothing {
            return;
        }
        for mounted in self.serving.take_all() {
            mounts.unmount(&mounted);
        }
        match fs::canonicalize(self.dirs.root()).and_then(|root| disk::unmount_below(&root)) {
            Ok(left) => {
                for (point, error) in left {
                    warn!(mountpoint = %point.display(), %error, "cannot unmount");
                }
            }
            Err(error) => warn!(%error, "cannot read the mount table"),
        }
    }

    /// Makes a snapshot and its directory.
    async fn create(
        self: &Arc<Self>,
        kind: Kind,
        key: String,
        parent: Option<String>,
        labels: Labels,
        lasts: Lasts,
    ) -> Result<Chain> {
        let this = Arc::clone(self);
        let maps = self.maps(&labels)?;
        blocking(move || {
            let place = |chain: &Chain| {
                let maps = match &maps {
                    // Nothing is below, or what is there has the owners that it is to have.
                    Some(maps) if !chain.parents.is_empty() && !this.is_to_be_mapped(chain, maps)? => None,
                    maps => maps.as_ref(),
                };
                disk::create(&this.dirs, chain, maps)
            };
            this.metadata.create(kind, &key, parent.as_deref(), labels, lasts, place)
        })
        .await
    }

    /// The mounts of a snapshot just made. Who does not get them must be able to ask again with the same key.
    async fn mounts_or_undo(self: &Arc<Self>, key: String, chain: &Chain) -> Result<Vec<Mount>> {
        let mounts = self.mounts_of(&key, chain).await;
        if mounts.is_err() {
            self.undo(key).await;
        }
        mounts
    }

    /// Takes back a snapshot just made.
    async fn undo(self: &Arc<Self>, key: String) {
        let this = Arc::clone(self);
        let removed = blocking(move || this.remove(&key));
        if let Err(error) = removed.await {
            warn!(error = chain(&error), "a snapshot that nobody got stays");
        }
    }

    /// The mounts of the snapshot `key`, whose lazy layers are all being served then.
    async fn mounts_of(self: &Arc<Self>, key: &str, chain: &Chain) -> Result<Vec<Mount>> {
        self.serve(&chain.parents).await?;
        let labels = self.metadata.stat(key)?.1.labels;
        self.warn_of_unmapped(key, chain, &labels);
        let Some(maps) = self.maps(&labels)? else {
            return Ok(self.dirs.mounts(chain, self.userxattr, false));
        };
        // Two requests for one snapshot find what the first has shown.
        let _turn = self.turns.of(chain.id).await;
        let (this, chain) = (Arc::clone(self), chain.clone());
        blocking(move || {
            let is_mapped = this.is_to_be_mapped(&chain, &maps)?;
            if is_mapped {
                this.show_mapped(&chain, &maps)?;
            }
            Ok(this.dirs.mounts(&chain, this.userxattr, is_mapped))
        })
        .await
    }

    /// Serves those of a chain's lazy layers, nearest first, that are not. Each may need those below it.
    async fn serve(self: &Arc<Self>, parents: &[SnapshotId]) -> Result<()> {
        for (at, id) in parents.iter().enumerate().rev() {
            if self.serving.missing(*id).is_some() {
                self.serve_one(*id, &parents[at + 1..], Need::Now).await?;
            }
        }
        Ok(())
    }

    fn measure(&self, id: SnapshotId) -> Result<Usage> {
        disk::usage(&self.dirs.fs(id)).map_err(|source| Error::io(format!("measure snapshot {id}"), source))
    }
}
