//! Needed ranges and the plain bytes of layers -> the bytes of a pack.
//!
//! Owns the blocks that are compressed now; the others are in a file. What must always hold: the same ranges and layers give the same bytes; every
//! needed byte is in one extent only, in the block of its first need; in a block, extents are in the order of layers and of their
//! bytes there, neighbours joined; what was asked for shares no block with what was mapped along, and what is to be had first none with the
//! rest.

use std::{io, num::NonZero, thread};

use super::{
    BLOCK, Extent, MAX_BLOCKS, MAX_EXTENTS, MAX_LAYERS, MAX_PLAIN, PackBuildError, PackHead,
    collect::Collected,
    head::{DIGEST, HEADER, Written, encode},
    scratch::Scratch,
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

/// Lays out ranges in blocks, and says how many blocks are to be had first. `firsts` are how many ranges at the front were asked for,
/// and how many are to be had first. `plain_size` gives the length of a layer's tar, `None` for layers that are left out.
pub(super) fn lay_out(
    needs: &[(usize, ByteRange)],
    firsts: [usize; 2],
    plain_size: impl Fn(usize) -> Option<u64>,
) -> Result<(Vec<Draft>, usize), PackBuildError> {
    let [asked, must_have] = firsts;
    let mut taken = vec![Coverage::default(); needs.iter().map(|(layer, _)| layer + 1).max().unwrap_or(0)];
    let mut blocks: Vec<Draft> = Vec::new();
    let (mut first, mut total) = (0, 0);
    let mut full = true;
    for (place, &(layer, range)) in needs.iter().enumerate() {
        full |= place == asked;
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

/// A pack: its head, and its blocks in a file.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) head: PackHead,
    /// The bytes of the head.
    pub(super) head_bytes: Vec<u8>,
    /// Blocks that are in the pack, and perhaps more behind them.
    pub(super) blocks: Scratch,
    /// Plain bytes of needed ranges that the budget cut.
    pub(super) cut: u64,
    /// How many of them were needed or mapped before the workload was ready.
    pub(super) cut_must_have: u64,
}

/// A block as it is stored.
pub(super) struct Stored {
    pub(super) length: u64,
    pub(super) digest: Digest,
}

/// Bytes of layers, and where they are.
pub(super) struct Bytes<'a> {
    pub(super) layers: &'a [Option<Collected>],
    pub(super) scratch: &'a Scratch,
}

/// Compresses blocks into `blocks`, an empty file, and makes the head for them. With a budget, blocks at the end are left out
/// until the blob has at most so many bytes. Memory: some blocks for each processor.
pub(super) fn write(
    image: &Digest,
    layers: &[Digest],
    drafts: &[Draft],
    must_have: usize,
    bytes: &Bytes<'_>,
    budget: Option<u64>,
    mut blocks: Scratch,
) -> Result<Packed, PackBuildError> {
    let budget = budget.unwrap_or(u64::MAX);
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let mut stored: Vec<Stored> = Vec::new();
    let mut length = 0;
    for batch in drafts.chunks(BATCH * threads) {
        for (block, digest) in compress(batch, bytes, threads)? {
            let place = blocks.append(&block).map_err(PackBuildError::Scratch)?;
            length = place.end;
            stored.push(Stored { length: place.len(), digest });
        }
        if length > budget {
            break;
        }
    }
    let head = |kept: usize| head(image, layers, &drafts[..kept], &stored[..kept], must_have.min(kept));
    let Some((kept, head_bytes)) = fitting_head(&stored, budget, head)? else {
        return Err(if drafts.is_empty() { PackBuildError::Nothing } else { PackBuildError::Budget(budget) });
    };
    let plain = |drafts: &[Draft]| drafts.iter().map(|draft| draft.plain).sum();
    Ok(Packed {
        head: PackHead::open(&head_bytes)?,
        head_bytes,
        blocks,
        cut: plain(&drafts[kept..]),
        cut_must_have: plain(drafts.get(kept..must_have).unwrap_or_default()),
    })
}

/// The most blocks that fit, and the head for them. A head costs a compression of its table, so lengths are added up first,
/// and it is made for a few numbers of blocks only: each block takes more than it can change in the length of the table.
pub(super) fn fitting_head(
    stored: &[Stored],
    budget: u64,
    head: impl Fn(usize) -> Result<Vec<u8>, PackBuildError>,
) -> Result<Option<(usize, Vec<u8>)>, PackBuildError> {
    // Without the table: no more blocks than these can fit.
    let mut ends = vec![0];
    for block in stored {
        ends.push(ends.last().unwrap_or(&0) + block.length);
    }
    let least = |kept: usize| ends[kept] + (HEADER + DIGEST * (kept + 1)) as u64;
    let (mut below, mut over, mut step, mut best) = (0, stored.len() + 1, 1, None);
    while over - below > 1 && least(over - 1) > budget {
        over -= 1;
    }
    // Down in growing steps until one fits, then between the two.
    while over - below > 1 {
        let kept = if best.is_some() { below + (over - below) / 2 } else { over.saturating_sub(step).max(1) };
        let bytes = head(kept)?;
        if bytes.len() as u64 + ends[kept] <= budget {
            (below, best) = (kept, Some((kept, bytes)));
        } else {
            (over, step) = (kept, step * 2);
        }
    }
    Ok(best)
}

/// The head for these blocks, which lists only layers that they are of.
fn head(
    image: &Digest,
    layers: &[Digest],
    drafts: &[Draft],
    stored: &[Stored],
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
            stored: stored.length,
            digest: stored.digest,
            extents: draft.extents.iter().map(renumbered).collect(),
        })
        .collect();
    encode(image, &listed, &written, must_have, LEVEL).map_err(PackBuildError::Compress)
}

/// The stored bytes of some blocks with their digests, made on as many threads as there are processors.
fn compress(
    drafts: &[Draft],
    bytes: &Bytes<'_>,
    threads: usize,
) -> Result<Vec<(Vec<u8>, Digest)>, PackBuildError> {
    let one = |draft: &Draft| {
        let mut plain = Vec::with_capacity(draft.plain as usize);
        for extent in &draft.extents {
            let layer = bytes.layers.get(usize::from(extent.layer)).and_then(Option::as_ref);
            let place = layer.and_then(|layer| layer.place(extent.range));
            let place = place.ok_or(PackBuildError::Missing(extent.range))?;
            bytes.scratch.read(place, &mut plain).map_err(PackBuildError::Scratch)?;
        }
        let stored = zstd::bulk::compress(&plain, LEVEL).map_err(PackBuildError::Compress)?;
        let digest = Digest::of(&stored);
        Ok::<_, PackBuildError>((stored, digest))
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
