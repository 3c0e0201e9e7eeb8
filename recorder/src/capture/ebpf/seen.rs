//! Which bytes of each file have been reported already.
//!
//! The kernel tells of every use; a recording wants the first need of each byte. Bytes that were only mapped beside a
//! fault are kept apart: a later read or fault of them is news, because it is a need and not a guess.

use std::collections::BTreeMap;

/// Disjoint, non-adjacent byte ranges: start to end.
#[derive(Debug, Default)]
pub(super) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// Adds a range and gives the parts of it that are new, in order.
    pub(super) fn add(&mut self, start: u64, end: u64) -> Vec<(u64, u64)> {
        let (mut new, mut at) = (Vec::new(), start);
        let (mut joined_start, mut joined_end) = (start, end);
        let before = self.0.range(..start).next_back().filter(|(_, to)| **to >= start).map(|(from, _)| *from);
        let touching: Vec<(u64, u64)> =
            self.0.range(before.unwrap_or(start)..=end).map(|(from, to)| (*from, *to)).collect();
        for (from, to) in touching {
            if from > at {
                new.push((at, from.min(end)));
            }
            at = at.max(to);
            joined_start = joined_start.min(from);
            joined_end = joined_end.max(to);
            self.0.remove(&from);
        }
        if at < end {
            new.push((at, end));
        }
        if joined_start < joined_end {
            self.0.insert(joined_start, joined_end);
        }
        new
    }

    /// Is this byte in one of them?
    pub(super) fn contains(&self, at: u64) -> bool {
        self.0.range(..=at).next_back().is_some_and(|(_, end)| *end > at)
    }
}

/// What is known of one file.
#[derive(Debug, Default)]
pub(super) struct Seen {
    needed: Ranges,
    mapped: Ranges,
    executed: bool,
}

impl Seen {
    /// Bytes that somebody asked for: the parts nobody has asked for before.
    pub(super) fn need(&mut self, start: u64, end: u64) -> Vec<(u64, u64)> {
        self.mapped.add(start, end);
        self.needed.add(start, end)
    }

    /// Bytes that were mapped beside a fault: the parts that are new in every way.
    pub(super) fn map(&mut self, start: u64, end: u64) -> Vec<(u64, u64)> {
        self.mapped.add(start, end)
    }

    /// The file was executed: is that news? Its header has been read just before, or it was another file.
    pub(super) fn execute(&mut self) -> bool {
        self.needed.contains(0) && !std::mem::replace(&mut self.executed, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_byte_is_new_once(ranges in proptest::collection::vec((0u64..200, 1u64..50), 0..40)) {
            let (mut set, mut model) = (Ranges::default(), std::collections::BTreeSet::new());
            for (start, length) in ranges {
                let new: Vec<u64> = set.add(start, start + length).into_iter().flat_map(|(a, b)| a..b).collect();
                let expected: Vec<u64> = (start..start + length).filter(|at| model.insert(*at)).collect();
                prop_assert_eq!(new, expected);
                prop_assert!((0..260).all(|at| set.contains(at) == model.contains(&at)));
            }
        }
    }

    #[test]
    fn a_need_is_news_after_a_guess_and_not_the_other_way_round() {
        let mut seen = Seen::default();
        assert!(!seen.execute(), "nothing of it was read");
        assert_eq!(seen.map(0, 100), [(0, 100)]);
        assert_eq!(seen.need(50, 150), [(50, 150)]);
        assert_eq!(seen.map(0, 200), [(150, 200)]);
        assert!(seen.need(60, 70).is_empty());
        seen.need(0, 1);
        assert!(seen.execute() && !seen.execute());
    }
}
