//! What to fetch ahead, and in which order: a trace turned into needed file ranges by the time of their first need.
//!
//! Accesses come one after the other; a plan holds longer ranges. Two accesses become one range when the
//! second starts where the first ended and comes at most [`SAME_NEED_NS`] later, so that a file that is read slowly
//! stays in as many pieces as it has deadlines. Every page is in one range only: that of its first need.
//!
//! What the kernel only mapped beside a fault may never be touched: within the start, and again within the tail after
//! readiness, it comes behind everything that was asked for, so that a guess never delays a need.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::sync::Arc;

use soci_core::prefetch::{Plan, PlanItem};
use soci_core::trace::{Access, AccessKind, Phase, Tail};
use soci_core::units::ByteRange;

use crate::escape::{escape, unescape};

mod merge;

pub use merge::{merge, merge_ends};
pub use soci_core::coverage::Coverage;

/// Accesses that follow each other within this time are one need.
pub const SAME_NEED_NS: u64 = 10_000_000;

/// Bytes of a page of the page cache.
const PAGE: u64 = 4096;

/// The needed ranges of a recording's accesses in whole pages, first need first. Accesses may come in any order.
pub fn plan<'a>(accesses: impl IntoIterator<Item = &'a Access>) -> Plan {
    let mut accesses: Vec<&Access> = accesses.into_iter().collect();
    accesses.sort_by_key(|access| (access.phase == Phase::Tail, access.kind == AccessKind::Map, access.t_ns));
    let mut items: Vec<PlanItem> = Vec::new();
    let mut must_have = 0;
    let mut files: HashMap<Arc<[u8]>, Planned> = HashMap::new();
    for access in accesses {
        let asked_for = access.phase != Phase::Tail && access.kind != AccessKind::Map;
        let file = files.entry(Arc::clone(&access.path)).or_default();
        for range in file.covered.add(pages(access)) {
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
        if asked_for {
            must_have = items.len();
        }
    }
    Plan { items, must_have }
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
    open: Option<Open>,
}

/// The range of a file that the next access may still extend.
#[derive(Debug, Clone, Copy)]
struct Open {
    item: usize,
    last_ns: u64,
}

#[cfg(test)]
mod tests;
