//! Needed ranges and the plain bytes of layers -> the bytes of a pack.
//!
//! Owns the blocks until they are one blob. What must always hold: the same ranges and layers give the same bytes; every
//! needed byte is in one extent only, in the block of its first need; in a block, extents are in the order of layers and of their
//! bytes there, neighbours joined; what is to be had first shares no block with the rest.

use std::{io, num::NonZero, thread};

use super::{
    BLOCK, Extent, MAX_BLOCKS, MAX_EXTENTS, MAX_LAYERS, MAX_PLAIN, PackBuildError, PackHead,
    collect::Collected,
    head::{Written, encode},
};
use crate::{coverage::Coverage, digest::Digest, units::ByteRange};

/// A pack is written once and read by every node: the level from which on zstd wins less than a percent.
const LEVEL: i32 = 19;
/// Content of a tar starts and is padded to a multiple of this.
const RECORD: u64 = 512;
/// Needed ranges begin at a multiple of this in their file.
const PAGE: u64 = 4096;
/// Blocks that one thread compresses before sizes are looked at again.
const BATCH: usize = 8;

/// A block before it is compressed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Draft {
    /// Layers by their number in the image.
    pub(super) extents: Vec<Extent>,
    pub(super) plain: u64,
}

impl Draft {
    /// All of a block arrives at once: neighbours that were needed at different times are one extent, which compresses better, and
    /// is stored and given to the kernel in one piece.
    fn sort(&mut self) {
        self.extents.sort_unstable();
        self.extents.dedup_by(|next, open| {
            let joined = open.layer == next.layer && open.range.end == next.range.start;
            if joined {
                open.range.end = next.range.end;
            }
            joined
        });
    }
}

/// Lays out ranges in blocks. `plain_size` gives the length of a layer's tar, `None` for layers that are left out.
pub(super) fn lay_out(
    needs: &[(usize, ByteRange)],
    must_have: usize,
    plain_size: impl Fn(usize) -> Option<u64>,
) -> Result<(Vec<Draft>, usize), PackBuildError> {
    let mut taken = vec![Coverage::default(); needs.iter().map(|(layer, _)| layer + 1).max().unwrap_or(0)];
    let mut blocks: Vec<Draft> = Vec::new();
    let (mut first, mut total) = (0, 0);
    let mut full = true;
    for (place, &(layer, range)) in needs.iter().enumerate() {
        if place == must_have {
            (first, full) = (blocks.len(), true);
        }
        let Some(size) = plain_size(layer) else { continue };
        let number = u16::try_from(layer).ok().filter(|&layer| usize::from(layer) < MAX_LAYERS);
        let number = number.ok_or(PackBuildError::TooManyLayers)?;
        for mut rest in taken[layer].add(round(range, size)) {
            total += rest.len();
            while !rest.is_empty() {
                if full {
                    blocks.push(Draft::default());
                    full = false;
                }
                let Some(block) = blocks.last_mut() else { break };
                let part = ByteRange::new(rest.start, rest.start + fitting(rest.len(), room(block)));
                if part.is_empty() {
                    full = true;
                    continue;
                }
                block.extents.push(Extent { layer: number, range: part });
                block.plain += part.len();
                rest.start = part.end;
                full = !rest.is_empty() || room(block) == 0;
            }
        }
    }
    if must_have >= needs.len() {
        first = blocks.len();
    }
    blocks.iter_mut().for_each(Draft::sort);
    let extents = blocks.iter().map(|block| block.extents.len()).sum();
    if total > MAX_PLAIN || extents > MAX_EXTENTS || blocks.len() > MAX_BLOCKS {
        return Err(PackBuildError::TooLarge { plain: total, extents });
    }
    Ok((blocks, first))
}

/// How many of `length` bytes go into so much room. What is needed begins where a page of a file does: none is cut in two, so that
/// a block can be used without the next.
const fn fitting(length: u64, room: u64) -> u64 {
    if length <= room { length } else { room / PAGE * PAGE }
}

/// Plain bytes that a block still takes: whole records.
fn room(block: &Draft) -> u64 {
    (BLOCK - block.plain) / RECORD * RECORD
}

/// A range with the rest of its records of the tar, inside of the layer.
pub(super) fn round(range: ByteRange, size: u64) -> ByteRange {
    let end = range.end.checked_next_multiple_of(RECORD).unwrap_or(range.end);
    ByteRange::new((range.start - range.start % RECORD).min(size), end.min(size))
}

