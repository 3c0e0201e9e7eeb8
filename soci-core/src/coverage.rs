//! Sets of bytes of one file or stream.
//!
//! [`Coverage`] owns its ranges. Invariant: they are disjoint, do not touch, and none is empty.

use std::collections::BTreeMap;

use crate::units::ByteRange;

/// A set of bytes, as disjoint ranges that do not touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    ends: BTreeMap<u64, u64>,
}

impl Coverage {
    /// Adds a range; gives the parts of it that were not in the set.
    pub fn add(&mut self, range: ByteRange) -> Vec<ByteRange> {
        if range.is_empty() {
            return Vec::new();
        }
        let (mut start, mut end) = (range.start, range.end);
        let before = self.ends.range(..range.start).next_back().filter(|&(_, &end)| end >= range.start);
        let first = before.map_or(range.start, |(&start, _)| start);
        let touching: Vec<(u64, u64)> =
            self.ends.range(first..=range.end).map(|(&start, &end)| (start, end)).collect();
        let mut missing = Vec::new();
        let mut at = range.start;
        for (known_start, known_end) in touching {
            if known_start > at {
                missing.push(ByteRange::new(at, known_start.min(range.end)));
            }
            at = at.max(known_end);
            start = start.min(known_start);
            end = end.max(known_end);
            self.ends.remove(&known_start);
        }
        if at < range.end {
            missing.push(ByteRange::new(at, range.end));
        }
        self.ends.insert(start, end);
        missing
    }

    /// The parts of a range that are not in the set.
    pub fn missing(&self, range: ByteRange) -> Vec<ByteRange> {
        let mut missing = Vec::new();
        let before = self.ends.range(..=range.start).next_back().map_or(range.start, |(_, &end)| end);
        let mut at = range.start.max(before);
        for (&start, &end) in self.ends.range(range.start..range.end.max(range.start)) {
            if start > at {
                missing.push(ByteRange::new(at, start));
            }
            at = at.max(end);
        }
        if at < range.end {
            missing.push(ByteRange::new(at, range.end));
        }
        missing
    }

    /// Takes a range out.
    pub fn remove(&mut self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        let before = self.ends.range(..range.start).next_back().filter(|&(_, &end)| end > range.start);
        let first = before.map_or(range.start, |(&start, _)| start);
        let touched: Vec<(u64, u64)> =
            self.ends.range(first..range.end).map(|(&start, &end)| (start, end)).collect();
        for (start, end) in touched {
            self.ends.remove(&start);
            if start < range.start {
                self.ends.insert(start, range.start);
            }
            if end > range.end {
                self.ends.insert(range.end, end);
            }
        }
    }

    /// Whether every byte of `range` is in the set.
    pub fn covers(&self, range: ByteRange) -> bool {
        let last = self.ends.range(..=range.start).next_back();
        range.is_empty() || last.is_some_and(|(_, &end)| end >= range.end)
    }

    /// Number of ranges.
    pub fn parts(&self) -> usize {
        self.ends.len()
    }

    /// The ranges of the set, lowest first.
    pub fn ranges(&self) -> impl Iterator<Item = ByteRange> + '_ {
        self.ends.iter().map(|(&start, &end)| ByteRange::new(start, end))
    }

    /// The bytes that are in both sets.
    #[must_use]
    pub fn common(&self, other: &Self) -> Self {
        let mut ends = BTreeMap::new();
        let (mut ours, mut theirs) = (self.ranges().peekable(), other.ranges().peekable());
        while let (Some(one), Some(two)) = (ours.peek().copied(), theirs.peek().copied()) {
            let (start, end) = (one.start.max(two.start), one.end.min(two.end));
            if start < end {
                ends.insert(start, end);
            }
            if one.end <= two.end {
                ours.next()
            } else {
                theirs.next()
            };
        }
        Self { ends }
    }

    /// The bytes of this set that are not in the other.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let mut all = other.clone();
        let missing = self.ranges().flat_map(|range| all.add(range));
        Self { ends: missing.map(|range| (range.start, range.end)).collect() }
    }

    /// Is this byte in the set?
    pub fn contains(&self, at: u64) -> bool {
        self.ends.range(..=at).next_back().is_some_and(|(_, &end)| end > at)
    }

    /// Number of bytes in the set.
    pub fn len(&self) -> u64 {
        self.ends.iter().map(|(start, end)| end - start).sum()
    }

    /// True when no byte is in the set.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

