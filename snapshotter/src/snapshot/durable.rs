//! Whole layers get to the disk after their commit, and no pull waits for that.
//!
//! Owns the list of those that are not there yet; the database has it too, with the boot in which they were written. What must
//! always hold: files that were written in an earlier boot and were not synced in it are not shown to a container, for they may
//! be empty. Their layers are pulled again for the first container that needs them ([`super::last_resort`]).
//!
//! What the container runtime unpacks is not in the list: only the runtime can get it again, and it has a setting of its own
//! (`sync_fs`).

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags, open, syncfs};
use soci_core::error::chain;
use tracing::{debug, warn};

use super::Snapshotter;
use super::error::{Error, Result};
use super::record::SnapshotId;
use crate::blocking::blocking;

/// From a commit to its sync: a start has the disk for itself, and the layers of an image are synced together.
const PAUSE: Duration = Duration::from_secs(5);

/// The whole layers that were committed, and are not synced.
#[derive(Debug, Default)]
pub(super) struct Unsynced {
    ids: Mutex<Vec<SnapshotId>>,
}

impl Unsynced {
    /// Adds one. Is it the first?
    fn add(&self, id: SnapshotId) -> bool {
        let mut ids = self.ids.lock();
        ids.push(id);
        ids.len() == 1
    }
}

impl Snapshotter {
    /// Syncs the files of a committed snapshot after a while.
    pub(super) fn sync_later(self: &Arc<Self>, id: SnapshotId) {
        if !self.unsynced.add(id) {
            return; // goes with the first
        }
        let this = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(PAUSE).await;
            blocking(move || this.sync_now()).await;
        });
    }

    /// Syncs what was added. What cannot be synced stays marked in the database.
    fn sync_now(&self) {
        let ids = std::mem::take(&mut *self.unsynced.ids.lock());
        let synced = self.sync_files().and_then(|()| self.metadata.synced(&ids));
        match synced {
            Ok(()) => debug!(layers = ids.len(), "whole layers are on the disk"),
            Err(error) => warn!(error = chain(&error), "whole layers may not be on the disk"),
        }
    }

    fn sync_files(&self) -> Result<()> {
        let root = open(self.dirs.root(), OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let synced = root.and_then(syncfs);
        synced.map_err(|error| Error::io("sync the snapshots", std::io::Error::from(error)))
    }

    /// After a start: which files may not be on the disk. Those of this boot are synced, others are not used.
    pub(super) fn find_unsynced(self: &Arc<Self>) -> Result<()> {
        let known = self.metadata.exclusively(std::clone::Clone::clone)?;
        let (mut gone, mut doubtful) = (Vec::new(), 0usize);
        for (id, boot) in self.metadata.unsynced()? {
            if !known.contains(&id) {
                gone.push(id);
            } else if self.boot.is_same(boot) {
                self.sync_later(id);
            } else {
                self.serving.doubtful(id);
                doubtful += 1;
            }
        }
        if doubtful > 0 {
            warn!(
                layers = doubtful,
                "the machine went down before whole layers were on the disk: they are pulled again when needed"
            );
        }
        if gone.is_empty() { Ok(()) } else { self.metadata.synced(&gone) }
    }
}
