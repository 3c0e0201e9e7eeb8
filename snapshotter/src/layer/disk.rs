//! The disk that cached bytes take: how much it is, and giving it back. Carries out what [`crate::storage`] decides.
//!
//! Stateless. What must always hold: the cache of a layer in use is never taken away as a whole, only parts of it that nobody
//! is fetching; everything else is for whoever reads to find out.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use soci_core::digest::Digest;

use super::LayerError;
use super::node::Node;
use super::services::Services;
use crate::span::room::{Room, Round};
use crate::span::{Demand, SpanManager, eviction};
use crate::storage::{Disk, Goal};

impl Node {
    /// What the cache takes and its file system has. Blocking, for a moment.
    ///
    /// # Errors
    /// When the directory or the file system does not say.
    pub fn disk(&self) -> Result<Disk, LayerError> {
        let cache = &self.services.cache;
        let stored = eviction::stored(cache).map_err(LayerError::Cache)?;
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

impl Services {
    pub(super) fn make_room(&self, goal: Goal, idle: Round, is_needed: &dyn Fn(&Digest) -> bool) -> u64 {
        let all = goal.must.saturating_add(goal.may);
        let mut given = self.drop_unused(all, &|layer| !is_needed(layer));
        given += self.give_back(goal.must.saturating_sub(given), Round::MAX);
        given += self.give_back(all.saturating_sub(given), idle);
        given + self.drop_unused(goal.must.saturating_sub(given), &|_| true)
    }

    /// Takes caches away that are not in use, the longest unused first.
    fn drop_unused(&self, bytes: u64, may_go: &dyn Fn(&Digest) -> bool) -> u64 {
        let mut given = 0;
        if bytes == 0 {
            return given;
        }
        let stored = eviction::stored(&self.cache).unwrap_or_else(|error| {
            tracing::warn!(%error, "span caches cannot be listed");
            Vec::new()
        });
        for cache in stored.iter().filter(|cache| may_go(&cache.layer)) {
            if given >= bytes {
                break;
            }
            if self.drop_cache(cache) {
                given += cache.bytes;
            }
        }
        self.stats.cache_given_back_bytes.add(given);
        given
    }

    /// Gives back parts of layers in use, the longest unused first, but nothing that was used after the round `until`.
    fn give_back(&self, bytes: u64, until: Round) -> u64 {
        let mut given = 0;
        if bytes == 0 {
            return given;
        }
        let live: Vec<Arc<SpanManager>> = {
            let slots: Vec<_> = self.layers.lock().values().cloned().collect();
            // Who holds the lock may be making room, too.
            slots.iter().filter_map(|live| live.try_lock()?.spans.upgrade()).collect()
        };
        let mut ages: BTreeMap<Round, u64> = BTreeMap::new();
        for spans in &live {
            spans.uses(&mut |round, held| *ages.entry(round).or_default() += held);
        }
        for round in ages.into_keys().take_while(|round| *round <= until) {
            for spans in &live {
                if given >= bytes {
                    break;
                }
                match spans.give_back(round, bytes - given) {
                    Ok(more) => given += more,
                    Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                        tracing::debug!("the file system of the cache cannot give parts of files back");
                        return given;
                    }
                    Err(error) => {
                        tracing::warn!(layer = %spans.cache().layer(), %error, "cached bytes could not be given back");
                    }
                }
            }
        }
        self.stats.cache_given_back_bytes.add(given);
        given
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
