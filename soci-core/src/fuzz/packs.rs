//! Heads and blocks of packs.
//!
//! Owns nothing.

use super::{Seed, bounded};
use crate::digest::Digest;
use crate::pack::testing::{ForgedBlock, forged};
use crate::pack::{Extent, MAX_BLOCK, PackHead, open_block};
use crate::units::ByteRange;

/// Blocks of a head that opens follow each other in the blob and are no larger than a reader takes, no byte of a layer is
/// in two extents, and a block gives exactly the bytes of its extents.
pub fn pack_head(bytes: &[u8]) {
    let Some((&[kind, stored], bytes)) = bytes.split_first_chunk() else { return };
    // The last bytes are the first block; the head gets its digest, and a table that is not compressed yet.
    let (head, block) = bytes.split_at(bytes.len().saturating_sub(usize::from(stored)));
    let mut head = head.to_vec();
    let word = |head: &[u8], at: usize| {
        let bytes = head.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, |bytes| u32::from_le_bytes(bytes) as usize)
    };
    let (layers, blocks) = (word(&head, 20), word(&head, 64));
    let digests = 80usize.saturating_add(layers.saturating_mul(32));
    if let Some(first) = head.get_mut(digests..digests.saturating_add(32)) {
        first.copy_from_slice(Digest::of(block).as_bytes());
    }
    let table = digests.saturating_add(blocks.saturating_mul(32));
    if kind & 1 == 1 && table <= head.len() {
        let plain = head.split_off(table);
        let stored = zstd::bulk::compress(&plain, 1).expect("zstd takes any bytes");
        head[12..16].copy_from_slice(&(stored.len() as u32).to_le_bytes());
        head[16..20].copy_from_slice(&(plain.len() as u32).to_le_bytes());
        head.extend(stored);
    }
    let Ok(open) = bounded(head.len(), || PackHead::open(&head)) else { return };
    is_sound(&open, head.len() as u64, layers);
    if let Ok(plain) = bounded(block.len(), || open_block(&open, 0, block)) {
        assert_eq!(plain.len() as u64, open.blocks()[0].plain_len());
    }
}

/// Blocks lie behind a head of `end` bytes, and extents in one of the layers and nowhere twice.
fn is_sound(open: &PackHead, mut end: u64, layers: usize) {
    for (number, it) in open.blocks().iter().enumerate() {
        assert!(it.stored.start == end && !it.stored.is_empty() && !open.extents(number).is_empty());
        assert_eq!(it.plain_len(), open.extents(number).iter().map(|extent| extent.range.len()).sum::<u64>());
        assert!(it.plain_len() <= MAX_BLOCK);
        end = it.stored.end;
    }
    assert!(end == open.size() && open.must_have() <= open.blocks().len());
    let mut sorted = open.all_extents().to_vec();
    sorted.sort_unstable();
    assert!(sorted.iter().all(|extent| !extent.range.is_empty() && usize::from(extent.layer) < layers));
    assert!(
        sorted.windows(2).all(|two| two[0].layer != two[1].layer || two[0].range.end <= two[1].range.start)
    );
}

/// A head of up to a million extents that are alike, so that its table is packed to nearly nothing.
pub fn pack_shapes(bytes: &[u8]) {
    let mut seed = Seed(bytes);
    let (length, gap) = (seed.count() as u64, seed.count() as u64);
    let (extents, blocks) = (seed.count(), 1 + seed.below(64));
    let layers = [Digest::of(b"low"), Digest::of(b"high")];
    let two = seed.flag();
    let extents: Vec<Extent> = (0..extents as u64)
        .map(|at| Extent {
            layer: u16::from(two && at % 2 == 1),
            range: ByteRange::new(at * (length + gap), at * (length + gap) + length),
        })
        .collect();
    let share = extents.len().div_ceil(blocks).max(1);
    let blocks: Vec<_> = extents.chunks(share).map(|extents| ForgedBlock::of_plain(extents, b"")).collect();
    let (blob, head) = forged(&Digest::of(b"image"), &layers[..=usize::from(two)], &blocks);
    drop((extents, blocks));
    let head = &blob[..head as usize];
    if let Ok(open) = bounded(head.len(), || PackHead::open(head)) {
        is_sound(&open, head.len() as u64, 2);
    }
}
