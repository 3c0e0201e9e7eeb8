//! Which bytes of a layer came ahead of their readers, and were not read since.
//!
//! State: a bit for each 512 bytes of the layer's tar (files begin there), in parts that are made when something comes; owned by the
//! layer's [`super::SpanManager`]. What must always hold: a bit that is taken is taken by one; a look at what never came costs one load.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use soci_core::units::ByteRange;
use tokio::time::Instant;

use super::SpanManager;

/// Bytes for which one bit stands.
const UNIT: u64 = 512;
/// Words of one part: 2 MiB of the tar.
const WORDS: usize = 64;
/// Units of a part.
const UNITS: u64 = 64 * WORDS as u64;

type Part = Box<[AtomicU64; WORDS]>;

/// The bits of one layer.
#[derive(Debug)]
pub(super) struct Ahead(Box<[OnceLock<Part>]>);

impl Ahead {
    /// Nothing has come of a tar of `size` bytes.
    pub(super) fn new(size: u64) -> Self {
        let parts = size.div_ceil(UNIT * UNITS);
        Self((0..parts).map(|_| OnceLock::new()).collect())
    }

    /// Bytes have come that nobody has read. How many of them are new here, in whole units.
    pub(super) fn mark(&self, range: ByteRange) -> u64 {
        let mut new = 0;
        words(range, |part, word, mask| {
            if let Some(part) = self.0.get(part) {
                let part = part.get_or_init(|| Box::new(std::array::from_fn(|_| AtomicU64::new(0))));
                new += (!part[word].fetch_or(mask, Ordering::Relaxed) & mask).count_ones();
            }
        });
        u64::from(new) * UNIT
    }

    /// Bytes are read. How many of them came ahead and were not read before, in whole units.
    pub(super) fn take(&self, range: ByteRange) -> u64 {
        let mut taken = 0;
        words(range, |part, word, mask| {
            let Some(word) = self.0.get(part).and_then(OnceLock::get).map(|part| &part[word]) else { return };
            if word.load(Ordering::Relaxed) & mask != 0 {
                taken += (word.fetch_and(!mask, Ordering::Relaxed) & mask).count_ones();
            }
        });
        u64::from(taken) * UNIT
    }

    /// Nothing has come, after all.
    pub(super) fn clear(&self) {
        for word in self.0.iter().filter_map(OnceLock::get).flat_map(|part| part.iter()) {
            word.store(0, Ordering::Relaxed);
        }
    }
}

impl SpanManager {
    /// A reader has waited, among others for this many bytes that were coming ahead of readers.
    pub(super) fn note_wait(&self, started: Instant, late: u64) {
        let waited = started.elapsed().as_micros() as u64;
        if late > 0 {
            self.tally.late.add(late);
            self.tally.late_wait_us.add(waited);
        } else {
            self.tally.missed_wait_us.add(waited);
        }
    }

    /// Announces plain bytes that no reader waits for.
    pub(crate) fn comes_ahead(&self, range: ByteRange) {
        self.tally.came_ahead(self.ahead.mark(range));
    }

    /// They have not come.
    pub(crate) fn came_not(&self, range: ByteRange) {
        self.tally.withdraw(self.ahead.take(range));
    }

    /// The kernel has plain bytes that it has not asked for.
    pub(crate) fn handed(&self, range: ByteRange) {
        self.tally.handed.add(self.ahead.take(range));
    }

    /// A reader has found bytes, and takes them.
    pub(super) fn note_hit(&self, range: ByteRange) {
        let hit = self.ahead.take(range);
        if hit > 0 {
            self.tally.hit.add(hit);
        }
    }
}

/// Tells part, word and mask of the units that `range` touches.
fn words(range: ByteRange, mut tell: impl FnMut(usize, usize, u64)) {
    if range.is_empty() {
        return;
    }
    let (first, end) = (range.start / UNIT, range.end.div_ceil(UNIT));
    for word in first / 64..end.div_ceil(64) {
        let low = first.saturating_sub(word * 64).min(63);
        let high = (end - word * 64).min(64);
        let mask = (u64::MAX >> (64 - (high - low))) << low;
        tell((word / WORDS as u64) as usize, (word % WORDS as u64) as usize, mask);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_came_is_taken_once() {
        let ahead = Ahead::new(10 << 20);
        let range = |start, end| ByteRange::new(start, end);
        assert_eq!(ahead.take(range(0, 10 << 20)), 0);
        assert_eq!(ahead.mark(range(2 << 20, (4 << 20) + 512)), (2 << 20) + 512);
        assert_eq!(ahead.mark(range(2 << 20, 3 << 20)), 0, "it is here");
        assert_eq!(ahead.take(range((2 << 20) + 512, (2 << 20) + 1024)), 512);
        assert_eq!(ahead.take(range(0, 10 << 20)), 2 << 20);
        assert_eq!(ahead.take(range(0, 10 << 20)), 0);
        assert_eq!(
            (ahead.mark(range(5, 5)), ahead.mark(range(1 << 40, (1 << 40) + 512))),
            (0, 0),
            "nothing is there"
        );
        ahead.mark(range(0, 512));
        ahead.clear();
        assert_eq!(ahead.take(range(0, 512)), 0);
    }

    proptest! {
        #[test]
        fn it_counts_as_a_set_of_units_does(ranges in proptest::collection::vec((any::<bool>(), 0u64..6 << 20, 0u64..3 << 20), 1..20)) {
            let ahead = Ahead::new(9 << 20);
            let mut model = std::collections::BTreeSet::new();
            for (mark, start, length) in ranges {
                let range = ByteRange::new(start, start + length);
                let units = if range.is_empty() { 0..0 } else { start / UNIT..range.end.div_ceil(UNIT) };
                let changed = units.filter(|unit| if mark { model.insert(*unit) } else { model.remove(unit) }).count() as u64;
                let told = if mark { ahead.mark(range) } else { ahead.take(range) };
                prop_assert_eq!(told, changed * UNIT);
            }
        }
    }
}
