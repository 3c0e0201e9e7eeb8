//! Packs as they are told of: which are wrong, and until when a reader may see that.
//!
//! [`Lies`] owns a tale for each pack. A byte that only a pack has brought is believed until its span comes. So a reader may see a
//! wrong byte where a wrong pack has one, but not once the pack was found out and is over. A layer that was given up since and is
//! mounted again is not tied to the pack any more: it finds out by itself.

use std::sync::{Arc, Weak};

use soci_core::units::ByteRange;

use crate::span::{PackBond, SpanManager};

/// What a wrong pack does to a byte.
pub(super) const WRONG: u8 = 0xff;

/// All packs of a run.
#[derive(Debug, Default)]
pub(super) struct Lies(Vec<Tale>);

#[derive(Debug)]
struct Tale {
    bond: Arc<PackBond>,
    tied: Vec<Weak<SpanManager>>,
    /// Wrong parts, by the place of their layer.
    wrong: Vec<(usize, ByteRange)>,
    promises: bool,
    /// Nothing of it is written any more.
    is_over: bool,
}

impl Lies {
    /// A pack begins. Gives its number.
    pub(super) fn begins<'a>(
        &mut self,
        bond: &Arc<PackBond>,
        layers: impl Iterator<Item = &'a Arc<SpanManager>>,
        wrong: Vec<(usize, ByteRange)>,
    ) -> usize {
        let tied = layers.map(Arc::downgrade).collect();
        self.0.push(Tale { bond: Arc::clone(bond), tied, wrong, promises: true, is_over: false });
        self.0.len() - 1
    }

    pub(super) fn promises_nothing(&mut self, pack: usize) {
        self.0[pack].promises = false;
    }

    pub(super) fn is_over(&mut self, pack: usize) {
        self.0[pack].is_over = true;
    }

    /// Whether readers may wait for a pack.
    pub(super) fn promises(&self) -> bool {
        self.0.iter().any(|tale| tale.promises)
    }

    /// Packs of which nobody who begins to read now may see anything.
    pub(super) fn dead(&self, manager: &Arc<SpanManager>) -> Vec<usize> {
        let all = ByteRange::new(0, manager.cache().size());
        let is_tied = |tale: &Tale| tale.tied.iter().any(|tied| tied.as_ptr() == Arc::as_ptr(manager));
        let is_dead = |tale: &Tale| {
            tale.is_over && (tale.bond.is_broken() && is_tied(tale) || !manager.cache().any_packed(all))
        };
        (0..self.0.len()).filter(|pack| is_dead(&self.0[*pack])).collect()
    }

    /// Whether a pack that was not dead has the byte at `offset` wrong.
    pub(super) fn excuse(&self, place: usize, offset: u64, dead: &[usize]) -> bool {
        let alive = self.0.iter().enumerate().filter(|(pack, _)| !dead.contains(pack));
        alive
            .flat_map(|(_, tale)| &tale.wrong)
            .any(|(of, range)| *of == place && (range.start..range.end).contains(&offset))
    }
}
