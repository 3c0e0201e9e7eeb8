//! What two profiles differ in: files and bytes that one alone needs, and needs that come at another time. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{File, Profile};
use crate::plan::Coverage;

/// What became of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its path.
    pub path: Arc<[u8]>,
    /// Bytes that only the first profile needs.
    pub lost: u64,
    /// Bytes that only the second profile needs.
    pub gained: u64,
    /// Microseconds by which its first need comes later in the second profile.
    pub later_us: Option<i64>,
}

/// What two profiles differ in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// The files that differ in bytes, those with the most such bytes first.
    pub changes: Vec<Change>,
    /// Bytes that both need.
    pub common: u64,
}

impl Difference {
    /// Compares what any run of the one needs with what any run of the other needs.
    pub fn between(one: &Profile, other: &Profile) -> Self {
        let paths: BTreeSet<&Arc<[u8]>> = one.files.keys().chain(other.files.keys()).collect();
        let mut difference = Self::default();
        for path in paths {
            let (a, b) = (one.files.get(path), other.files.get(path));
            let (first, second) = (needed(a), needed(b));
            let common = first.common(&second).len();
            difference.common += common;
            let moment = |file: Option<&File>| file?.needs.iter().map(|need| need.t_us).min();
            let later_us = moment(a).zip(moment(b)).map(|(a, b)| b as i64 - a as i64);
            let (lost, gained) = (first.len() - common, second.len() - common);
            if lost + gained > 0 {
                difference.changes.push(Change { path: Arc::clone(path), lost, gained, later_us });
            }
        }
        let order =
            |change: &Change| (std::cmp::Reverse(change.lost + change.gained), Arc::clone(&change.path));
        difference.changes.sort_by_key(order);
        difference
    }

    /// Bytes that only the first profile needs.
    pub fn lost(&self) -> u64 {
        self.changes.iter().map(|change| change.lost).sum()
    }

    /// Bytes that only the second profile needs.
    pub fn gained(&self) -> u64 {
        self.changes.iter().map(|change| change.gained).sum()
    }
}

fn needed(file: Option<&File>) -> Coverage {
    let mut all = Coverage::default();
    for need in file.iter().flat_map(|file| &file.needs) {
        all.add(need.range());
    }
    all
}
