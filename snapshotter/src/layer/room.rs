//! Giving back the disk that cached bytes take. Carries out what [`crate::storage`] decides.
//!
//! Stateless. What must always hold: the cache of a layer in use is never taken away as a whole, only parts of it that nobody
//! is fetching; everything else is for whoever reads to find out.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use soci_core::digest::Digest;

use super::services::Services;
use crate::cache::stored;
use crate::span::SpanManager;
use crate::span::room::Round;
use crate::storage::Goal;

impl Services {
    pub(crate) fn make_room(&self, goal: Goal, idle: Round, is_needed: &dyn Fn(&Digest) -> bool) -> u64 {
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
        let stored = stored::stored(&self.cache).unwrap_or_else(|error| {
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
