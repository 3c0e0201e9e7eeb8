//! The disk that cached bytes take: how much it is, and who is asked to give it back.
//!
//! Stateless. What must always hold: what is said is what is on disk now.

use std::path::Path;
use std::sync::Arc;

use soci_core::digest::Digest;

use super::Node;
use crate::cache::stored;
use crate::layer::LayerError;
use crate::span::Demand;
use crate::span::room::{Room, Round};
use crate::storage::{Disk, Goal};

impl Node {
    /// What the cache takes and its file system has. Blocking, for a moment.
    ///
    /// # Errors
    /// When the directory or the file system does not say.
    pub fn disk(&self) -> Result<Disk, LayerError> {
        let cache = &self.services.cache;
        let stored = stored::stored(cache).map_err(LayerError::Cache)?;
        let stat = rustix::fs::statvfs(cache).map_err(|errno| LayerError::Cache(errno.into()))?;
        let cached = stored.iter().map(|cache| cache.bytes).sum();
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        let disk = Disk { cached, free: bytes(stat.f_bavail), total: bytes(stat.f_blocks) };
        self.services.stats.cache_bytes.set(disk.cached);
        self.services.stats.disk_free_bytes.set(disk.free);
        Ok(disk)
    }

    /// What writers of the cache say.
    pub fn room(&self) -> Arc<Room> {
        Arc::clone(self.services.engine.room())
    }

    /// Makes room: what was last used in the round `idle` or before counts as idle, and `is_needed` are layers that are to stay as long
    /// as others can go. Gives the bytes that this gave. Blocking.
    pub fn make_room(&self, goal: Goal, idle: Round, is_needed: &dyn Fn(&Digest) -> bool) -> u64 {
        self.services.make_room(goal, idle, is_needed)
    }

    /// Bytes and files that the cache of a layer takes, of whichever table. Blocking, for a moment.
    pub fn disk_of(&self, layer: &Digest) -> (u64, u64) {
        let (mut bytes, mut files) = (0, 0);
        each_file(&self.services.cache.join(layer.hex()), &mut |metadata| {
            bytes += std::os::unix::fs::MetadataExt::blocks(metadata) * 512;
            files += 1;
        });
        (bytes, files)
    }
}

/// Tells of each file below a directory; what cannot be read is passed over.
fn each_file(directory: &Path, tell: &mut dyn FnMut(&std::fs::Metadata)) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => each_file(&entry.path(), tell),
            Ok(metadata) => tell(&metadata),
            Err(_) => {}
        }
    }
}
