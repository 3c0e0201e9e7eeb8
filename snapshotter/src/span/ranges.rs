//! A set of bytes, as sorted ranges that do not touch.
//!
//! Owns nothing but its ranges. What must always hold: they are sorted, none is empty, and between two there is a gap.

use soci_core::units::ByteRange;

/// A set of byte offsets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RangeSet(Vec<ByteRange>);

impl RangeSet {
    /// The bytes of all `ranges`, in whatever order they are and whether or not they overlap.
    pub(super) fn of(mut ranges: Vec<ByteRange>) -> Self {
        ranges.retain(|range| !range.is_empty());
        ranges.sort_unstable();
        ranges.dedup_by(|next, kept| {
            let touches = next.start <= kept.end;
            if touches {
                kept.end = kept.end.max(next.end);
            }
            touches
        });
        Self(ranges)
    }

    /// Adds a range.
    pub(super) fn insert(&mut self, mut range: ByteRange) {
        if range.is_empty() {
            return;
        }
        let first = self.0.partition_point(|known| known.end < range.start);
        let last = self.0.partition_point(|known| known.start <= range.end);
        for known in &self.0[first..last] {
            range = ByteRange::new(range.start.min(known.start), range.end.max(known.end));
        }
        self.0.splice(first..last, [range]);
    }

    /// Takes a range out.
    pub(super) fn remove(&mut self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        let first = self.0.partition_point(|known| known.end <= range.start);
        let last = self.0.partition_point(|known| known.start < range.end);
        let (Some(left), Some(right)) = (self.0[first..last].first(), self.0[first..last].last()) else {
            return;
        };
        let rest = [ByteRange::new(left.start, range.start), ByteRange::new(range.end, right.end)];
        self.0.splice(first..last, rest.into_iter().filter(|rest| !rest.is_empty()));
    }

    /// Whether every byte of `range` is in the set.
    pub(super) fn covers(&self, range: ByteRange) -> bool {
        let at = self.0.partition_point(|known| known.end <= range.start);
        range.is_empty() || self.0.get(at).is_some_and(|known| known.contains_range(&range))
    }

    /// The ranges, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = ByteRange> + '_ {
        self.0.iter().copied()
    }

    /// Number of ranges.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no byte is in the set.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn is_a_set_of_bytes(
            changes in prop::collection::vec((0u64..64, 0u64..12, any::<bool>()), 0..24),
            start in 0u64..70,
            length in 0u64..12,
        ) {
            let (mut set, mut model) = (RangeSet::default(), BTreeSet::new());
            for (start, length, add) in changes {
                let range = ByteRange::new(start, start + length);
                if add {
                    set.insert(range);
                    model.extend(start..start + length);
                } else {
                    set.remove(range);
                    model.retain(|byte| !(start..start + length).contains(byte));
                }
                let bytes: Vec<u64> = set.iter().flat_map(|range| range.start..range.end).collect();
                prop_assert_eq!(&bytes, &model.iter().copied().collect::<Vec<_>>());
                prop_assert!(set.0.is_sorted_by(|left, right| left.end < right.start), "{:?}", set);
            }
            prop_assert_eq!(
                set.covers(ByteRange::new(start, start + length)),
                (start..start + length).all(|byte| model.contains(&byte))
            );
        }

        #[test]
        fn is_made_of_any_ranges(ranges in prop::collection::vec((0u64..64, 0u64..12), 0..24)) {
            let ranges: Vec<_> = ranges.iter().map(|(at, long)| ByteRange::new(*at, at + long)).collect();
            let mut one_by_one = RangeSet::default();
            for range in &ranges {
                one_by_one.insert(*range);
            }
            prop_assert_eq!(RangeSet::of(ranges), one_by_one);
        }
    }
}
