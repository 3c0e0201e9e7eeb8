//! Spans that could not be written, because the disk is full: kept in memory for those who wait for them.
//!
//! A [`Spare`] owns the bytes, for all layers of a node. What must always hold: it has checked bytes only, and no more than
//! [`LIMIT`] of them; the ones that came first go first.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use soci_core::units::ByteRange;

/// Bytes that are kept in all: some spans of what is being read at the moment.
const LIMIT: usize = 64 << 20;

/// Which layer: managers have numbers.
pub(crate) type LayerNumber = u64;

/// The bytes of one span.
#[derive(Debug, Clone)]
struct Kept {
    layer: LayerNumber,
    range: ByteRange,
    bytes: Arc<[u8]>,
}

/// What could not be written.
#[derive(Debug)]
pub struct Spare {
    kept: Mutex<VecDeque<Kept>>,
    limit: usize,
}

impl Default for Spare {
    fn default() -> Self {
        Self::limited(LIMIT)
    }
}

impl Spare {
    /// Room for so many bytes.
    pub(crate) fn limited(limit: usize) -> Self {
        Self { kept: Mutex::default(), limit }
    }

    /// Keeps the plain bytes of a span; false when they are too many.
    pub(crate) fn keep(&self, layer: LayerNumber, range: ByteRange, bytes: Vec<u8>) -> bool {
        if bytes.len() > self.limit || bytes.len() as u64 != range.len() {
            return false;
        }
        let mut kept = self.kept.lock();
        kept.retain(|known| known.layer != layer || known.range != range);
        let mut all: usize = kept.iter().map(|known| known.bytes.len()).sum();
        while all + bytes.len() > self.limit {
            all -= kept.pop_front().map_or(all, |oldest| oldest.bytes.len());
        }
        kept.push_back(Kept { layer, range, bytes: bytes.into() });
        true
    }

    /// What is kept of a part of a layer. It stays readable by the result.
    pub(crate) fn of(&self, layer: LayerNumber, range: ByteRange) -> Parts {
        let kept = self.kept.lock();
        let touching = |known: &&Kept| known.layer == layer && known.range.intersect(&range).is_some();
        Parts(kept.iter().filter(touching).cloned().collect())
    }
}

/// Some spans in memory.
#[derive(Debug, Default)]
pub(crate) struct Parts(Vec<Kept>);

impl Parts {
    /// Whether one of them has all of a range, which lies in one span.
    pub(crate) fn have(&self, range: ByteRange) -> bool {
        self.0.iter().any(|kept| kept.range.start <= range.start && range.end <= kept.range.end)
    }

    /// Puts them over bytes that begin at `start`.
    pub(crate) fn overlay(&self, start: u64, into: &mut [u8]) {
        let all = ByteRange::new(start, start + into.len() as u64);
        for kept in &self.0 {
            let Some(part) = kept.range.intersect(&all) else { continue };
            let within = |from: u64| (part.start - from) as usize..(part.end - from) as usize;
            into[within(start)].copy_from_slice(&kept.bytes[within(kept.range.start)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_up_to_the_limit_each_for_its_layer() {
        let spare = Spare::default();
        let (span, third) = (|at: u64| ByteRange::new(at, at + 10), LIMIT as u64 / 3 + 1);
        assert!(spare.keep(1, span(0), vec![1; 10]) && spare.keep(2, span(0), vec![2; 10]));
        assert!(spare.keep(1, span(10), vec![3; 10]));
        let parts = spare.of(1, ByteRange::new(5, 15));
        assert!(
            parts.have(ByteRange::new(5, 10)) && parts.have(span(10)) && !parts.have(ByteRange::new(5, 15))
        );
        let mut bytes = [0; 10];
        parts.overlay(5, &mut bytes);
        assert_eq!(bytes, [1, 1, 1, 1, 1, 3, 3, 3, 3, 3]);
        for number in 0..3 {
            let range = ByteRange::new(100 + number * third, 100 + (number + 1) * third);
            assert!(spare.keep(3, range, vec![4; third as usize]));
        }
        assert!(!spare.of(1, span(0)).have(span(0)), "the first ones had to go");
        assert!(parts.have(span(0)), "and stay for who reads them");
        assert!(spare.of(3, ByteRange::new(100 + 2 * third, 100 + 3 * third)).have(span(100 + 2 * third)));
        assert!(!spare.keep(1, ByteRange::new(0, LIMIT as u64 + 1), vec![0; LIMIT + 1]));
        assert!(!spare.keep(1, span(0), vec![0; 9]), "bytes of another length");
    }
}
