//! Several recordings of the same workload as one: what most of them need, at the median of the moments. Pure.
//!
//! Only first needs count, and first openings. A byte is in the result when more than half of the runs need it; its access (moment, kind,
//! process, wait) is the one in the middle of those of the runs that need it, the earlier one of two. Runs have no
//! numbers here: their order cannot matter.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use soci_core::trace::{Access, AccessKind, End, Outcome, Phase};
use soci_core::units::ByteRange;

use super::Coverage;

/// The first needs of most runs, in order of time. With `ready_ns` (of [`merge_ends`]) the phases are those of the
/// result.
pub fn merge(runs: &[Vec<Access>], ready_ns: Option<u64>) -> Vec<Access> {
    let mut files: HashMap<&[u8], Vec<Need>> = HashMap::new();
    let mut openings: HashMap<&[u8], Vec<Need>> = HashMap::new();
    for run in runs {
        let mut known: HashMap<&[u8], Coverage> = HashMap::new();
        let mut opened: HashSet<&[u8]> = HashSet::new();
        for (place, access) in in_order(run).into_iter().enumerate() {
            if access.kind == AccessKind::Open {
                if opened.insert(&access.path) {
                    let range = ByteRange::new(0, 0);
                    openings.entry(&access.path).or_default().push(Need { range, access, place });
                }
                continue;
            }
            let range = ByteRange::new(access.offset, access.offset.saturating_add(access.len));
            for range in known.entry(&access.path).or_default().add(range) {
                files.entry(&access.path).or_default().push(Need { range, access, place });
            }
        }
    }
    let mut merged: Vec<Need> = files.values().flat_map(|needs| supported(needs, runs.len())).collect();
    for mut needs in openings.into_values().filter(|needs| needs.len() * 2 > runs.len()) {
        needs.sort_by(Need::order);
        merged.push(needs[(needs.len() - 1) / 2]);
    }
    merged.sort_by(|a, b| a.order(b).then(a.range.start.cmp(&b.range.start)));
    merged.into_iter().map(|need| need.to_access(ready_ns)).collect()
}

/// A run's accesses in order of time; those of one moment stay as they were written.
fn in_order(run: &[Access]) -> Vec<&Access> {
    let mut accesses: Vec<&Access> = run.iter().collect();
    accesses.sort_by_key(|access| access.t_ns);
    accesses
}

/// Bytes that one run needs for the first time.
#[derive(Debug, Clone, Copy)]
struct Need<'a> {
    range: ByteRange,
    access: &'a Access,
    /// How many accesses of its run came before.
    place: usize,
}

impl Need<'_> {
    /// By time; needs that this calls equal are the same but for their ranges.
    fn order(&self, other: &Self) -> Ordering {
        let key = |need: &Self| {
            let Access { t_ns, phase, kind, layer, offset, len, wait_ns, .. } = *need.access;
            (t_ns, need.place, phase, kind, layer, offset, len, wait_ns)
        };
        let rest = |need: &Self| {
            let process = &need.access.process;
            (Arc::clone(&need.access.path), process.pid, Arc::clone(&process.comm))
        };
        key(self).cmp(&key(other)).then_with(|| rest(self).cmp(&rest(other)))
    }

    fn to_access(self, ready_ns: Option<u64>) -> Access {
        let mut access = self.access.clone();
        (access.offset, access.len) = (self.range.start, self.range.len());
        access.phase = match (access.phase, ready_ns) {
            (Phase::Setup, _) => Phase::Setup,
            (_, Some(ready)) if access.t_ns > ready => Phase::Tail,
            _ => Phase::Start,
        };
        access
    }
}

/// The bytes of one file that more than half of the runs need, each with the need in the middle.
fn supported<'a>(needs: &[Need<'a>], runs: usize) -> Vec<Need<'a>> {
    let mut edges: Vec<u64> = needs.iter().flat_map(|need| [need.range.start, need.range.end]).collect();
    edges.sort_unstable();
    edges.dedup();
    let mut by_start: Vec<&Need> = needs.iter().collect();
    by_start.sort_by_key(|need| need.range.start);
    let mut waiting = by_start.into_iter().peekable();
    let mut here: Vec<&Need> = Vec::new(); // those that cover the piece looked at; at most one of each run
    let mut result: Vec<Need> = Vec::new();
    for piece in edges.windows(2) {
        let (start, end) = (piece[0], piece[1]);
        here.retain(|need| need.range.end > start);
        while let Some(need) = waiting.next_if(|need| need.range.start <= start) {
            here.push(need);
        }
        if here.len() * 2 <= runs {
            continue;
        }
        here.sort_by(|a, b| a.order(b));
        let middle = here[(here.len() - 1) / 2];
        match result.last_mut() {
            // Pieces of one access that only another run has parted.
            Some(last) if last.range.end == start && last.order(middle).is_eq() => last.range.end = end,
            _ => result.push(Need { range: ByteRange::new(start, end), ..*middle }),
        }
    }
    result
}

/// The end of a merged recording: losses added, times in the middle, the worst outcome; `None` without runs.
///
/// It is ready when most runs were.
pub fn merge_ends(ends: &[End]) -> Option<End> {
    let badness = |outcome: Outcome| match outcome {
        Outcome::Ready => 0,
        Outcome::Exited => 1,
        Outcome::TimedOut => 2,
        Outcome::Interrupted => 3,
    };
    let outcome = ends.iter().map(|end| end.outcome).max_by_key(|outcome| badness(*outcome))?;
    let ready: Vec<u64> = ends.iter().filter_map(|end| end.ready_ns).collect();
    Some(End {
        dropped: ends.iter().fold(0, |sum, end| sum.saturating_add(end.dropped)),
        outcome,
        ready_ns: if ready.len() * 2 > ends.len() { median(ready) } else { None },
        ended_ns: median(ends.iter().map(|end| end.ended_ns).collect())?,
        exit_code: ends.iter().filter_map(|end| end.exit_code).max(),
        links: ends.iter().flat_map(|end| end.links.clone()).collect(),
        outside: ends.iter().filter_map(|end| end.outside).reduce(|sum, more| sum.plus(&more)),
    })
}

/// The value in the middle, the smaller one of two.
fn median(mut values: Vec<u64>) -> Option<u64> {
    values.sort_unstable();
    values.get(values.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests;
