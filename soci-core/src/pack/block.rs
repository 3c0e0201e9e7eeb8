//! The plain bytes of one block.

use super::{PackError, PackHead};
use crate::digest::Digest;

/// Opens a block: `stored` must be exactly its bytes ([`Block::stored`](super::Block::stored)). Gives the plain bytes of
/// its extents, one after the other.
///
/// # Errors
/// When the bytes have another length or digest than the head says, or do not hold exactly its extents. Nothing is
/// decompressed before length and digest are right, and never more than the extents need.
pub fn open_block(head: &PackHead, block: usize, stored: &[u8]) -> Result<Vec<u8>, PackError> {
    let it = head.blocks().get(block).ok_or(PackError::NoBlock(block))?;
    if stored.len() as u64 != it.stored.len() {
        return Err(PackError::BlockLength { block, expected: it.stored.len(), actual: stored.len() as u64 });
    }
    let actual = Digest::of(stored);
    if actual != it.digest {
        return Err(PackError::BlockDigest { block, expected: it.digest, actual });
    }
    let plain = it.plain_len();
    let damaged = |source| PackError::BlockDamaged { block, plain, source };
    // At most MAX_BLOCK: the head was checked.
    let bytes = zstd::bulk::decompress(stored, plain as usize).map_err(damaged)?;
    if bytes.len() as u64 != plain {
        return Err(PackError::BlockShort { block, plain, actual: bytes.len() as u64 });
    }
    Ok(bytes)
}
