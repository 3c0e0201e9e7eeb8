//! Which bytes of each file have been reported already.
//!
//! The kernel tells of every use; a recording wants the first need of each byte. Bytes that were only mapped beside a
//! fault are kept apart: a later read or fault of them is news, because it is a need and not a guess.

use std::sync::Arc;

use soci_core::units::ByteRange;

use soci_core::coverage::Coverage;

/// What is known of one file.
#[derive(Debug)]
pub(super) struct Seen {
    /// Where it is in the image.
    pub(super) path: Arc<[u8]>,
    /// The generation of its inode, once an event has told it.
    generation: Option<u32>,
    needed: Coverage,
    /// Pages of faults: a large folio that comes for one of them is mapped as a whole.
    faulted: Coverage,
    /// Mapped before it was needed.
    mapped: Coverage,
    executed: bool,
    opened: bool,
}

impl Seen {
    pub(super) fn new(path: &[u8]) -> Self {
        let (needed, faulted, mapped) = Default::default();
        let (executed, opened, generation) = (false, false, None);
        Self { path: path.into(), generation, needed, faulted, mapped, executed, opened }
    }

    /// Is it the same file as ever, going by its inode's generation? One that was removed leaves its number to another.
    pub(super) fn is_same(&mut self, generation: u32) -> bool {
        *self.generation.get_or_insert(generation) == generation
    }

    /// Bytes that somebody asked for: the parts nobody has asked for before.
    pub(super) fn need(&mut self, range: ByteRange) -> Vec<ByteRange> {
        self.needed.add(range)
    }

    /// A page that somebody has touched, and that was not mapped.
    pub(super) fn fault(&mut self, range: ByteRange) -> Vec<ByteRange> {
        self.faulted.add(range);
        self.need(range)
    }

    /// A large folio has come: it is mapped as a whole when one of its pages is the one that was touched. `always`: also
    /// when that is not known.
    pub(super) fn folio(&mut self, range: ByteRange, always: bool) -> Vec<ByteRange> {
        let untouched = || self.faulted.missing(range).iter().map(ByteRange::len).sum::<u64>();
        if always || untouched() < range.len() { self.map(range) } else { Vec::new() }
    }

    /// Bytes that were mapped beside a fault: the parts that are new in every way.
    pub(super) fn map(&mut self, range: ByteRange) -> Vec<ByteRange> {
        let guesses = self.needed.missing(range);
        guesses.into_iter().flat_map(|guess| self.mapped.add(guess)).collect()
    }

    /// The file was executed: is that news? Its header has been read just before, or it was another file.
    pub(super) fn execute(&mut self) -> bool {
        self.needed.contains(0) && !std::mem::replace(&mut self.executed, true)
    }

    /// Is anything of it in the trace?
    pub(super) fn is_used(&self) -> bool {
        self.opened || self.needed.ranges().next().is_some() || self.mapped.ranges().next().is_some()
    }

    /// The file was opened: is that news?
    pub(super) fn open(&mut self) -> bool {
        !std::mem::replace(&mut self.opened, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_need_is_news_after_a_guess_and_not_the_other_way_round() {
        let mut seen = Seen::new(b"a");
        assert!(!seen.execute(), "nothing of it was read");
        assert_eq!(seen.map(ByteRange::new(0, 100)), [ByteRange::new(0, 100)]);
        assert_eq!(seen.need(ByteRange::new(50, 150)), [ByteRange::new(50, 150)]);
        assert_eq!(seen.map(ByteRange::new(0, 200)), [ByteRange::new(150, 200)]);
        assert!(seen.need(ByteRange::new(60, 70)).is_empty());
        seen.need(ByteRange::new(0, 1));
        assert!(seen.execute() && !seen.execute());
        assert!(seen.open() && !seen.open());
    }
    #[test]
    fn a_large_folio_is_mapped_with_the_page_that_it_came_for() {
        let (mut seen, folio) = (Seen::new(b"a"), ByteRange::new(0x4000, 0x8000));
        assert!(seen.folio(folio, false).is_empty(), "read ahead");
        assert_eq!(seen.fault(ByteRange::new(0x5000, 0x6000)), [ByteRange::new(0x5000, 0x6000)]);
        assert!(seen.folio(ByteRange::new(0x8000, 0xc000), false).is_empty(), "the next one");
        let beside = [ByteRange::new(0x4000, 0x5000), ByteRange::new(0x6000, 0x8000)];
        assert_eq!(seen.folio(folio, false), beside);
        assert_eq!(seen.folio(ByteRange::new(0x8000, 0xc000), true), [ByteRange::new(0x8000, 0xc000)]);
    }
    #[test]
    fn another_generation_is_another_file() {
        let mut seen = Seen::new(b"a");
        assert!(seen.is_same(7) && seen.is_same(7) && !seen.is_same(8) && seen.is_same(7));
    }
}
