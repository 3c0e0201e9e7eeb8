//! Which bytes of each file have been reported already.
//!
//! The kernel tells of every use; a recording wants the first need of each byte. Bytes that were only mapped beside a
//! fault are kept apart: a later read or fault of them is news, because it is a need and not a guess.

use std::sync::Arc;

use soci_core::units::ByteRange;

use crate::plan::Coverage;

/// What is known of one file.
#[derive(Debug)]
pub(super) struct Seen {
    /// Where it is in the image.
    pub(super) path: Arc<[u8]>,
    needed: Coverage,
    /// Mapped before it was needed.
    mapped: Coverage,
    executed: bool,
    opened: bool,
}

impl Seen {
    pub(super) fn new(path: &[u8]) -> Self {
        let (needed, mapped) = (Coverage::default(), Coverage::default());
        Self { path: path.into(), needed, mapped, executed: false, opened: false }
    }

    /// Bytes that somebody asked for: the parts nobody has asked for before.
    pub(super) fn need(&mut self, range: ByteRange) -> Vec<ByteRange> {
        self.needed.add(range)
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
}
