//! What working-set packs bring: bytes, promises of bytes, and doubts about them.
//!
//! State: the promised ranges are the [`SpanManager`]'s; the doubt is that of the [`PackBond`] between the layers of a pack.
//! Whoever streams a pack ties its layers, promises its ranges, fills them, and takes the promise back when the pack is done
//! or dropped. A layer that finds a pack wrong forgets what packs have brought, and so do those it is tied to.
//!
//! What must always hold: nothing here changes a byte that was checked against its span.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use soci_core::coverage::Coverage;
use soci_core::units::{ByteRange, SpanId};
use tokio::sync::watch;

use super::spare::Parts;
use super::{SpanError, SpanManager};
use crate::doors;
#[cfg(test)]
use crate::doors::staged::{Planted, planted};

/// Packs of one layer that are remembered: one for each image that has it and was started lately.
const MAX_BONDS: usize = 16;

/// What ties the layers that one pack fills: when one of them finds that the pack is wrong, none believes it any more.
#[derive(Debug, Default)]
pub struct PackBond {
    broken: AtomicBool,
    layers: Vec<Weak<SpanManager>>,
}

impl PackBond {
    /// Ties the layers of a pack that is about to arrive. The bond lives as long as one of them.
    pub fn tie<'a>(layers: impl Iterator<Item = &'a Arc<SpanManager>> + Clone) -> Arc<Self> {
        let bond = Arc::new(Self {
            broken: AtomicBool::new(false),
            layers: layers.clone().map(Arc::downgrade).collect(),
        });
        for layer in layers {
            let mut bonds = layer.bonds.lock();
            bonds.push(Arc::clone(&bond));
            let old = bonds.len().saturating_sub(MAX_BONDS);
            bonds.drain(..old);
        }
        bond
    }

    /// Whether the pack was found to be wrong.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// Makes all layers forget what only packs have brought. Blocking.
    fn break_up(&self) {
        self.broken.store(true, Ordering::Release);
        for layer in self.layers.iter().filter_map(Weak::upgrade) {
            layer.forget_packed();
        }
    }
}

impl SpanManager {
    /// Stores plain bytes that a pack has brought, each with its offset, where nothing is there yet, and wakes readers that wait for
    /// them. Whether nothing was there: another pack may have brought other bytes, which then stay. Blocking.
    pub fn fill_packed(&self, parts: &[(u64, &[u8])]) -> Result<bool, SpanError> {
        for &(offset, bytes) in parts {
            self.comes_ahead(ByteRange::new(offset, offset.saturating_add(bytes.len() as u64)));
        }
        let stored = self.cache.store_packed(parts);
        self.note_written(parts.iter().map(|(_, bytes)| bytes.len() as u64).sum(), &stored);
        let round = self.engine.room().round();
        for &(offset, bytes) in parts {
            let range = ByteRange::new(offset, offset.saturating_add(bytes.len() as u64));
            for span in self.ztoc.spans().spans_covering(range) {
                self.uses.note(SpanId(span), round);
            }
        }
        self.impatient.store(false, Ordering::Relaxed);
        self.arrived.send_replace(());
        stored.map_err(SpanError::Cache)
    }

    /// Says which bytes a pack will bring soon, beside those promised already. Readers wait for them for
    /// [`super::SpanOptions::pack_patience`] before they ask for spans.
    pub fn promise(&self, ranges: Vec<ByteRange>) {
        let mut promised = self.promised.lock();
        for range in ranges {
            promised.add(range);
        }
    }

    /// Takes all promises back: the pack is done, dropped or failed. Readers that still wait ask for spans.
    pub fn promise_over(&self) {
        *self.promised.lock() = Coverage::default();
        doors::between();
        self.arrived.send_replace(());
    }

    /// Makes all bytes absent that only a pack has brought. Blocking.
    pub fn forget_packed(&self) {
        #[cfg(test)]
        if planted(Planted::PackBelieved) {
            return;
        }
        if let Err(error) = self.cache.forget_packed() {
            tracing::error!(layer = %self.cache.layer(), %error, "bytes of a pack could not be forgotten for good; they may be back after a restart");
        }
        self.ahead.clear();
        self.forgotten.send_replace(());
    }

    /// Changes when [`Self::forget_packed`] was called.
    pub fn forgotten(&self) -> watch::Receiver<()> {
        self.forgotten.subscribe()
    }

    /// The plain bytes `range` when all of them are there.
    pub fn cached(&self, range: ByteRange) -> Option<Vec<u8>> {
        let holes = self.cache.holes();
        (self.check(range).is_ok() && self.there(range, &Parts::default())).then_some(())?;
        self.read_there(range, holes)
    }

    /// Whether all of `range` was checked against spans.
    pub fn checked(&self, range: ByteRange) -> bool {
        self.check(range).is_ok() && self.cache.checked(range)
    }

    /// The plain bytes `range` when all of them were checked against spans: those before a span are its window.
    pub fn read_checked(&self, range: ByteRange) -> Option<Vec<u8>> {
        let holes = self.cache.holes();
        if !self.checked(range) {
            return None;
        }
        self.read_there(range, holes)
    }

    /// Bytes that were there when there were so many holes, if they still are.
    fn read_there(&self, range: ByteRange, holes: u64) -> Option<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(range.len()).ok()?];
        self.cache.read(range.start, &mut bytes).ok()?;
        (self.cache.holes() == holes).then_some(bytes)
    }

    /// Whether a pack has promised all of `ranges`.
    pub(super) fn is_promised(&self, ranges: &[ByteRange]) -> bool {
        let promised = self.promised.lock();
        ranges.iter().all(|range| promised.covers(*range))
    }

    /// Bytes of a span have come: wakes readers that wait for a promise instead of the span.
    pub(super) fn wake_patient(&self) {
        if !self.promised.lock().is_empty() {
            self.arrived.send_replace(());
        }
    }

    /// What a pack had brought at `offset` was not what the span has there.
    pub(super) fn pack_differs(&self, span: SpanId, offset: u64) {
        self.stats.pack_mismatches.inc();
        tracing::error!(image = &*self.tally.image(), layer = %self.cache.layer(), %span, offset, "pack rejected: its bytes differ from the layer's; what only packs have brought is fetched again");
        // Also what a pack has brought before a restart, of which no bond is left.
        self.forget_packed();
        let bonds = std::mem::take(&mut *self.bonds.lock());
        for bond in &bonds {
            bond.break_up();
        }
    }
}
