//! Newtypes for numbers that could be swapped, and half-open byte ranges.
//!
//! Owns no state. Invariant: a [`ByteRange`] made by [`ByteRange::new`] has `start <= end`.

use std::fmt;

/// Number of a span within one layer, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpanId(pub u32);

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Position in the compressed layer blob, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CompressedOffset(pub u64);

/// Position in the layer's tar stream, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UncompressedOffset(pub u64);

/// Half-open range of bytes: `start` is in it, `end` is not.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ByteRange {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

impl ByteRange {
    /// `[start, end)`; an `end` before `start` gives the empty range at `start`.
    pub const fn new(start: u64, end: u64) -> Self {
        Self { start, end: if end < start { start } else { end } }
    }

    /// Number of bytes.
    pub const fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// True when no byte is in the range.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes in both ranges, or `None` when there are none.
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        let (start, end) = (self.start.max(other.start), self.end.min(other.end));
        (start < end).then_some(Self { start, end })
    }

    /// True when every byte of `other` is in `self`.
    pub const fn contains_range(&self, other: &Self) -> bool {
        other.is_empty() || self.start <= other.start && other.end <= self.end
    }
}

impl fmt::Debug for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl From<ByteRange> for std::ops::Range<u64> {
    fn from(range: ByteRange) -> Self {
        range.start..range.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let range = ByteRange::new(10, 20);
        assert_eq!(range.len(), 10);
        assert_eq!(range.intersect(&ByteRange::new(15, 30)), Some(ByteRange::new(15, 20)));
        assert_eq!(range.intersect(&ByteRange::new(20, 30)), None);
        assert!(range.contains_range(&ByteRange::new(10, 20)));
        assert!(!range.contains_range(&ByteRange::new(10, 21)));
        assert!(range.contains_range(&ByteRange::new(50, 50)));
        assert!(ByteRange::new(5, 3).is_empty());
    }
}
