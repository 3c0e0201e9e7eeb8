//! What to fetch ahead, and in which order: a trace turned into needed file ranges by the time of their first need.
//!
//! Accesses are whole pages, one after the other; a plan holds longer ranges. Two accesses become one range when the
//! second starts where the first ended and comes at most [`SAME_NEED_NS`] later, so that a file that is read slowly
//! stays in as many pieces as it has deadlines. Every byte is in one range only: that of its first need.
//!
//! What the kernel only mapped beside a fault may never be touched: within the start, and again within the tail after
//! readiness, it comes behind everything that was asked for, so that a guess never delays a need.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use soci_core::prefetch::{Plan, PlanItem};
use soci_core::trace::{Access, AccessKind, Phase, Tail};
use soci_core::units::ByteRange;

use crate::escape::{escape, unescape};

mod merge;

pub use merge::{merge, merge_ends};

/// Accesses that follow each other within this time are one need.
pub const SAME_NEED_NS: u64 = 10_000_000;

/// The needed ranges of a recording's accesses, first need first. Accesses may come in any order.
pub fn plan<'a>(accesses: impl IntoIterator<Item = &'a Access>) -> Plan {
    let mut accesses: Vec<&Access> = accesses.into_iter().collect();
    accesses.sort_by_key(|access| (access.phase == Phase::Tail, access.kind == AccessKind::Map, access.t_ns));
    let mut items: Vec<PlanItem> = Vec::new();
    let mut files: HashMap<Arc<[u8]>, Planned> = HashMap::new();
    for access in accesses {
        let file = files.entry(Arc::clone(&access.path)).or_default();
        for range in file.covered.add(ByteRange::new(access.offset, access.offset.saturating_add(access.len)))
        {
            let open = file.open.filter(|open| {
                // Behind the needs time begins anew with the guesses: those open no range of a need.
                let later = access.t_ns.checked_sub(open.last_ns);
                items[open.item].range.end == range.start && later.is_some_and(|later| later <= SAME_NEED_NS)
            });
            let item = if let Some(open) = open {
                items[open.item].range.end = range.end;
                open.item
            } else {
                items.push(PlanItem { path: Arc::clone(&access.path), range, first_need_ns: access.t_ns });
                items.len() - 1
            };
            file.open = Some(Open { item, last_ns: access.t_ns });
        }
    }
    Plan { items }
}

/// Paths in the order of the first need of any byte, each once, without leading slashes.
pub fn first_use(accesses: impl IntoIterator<Item = impl Borrow<Access>>) -> Vec<Arc<[u8]>> {
    let mut first: HashMap<Arc<[u8]>, (u64, usize)> = HashMap::new();
    for (place, access) in accesses.into_iter().enumerate() {
        let access: &Access = access.borrow();
        if access.len > 0 {
            let moment = (access.t_ns, place);
            let known = first.entry(Arc::clone(&access.path)).or_insert(moment);
            *known = moment.min(*known);
        }
    }
    let mut paths: Vec<_> = first.into_iter().collect();
    paths.sort_unstable_by_key(|(_, moment)| *moment);
    paths.into_iter().map(|(path, _)| path).collect()
}

/// Paths with, behind each, its other names (hard links): a tool that takes names from a tar finds the content under only
/// one of them.
pub fn all_names(paths: &[Arc<[u8]>], tail: Option<&Tail>) -> Vec<Arc<[u8]>> {
    let links = match tail {
        Some(Tail::Sealed(end)) => Some(&end.links),
        _ => None,
    };
    let mut names = Vec::new();
    for path in paths {
        names.push(Arc::clone(path));
        let others = links.and_then(|links| links.get(&*escape(path))).into_iter().flatten();
        names.extend(others.filter_map(|name| unescape(name)).map(Arc::from));
    }
    names
}

#[derive(Debug, Default)]
struct Planned {
    covered: Coverage,
    open: Option<Open>,
}

/// The range of a file that the next access may still extend.
#[derive(Debug, Clone, Copy)]
struct Open {
    item: usize,
    last_ns: u64,
}

/// A set of bytes of one file, as disjoint ranges that do not touch.
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

#[cfg(test)]
mod tests;
