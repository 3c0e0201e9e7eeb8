//! The pack that would be made of a plan: its blocks, and which of them has which bytes. Pure.

use std::collections::BTreeMap;

use soci_core::pack::BLOCK;
use soci_core::units::ByteRange;

use super::spans::compressed;
use super::workload::Case;
use crate::plan::Coverage;

/// Bytes that zstd makes of what deflate makes one, about: a pack's level is high, and its blocks are cut out of files.
const ZSTD: f64 = 0.88;
/// Bytes of a file beside what is needed that are packed, too, behind all else.
const SLACK: u64 = 4096;
/// Records of a tar.
const RECORD: u64 = 512;
/// Bytes of the head for each block and each extent, about.
const HEAD_BLOCK: f64 = 40.0;
const HEAD_EXTENT: f64 = 4.0;

/// A pack.
#[derive(Debug)]
pub(super) struct Pack {
    /// Stored and plain bytes of each block, in the order in which they come.
    pub(super) blocks: Vec<(f64, f64)>,
    /// By layer: where a part begins, where it ends, and which block has it.
    parts: Vec<BTreeMap<u64, (u64, usize)>>,
    /// Bytes in front of the first block.
    pub(super) head: f64,
}

impl Pack {
    /// Of what is planned.
    pub(super) fn new(case: &Case) -> Self {
        let layers = case.layers.len();
        let mut pack = Self { blocks: Vec::new(), parts: vec![BTreeMap::new(); layers], head: 0.0 };
        let mut taken = vec![Coverage::default(); layers];
        let beside = case.plan.ranges.iter().flat_map(|&(layer, range)| {
            let before = ByteRange::new(range.start.saturating_sub(SLACK), range.start);
            [(layer, before), (layer, ByteRange::new(range.end, range.end.saturating_add(SLACK)))]
        });
        let mut plain = BLOCK;
        for (place, (layer, range)) in case.plan.ranges.iter().copied().chain(beside).enumerate() {
            if place == case.plan.must_have {
                plain = BLOCK;
            }
            let end = range.end.next_multiple_of(RECORD).min(case.layers[layer].plain);
            for mut rest in taken[layer].add(ByteRange::new(range.start / RECORD * RECORD, end)) {
                while !rest.is_empty() {
                    if plain >= BLOCK {
                        pack.blocks.push((0.0, 0.0));
                        plain = 0;
                    }
                    let part = ByteRange::new(rest.start, rest.end.min(rest.start + (BLOCK - plain)));
                    plain += part.len();
                    pack.add(case, layer, part);
                    rest.start = part.end;
                }
            }
        }
        let extents: usize = pack.parts.iter().map(BTreeMap::len).sum();
        pack.head = pack.blocks.len() as f64 * HEAD_BLOCK + extents as f64 * HEAD_EXTENT;
        pack
    }

    fn add(&mut self, case: &Case, layer: usize, part: ByteRange) {
        let last = self.blocks.len().saturating_sub(1);
        self.parts[layer].insert(part.start, (part.end, last));
        if let Some((stored, plain)) = self.blocks.last_mut() {
            *stored += compressed(&case.layers[layer].marks, part) * ZSTD;
            *plain += part.len() as f64;
        }
    }

    /// The blocks that have bytes of a range, and what of it none has.
    pub(super) fn find(&self, layer: usize, range: ByteRange) -> (Vec<usize>, Vec<ByteRange>) {
        let (mut blocks, mut missing, mut at) = (Vec::new(), Vec::new(), range.start);
        let parts = &self.parts[layer];
        let first = parts.range(..=range.start).next_back().map_or(range.start, |(start, _)| *start);
        for (&start, &(end, block)) in parts.range(first..range.end) {
            if end <= at {
                continue;
            }
            if start > at {
                missing.push(ByteRange::new(at, start));
            }
            blocks.push(block);
            at = end;
        }
        if at < range.end {
            missing.push(ByteRange::new(at, range.end));
        }
        blocks.sort_unstable();
        blocks.dedup();
        (blocks, missing)
    }

    /// Numbers of the blocks of each request: parts of at most `limit` bytes.
    pub(super) fn requests(&self, limit: f64) -> Vec<std::ops::Range<usize>> {
        let (mut requests, mut bytes): (Vec<std::ops::Range<usize>>, f64) = (Vec::new(), 0.0);
        for (block, (stored, _)) in self.blocks.iter().enumerate() {
            match requests.last_mut() {
                Some(open) if bytes + stored <= limit => (open.end, bytes) = (block + 1, bytes + stored),
                _ => {
                    requests.push(block..block + 1);
                    bytes = *stored;
                }
            }
        }
        requests
    }
}