/// A pack's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackBytes {
    /// The whole blob.
    pub blob: Vec<u8>,
    /// Its head.
    pub head: PackHead,
    /// Plain bytes of needed ranges that the budget cut.
    pub cut: u64,
    /// How many of them were needed before the workload was ready.
    pub cut_must_have: u64,
}

/// Compresses blocks and writes them behind their head. With a budget, blocks at the end are left out until the blob has at
/// most so many bytes.
pub(super) fn write(
    image: &Digest,
    layers: &[Digest],
    drafts: &[Draft],
    must_have: usize,
    bytes: &[Option<Collected>],
    budget: Option<u64>,
) -> Result<PackBytes, PackBuildError> {
    let budget = budget.unwrap_or(u64::MAX);
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let mut stored: Vec<Vec<u8>> = Vec::new();
    let mut length = 0;
    for batch in drafts.chunks(BATCH * threads) {
        for block in compress(batch, bytes, threads)? {
            length += block.len() as u64;
            stored.push(block);
        }
        if length > budget {
            break;
        }
    }
    loop {
        let kept = stored.len();
        if kept == 0 {
            return Err(if drafts.is_empty() {
                PackBuildError::Nothing
            } else {
                PackBuildError::Budget(budget)
            });
        }
        let head = head(image, layers, &drafts[..kept], &stored, must_have.min(kept))?;
        let length = head.len() as u64 + stored.iter().map(|block| block.len() as u64).sum::<u64>();
        if length > budget {
            stored.pop();
            continue;
        }
        let mut blob = head;
        let head = PackHead::open(&blob)?;
        blob.extend(stored.iter().flatten());
        let plain = |drafts: &[Draft]| drafts.iter().map(|draft| draft.plain).sum();
        let cut_must_have = plain(drafts.get(kept..must_have).unwrap_or_default());
        return Ok(PackBytes { blob, head, cut: plain(&drafts[kept..]), cut_must_have });
    }
}

/// The head for these blocks, which lists only layers that they are of.
fn head(
    image: &Digest,
    layers: &[Digest],
    drafts: &[Draft],
    stored: &[Vec<u8>],
    must_have: usize,
) -> Result<Vec<u8>, PackBuildError> {
    let mut used = vec![None; layers.len()];
    for extent in drafts.iter().flat_map(|draft| &draft.extents) {
        used[usize::from(extent.layer)] = Some(0);
    }
    let mut listed = Vec::new();
    for (place, layer) in used.iter_mut().zip(layers) {
        if place.is_some() {
            *place = Some(listed.len() as u16); // fewer than MAX_LAYERS
            listed.push(*layer);
        }
    }
    let renumbered = |extent: &Extent| {
        let layer = used[usize::from(extent.layer)].unwrap_or(extent.layer);
        Extent { layer, range: extent.range }
    };
    let written: Vec<Written> = drafts
        .iter()
        .zip(stored)
        .map(|(draft, stored)| Written {
            stored: stored.len() as u64,
            digest: Digest::of(stored),
            extents: draft.extents.iter().map(renumbered).collect(),
        })
        .collect();
    encode(image, &listed, &written, must_have, LEVEL).map_err(PackBuildError::Compress)
}

/// The stored bytes of some blocks, on as many threads as there are processors.
fn compress(
    drafts: &[Draft],
    bytes: &[Option<Collected>],
    threads: usize,
) -> Result<Vec<Vec<u8>>, PackBuildError> {
    let one = |draft: &Draft| {
        let mut plain = Vec::with_capacity(draft.plain as usize);
        for extent in &draft.extents {
            let layer = bytes.get(usize::from(extent.layer)).and_then(Option::as_ref);
            let part = layer.and_then(|layer| layer.get(extent.range));
            plain.extend_from_slice(part.ok_or(PackBuildError::Missing(extent.range))?);
        }
        zstd::bulk::compress(&plain, LEVEL).map_err(PackBuildError::Compress)
    };
    let share = drafts.len().div_ceil(threads).max(1);
    thread::scope(|scope| {
        let work = |drafts: &[Draft]| drafts.iter().map(one).collect::<Result<Vec<_>, _>>();
        let running: Vec<_> = drafts.chunks(share).map(|drafts| scope.spawn(move || work(drafts))).collect();
        let mut stored = Vec::with_capacity(drafts.len());
        for thread in running {
            let done = thread.join();
            let panicked = |_| PackBuildError::Compress(io::Error::other("a thread panicked"));
            stored.extend(done.map_err(panicked)??);
        }
        Ok(stored)
    })
}
