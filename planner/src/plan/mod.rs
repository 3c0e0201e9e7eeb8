//! What to fetch ahead, and in which order: a trace turned into needed file ranges by the time of their first need.
//!
//! Accesses come one after the other; a plan holds longer ranges. An access continues a range when it starts where the range ends
//! and comes at most [`SAME_NEED_NS`] after the range's *first* need, so that a file that is read slowly stays in as many pieces
//! as it has deadlines, and no need waits for more than that time of another file's later needs. Every page is in one range only:
//! that of its first need.
//!
//! What the kernel only mapped beside a fault may never be touched: within the start, and again within the tail after
//! readiness, it comes behind everything that was asked for, so that a guess never delays a need. But about half of it is touched, which
//! leaves no trace (docs/recording.md): so it comes before the tail, and counts as needed for readiness.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::sync::Arc;

use soci_core::escape::{escape, unescape};
use soci_core::prefetch::{Plan, PlanItem};
use soci_core::trace::{Access, AccessKind, Phase, Tail};
use soci_core::units::ByteRange;

mod merge;
mod paths;

pub use merge::{merge, merge_ends};
pub use paths::{GlobError, LeftOut, Paths};
pub use soci_core::coverage::Coverage;

/// Accesses to a range that come within this time of its first one are one need.
pub const SAME_NEED_NS: u64 = 10_000_000;

/// Bytes of a page of the page cache.
const PAGE: u64 = 4096;

/// How sure a need is, and how soon it comes: the order in which needs are fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Asked for before the workload was ready.
    Start,
    /// Mapped before the workload was ready, perhaps never touched.
    StartGuess,
    /// Asked for after the workload was ready.
    Tail,
    /// Mapped after the workload was ready.
    TailGuess,
}

impl Class {
    /// Read, faulted in, executed or mapped before the workload was ready.
    pub fn is_before_ready(self) -> bool {
        self <= Self::StartGuess
    }

    fn of(access: &Access) -> Self {
        match (access.phase == Phase::Tail, access.kind == AccessKind::Map) {
            (false, false) => Self::Start,
            (false, true) => Self::StartGuess,
            (true, false) => Self::Tail,
            (true, true) => Self::TailGuess,
        }
    }
}

/// A range of a file that was needed in one run, at the moment of its first need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstNeed {
    /// Path in the image, without a leading slash.
    pub path: Arc<[u8]>,
    /// Whole pages; the last one may reach over the file's end.
    pub range: ByteRange,
    /// Nanoseconds since the start of the workload.
    pub t_ns: u64,
    /// How it was needed.
    pub class: Class,
}

/// The needed ranges of a recording's accesses in whole pages, first need first. Accesses may come in any order.
pub fn plan<'a>(accesses: impl IntoIterator<Item = &'a Access>) -> Plan {
    let needs = first_needs(accesses);
    let asked = needs.iter().take_while(|need| need.class == Class::Start).count();
    let must_have = needs.iter().take_while(|need| need.class.is_before_ready()).count();
    let item = |need: FirstNeed| PlanItem { path: need.path, range: need.range, first_need_ns: need.t_ns };
    Plan { items: needs.into_iter().map(item).collect(), asked, must_have }
}

/// The same, with how each range was needed: by class, and within it by time.
pub fn first_needs<'a>(accesses: impl IntoIterator<Item = &'a Access>) -> Vec<FirstNeed> {
    let mut accesses: Vec<&Access> = accesses.into_iter().collect();
    accesses.sort_by_key(|access| (Class::of(access), access.t_ns));
    let mut needs: Vec<FirstNeed> = Vec::new();
    let mut files: HashMap<Arc<[u8]>, Planned> = HashMap::new();
    for access in accesses {
        let class = Class::of(access);
        let file = files.entry(Arc::clone(&access.path)).or_default();
        for range in file.covered.add(pages(access)) {
            let open = file.open.filter(|&open| {
                let need = &needs[open];
                need.range.end == range.start
                    && need.class == class
                    && access.t_ns - need.t_ns <= SAME_NEED_NS
            });
            if let Some(open) = open {
                needs[open].range.end = range.end;
            } else {
                file.open = Some(needs.len());
                needs.push(FirstNeed { path: Arc::clone(&access.path), range, t_ns: access.t_ns, class });
            }
        }
    }
    needs
}

/// The pages that an access needs: the page cache asks a file system for whole pages, whatever was read of them. The last
/// one may reach over the file's end.
fn pages(access: &Access) -> ByteRange {
    if access.len == 0 {
        return ByteRange::new(access.offset, access.offset);
    }
    let end = access.offset.saturating_add(access.len);
    ByteRange::new(access.offset / PAGE * PAGE, end.checked_next_multiple_of(PAGE).unwrap_or(end))
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
    /// The need that the next access may still extend.
    open: Option<usize>,
}

#[cfg(test)]
mod tests;