impl FromIterator<ByteRange> for Coverage {
    fn from_iter<T: IntoIterator<Item = ByteRange>>(ranges: T) -> Self {
        let mut all = Self::default();
        for range in ranges {
            all.add(range);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn coverage_is_a_set_of_bytes(ranges in prop::collection::vec((0u64..64, 0u64..20), 0..30)) {
            let mut coverage = Coverage::default();
            let mut bitmap = [false; 96];
            for (start, len) in ranges {
                let before = coverage.missing(ByteRange::new(start, start + len));
                let missing = coverage.add(ByteRange::new(start, start + len));
                prop_assert_eq!(&before, &missing);
                let mut expected = Vec::new();
                for at in start..start + len {
                    if !std::mem::replace(&mut bitmap[at as usize], true) {
                        expected.push(at);
                    }
                }
                let got: Vec<u64> = missing.iter().flat_map(|range| range.start..range.end).collect();
                prop_assert_eq!(got, expected);
                prop_assert!(missing.windows(2).all(|pair| pair[0].end < pair[1].start));
                prop_assert!((0..96).all(|at| coverage.contains(at) == bitmap[at as usize]));
                prop_assert_eq!(coverage.len(), bitmap.iter().filter(|&&set| set).count() as u64);
            }
        }

        #[test]
        fn what_is_taken_out_is_out(
            changes in prop::collection::vec((0u64..64, 0u64..12, any::<bool>()), 0..24),
            start in 0u64..70,
            length in 0u64..12,
        ) {
            let (mut set, mut model) = (Coverage::default(), std::collections::BTreeSet::new());
            for (start, length, add) in changes {
                let range = ByteRange::new(start, start + length);
                if add {
                    set.add(range);
                    model.extend(start..start + length);
                } else {
                    set.remove(range);
                    model.retain(|byte| !(start..start + length).contains(byte));
                }
                let bytes: Vec<u64> = set.ranges().flat_map(|range| range.start..range.end).collect();
                prop_assert_eq!(&bytes, &model.iter().copied().collect::<Vec<_>>());
                let ranges: Vec<_> = set.ranges().collect();
                prop_assert!(ranges.is_sorted_by(|left, right| left.end < right.start), "{:?}", set);
                prop_assert_eq!(set.parts(), ranges.len());
            }
            prop_assert_eq!(
                set.covers(ByteRange::new(start, start + length)),
                (start..start + length).all(|byte| model.contains(&byte))
            );
        }

        #[test]
        fn common_bytes_are_those_of_both(
            one in prop::collection::vec((0u64..64, 0u64..20), 0..9),
            two in prop::collection::vec((0u64..64, 0u64..20), 0..9),
        ) {
            let build = |ranges: &[(u64, u64)]| {
                let mut coverage = Coverage::default();
                for &(start, len) in ranges {
                    coverage.add(ByteRange::new(start, start + len));
                }
                coverage
            };
            let (one, two) = (build(&one), build(&two));
            let common = one.common(&two);
            let has = |coverage: &Coverage, at: u64| coverage.ranges().any(|range| (range.start..range.end).contains(&at));
            for at in 0..96 {
                prop_assert_eq!(has(&common, at), has(&one, at) && has(&two, at));
            }
            prop_assert_eq!(common, two.common(&one));
            let rest = one.without(&two);
            for at in 0..96 {
                prop_assert_eq!(has(&rest, at), has(&one, at) && !has(&two, at));
            }
        }
    }
}
