//! A layer cut into spans, as the index builder cuts it. Pure.

use std::ops::Range;

use soci_core::index::Mark;
use soci_core::units::ByteRange;

/// Bytes of the window that a zTOC has for each span of a gzip layer.
const WINDOW: u64 = 32 << 10;
/// Bytes of a zTOC for each entry of the tar, about.
const ZTOC_ENTRY: u64 = 150;
/// Bytes of a fine table for each span and for each entry, compressed, about.
const FINE_SPAN: u64 = 75;
const FINE_ENTRY: u64 = 22;

/// The spans of one layer.
#[derive(Debug, Clone, Default)]
pub(super) struct Spans {
    /// Where each begins, and at last where the layer ends.
    edges: Vec<Mark>,
}

impl Spans {
    /// At each mark that lies more than `size` behind the last edge, and at the first mark at or behind each of `wanted`.
    pub(super) fn cut(marks: &[Mark], size: u64, wanted: &[u64]) -> Self {
        let Some((&end, marks)) = marks.split_last() else { return Self::default() };
        let mut edges: Vec<Mark> = Vec::new();
        let mut next = 0;
        for &mark in marks {
            let passed = wanted[next..].partition_point(|&at| at <= mark.plain);
            next += passed;
            let far = edges.last().is_none_or(|last| mark.plain - last.plain > size);
            if far || passed > 0 {
                edges.push(mark);
            }
        }
        edges.push(end);
        Self { edges }
    }

    /// Edges at which spans would hug these ranges, which are ascending and disjoint, for [`Self::cut`].
    pub(super) fn hugging(marks: &[Mark], needed: &[ByteRange]) -> Vec<u64> {
        let before = |at: u64| {
            let behind = marks.partition_point(|mark| mark.plain <= at);
            behind.checked_sub(1).map_or(0, |at| marks[at].plain)
        };
        let mut wanted: Vec<u64> = needed.iter().flat_map(|range| [before(range.start), range.end]).collect();
        wanted.sort_unstable();
        wanted
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.edges.len().saturating_sub(1)
    }

    /// Numbers of the spans that hold bytes of `range`.
    pub(super) fn covering(&self, range: ByteRange) -> Range<usize> {
        if range.is_empty() || self.len() == 0 {
            return 0..0;
        }
        let of = |at: u64| {
            self.edges.partition_point(|edge| edge.plain <= at).saturating_sub(1).min(self.len() - 1)
        };
        of(range.start)..of(range.end - 1) + 1
    }

    /// Compressed and plain bytes of a span.
    pub(super) fn bytes(&self, span: usize) -> (u64, u64) {
        match (self.edges.get(span), self.edges.get(span + 1)) {
            (Some(from), Some(to)) => (to.compressed - from.compressed, to.plain - from.plain),
            _ => (0, 0),
        }
    }

    /// Bytes of the layer's zTOC, about.
    pub(super) fn ztoc(&self, entries: usize) -> u64 {
        (self.len() as u64).saturating_sub(1) * WINDOW + entries as u64 * ZTOC_ENTRY
    }

    /// Bytes of the layer's fine table, about.
    pub(super) fn fine_table(&self, entries: usize) -> u64 {
        self.len() as u64 * FINE_SPAN + entries as u64 * FINE_ENTRY
    }
}

/// How many compressed bytes stand for a plain range, about: the share of those between the marks around it.
pub(super) fn compressed(marks: &[Mark], range: ByteRange) -> f64 {
    let Some(last) = marks.len().checked_sub(2) else { return 0.0 };
    let of = |at: u64| marks.partition_point(|mark| mark.plain <= at).saturating_sub(1).min(last);
    if range.is_empty() {
        return 0.0;
    }
    let (from, to) = (of(range.start), of(range.end - 1));
    (from..=to)
        .filter_map(|at| {
            let (start, end) = (marks[at], marks[at + 1]);
            let part = ByteRange::new(start.plain, end.plain).intersect(&range)?;
            let (plain, stored) = (end.plain - start.plain, end.compressed - start.compressed);
            Some(part.len() as f64 / plain.max(1) as f64 * stored as f64)
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks() -> Vec<Mark> {
        (0..=10).map(|at| Mark { plain: at * 100, compressed: at * 40 }).collect()
    }

    #[test]
    fn spans_are_cut_by_size_and_where_they_are_wanted() {
        let even = Spans::cut(&marks(), 250, &[]);
        assert_eq!((even.len(), even.bytes(0), even.bytes(3)), (4, (120, 300), (40, 100)));
        assert_eq!(
            (even.covering(ByteRange::new(299, 301)), even.covering(ByteRange::new(5, 5))),
            (0..2, 0..0)
        );
        let needed = [ByteRange::new(450, 520)];
        let wanted = Spans::hugging(&marks(), &needed);
        assert_eq!(wanted, [400, 520]);
        let hugging = Spans::cut(&marks(), 10_000, &wanted);
        assert_eq!(hugging.covering(needed[0]), 1..2);
        assert_eq!(hugging.bytes(1), (80, 200));
        assert_eq!(Spans::cut(&[], 1, &[]).covering(ByteRange::new(0, 1)), 0..0);
    }

    #[test]
    fn a_range_costs_its_share() {
        assert!((compressed(&marks(), ByteRange::new(50, 250)) - 80.0).abs() < 1e-9);
        assert!((compressed(&marks(), ByteRange::new(900, 5000)) - 40.0).abs() < 1e-9);
        assert!(compressed(&[], ByteRange::new(0, 1)).abs() < 1e-9);
    }
}
