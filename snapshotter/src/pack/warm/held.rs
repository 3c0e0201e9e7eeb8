//! The plain bytes of blocks that the kernel has not been given yet: who gives them need not read them from a cache's file again.
//!
//! [`Held`] owns them, and lets go of a block when all layers that have bytes in it were given theirs. There is a limit; blocks
//! beyond it are read from the caches.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// Bytes that are held at most.
const LIMIT: usize = 16 << 20;

/// Blocks by their number.
#[derive(Debug, Default)]
pub(crate) struct Held(Mutex<Blocks>);

#[derive(Debug, Default)]
struct Blocks {
    bytes: usize,
    held: HashMap<usize, Block>,
}

#[derive(Debug)]
struct Block {
    plain: Arc<Vec<u8>>,
    /// Who has bytes in it that were not given.
    layers: Vec<usize>,
}

impl Held {
    /// Holds a block that has bytes of these layers, if there is room.
    pub(crate) fn hold(&self, block: usize, plain: Vec<u8>, layers: Vec<usize>) {
        let mut blocks = self.0.lock();
        if !layers.is_empty() && blocks.bytes + plain.len() <= LIMIT {
            blocks.bytes += plain.len();
            blocks.held.insert(block, Block { plain: Arc::new(plain), layers });
        }
    }

    /// The bytes of a block.
    pub(crate) fn get(&self, block: usize) -> Option<Arc<Vec<u8>>> {
        self.0.lock().held.get(&block).map(|block| Arc::clone(&block.plain))
    }

    /// A layer needs its bytes of a block no more.
    pub(crate) fn given(&self, block: usize, layer: usize) {
        let mut blocks = self.0.lock();
        let Some(known) = blocks.held.get_mut(&block) else { return };
        known.layers.retain(|&other| other != layer);
        if known.layers.is_empty()
            && let Some(gone) = blocks.held.remove(&block)
        {
            blocks.bytes -= gone.plain.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_stays_until_all_its_layers_have_it_and_none_is_held_beyond_the_limit() {
        let held = Held::default();
        held.hold(0, vec![1; 10], vec![3, 5]);
        held.hold(1, vec![2; LIMIT], vec![3]);
        assert_eq!(held.get(1), None);
        held.given(0, 3);
        held.given(0, 3);
        assert_eq!(held.get(0).as_deref(), Some(&vec![1; 10]));
        held.given(0, 5);
        assert_eq!(held.get(0), None);
        held.hold(1, vec![2; LIMIT], vec![3]);
        assert_eq!(held.get(1).map(|plain| plain.len()), Some(LIMIT));
        held.hold(2, vec![3; 1], Vec::new());
        assert_eq!(held.get(2), None);
    }
}
