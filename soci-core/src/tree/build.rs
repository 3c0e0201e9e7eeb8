//! The tree of a layer whose entries are all there. Holds no state.

use super::{Entries, Growing, LayerTree};

impl LayerTree {
    /// Builds the tree of all of `entries`. What cannot be shown is left out and told by [`Self::refused`].
    pub fn build<E: Entries + ?Sized>(entries: &E, count: usize) -> Self {
        let mut growing = Growing::with_capacity(count);
        let mut refused = Vec::new();
        for entry in 0..count as u32 {
            if let Err(refusal) = growing.add(entries, entry) {
                refused.push(refusal);
            }
        }
        Self { refused, ..growing.finish(entries) }
    }
}
