//! The plain bytes of one block.

use super::{PackError, PackHead};
use crate::digest::Digest;

/// Opens blocks one after the other; what that needs is made once.
#[derive(Default)]
pub struct BlockOpener {
    zstd: zstd::bulk::Decompressor<'static>,
}

impl BlockOpener {
    /// Opens a block: `stored` must be exactly its bytes ([`Block::stored`](super::Block::stored)). Gives the plain bytes of
    /// its extents, one after the other.
    ///
    /// # Errors
    /// When the bytes have another length or digest than the head says, or do not hold exactly its extents. Nothing is
    /// decompressed before length and digest are right, and never more than the extents need.
    pub fn open(&mut self, head: &PackHead, block: usize, stored: &[u8]) -> Result<Vec<u8>, PackError> {
        let it = head.blocks().get(block).ok_or(PackError::NoBlock(block))?;
        if stored.len() as u64 != it.stored.len() {
            let (expected, actual) = (it.stored.len(), stored.len() as u64);
            return Err(PackError::BlockLength { block, expected, actual });
        }
        let actual = Digest::of(stored);
        if actual != it.digest {
            return Err(PackError::BlockDigest { block, expected: it.digest, actual });
        }
        let plain = it.plain_len();
        // At most MAX_BLOCK: the head was checked.
        let mut bytes = Vec::with_capacity(plain as usize);
        let damaged = |source| PackError::BlockDamaged { block, plain, source };
        let actual = self.zstd.decompress_to_buffer(stored, &mut bytes).map_err(damaged)? as u64;
        if actual != plain {
            return Err(PackError::BlockShort { block, plain, actual });
        }
        Ok(bytes)
    }
}

impl std::fmt::Debug for BlockOpener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockOpener").finish_non_exhaustive()
    }
}

/// Opens one block, as [`BlockOpener::open`] does.
///
/// # Errors
/// As there.
pub fn open_block(head: &PackHead, block: usize, stored: &[u8]) -> Result<Vec<u8>, PackError> {
    BlockOpener::default().open(head, block, stored)
}
