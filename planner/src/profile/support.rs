//! How many runs need a byte, and which bytes are worth to be fetched ahead. Pure.
//!
//! A byte that k of n runs have needed is needed by the next one with a probability that is at least the lower bound of Wilson's
//! interval, at 95 %. With few runs that bound says little: then every byte counts that any run has needed.

use std::sync::Arc;

use soci_core::prefetch::{Plan, PlanItem};
use soci_core::units::ByteRange;

use super::{File, Need, Profile};
use crate::plan::{Class, LeftOut, SAME_NEED_NS};

/// From so many runs on the default threshold is a bound and not the union.
const RUNS_FOR_A_BOUND: usize = 5;

/// The default bound: of 5 runs it leaves out what one has needed, of 20 what up to 4 have.
const DEFAULT_BOUND: f64 = 0.1;

/// Of a normal distribution, for 95 %.
const Z: f64 = 1.959_964;

/// What is worth to be fetched ahead.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Threshold {
    /// The union of fewer than 5 runs; from 5 on, a bound of 0.1.
    #[default]
    Evidence,
    /// Whatever any run has needed.
    Any,
    /// What the next run needs with at least this probability, 0 to 1.
    Bound(f64),
}

impl Threshold {
    /// Is it reached by `needed` of `runs`?
    fn takes(self, needed: usize, runs: usize, trust: f64) -> bool {
        match self {
            Self::Any => true,
            Self::Evidence if runs < RUNS_FOR_A_BOUND => true,
            Self::Evidence => wilson(needed, runs) * trust >= DEFAULT_BOUND,
            Self::Bound(bound) => wilson(needed, runs) * trust >= bound,
        }
    }
}

/// The least share that `needed` of `runs` speaks for.
fn wilson(needed: usize, runs: usize) -> f64 {
    if runs == 0 {
        return 0.0;
    }
    let (k, n) = (needed as f64, runs as f64);
    let (share, square) = (k / n, Z * Z);
    let middle = share + square / (2.0 * n);
    let spread = Z * (share * (1.0 - share) / n + square / (4.0 * n * n)).sqrt();
    (middle - spread) / (1.0 + square / n)
}

/// A range of a file that the same runs need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Support {
    /// The bytes.
    pub range: ByteRange,
    /// How many runs need them.
    pub runs: usize,
    /// The most certain way in which at least half of those need them.
    pub class: Class,
    /// First, middle and ninth-tenth moment of the first needs, in microseconds.
    pub t_us: [u64; 3],
}

/// A plan made of a profile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Supported {
    /// What to fetch ahead.
    pub plan: Plan,
    /// What is not in it, because too few runs have needed it.
    pub left_out: LeftOut,
}

impl File {
    /// The parts of the file, lowest first.
    pub fn support(&self) -> Vec<Support> {
        let mut edges: Vec<u64> = self.needs.iter().flat_map(|need| [need.start, need.end]).collect();
        edges.sort_unstable();
        edges.dedup();
        let mut waiting = self.needs.iter().peekable();
        let mut here: Vec<&Need> = Vec::new();
        let mut parts = Vec::new();
        for edge in edges.windows(2) {
            let range = ByteRange::new(edge[0], edge[1]);
            here.retain(|need| need.end > range.start);
            while let Some(need) = waiting.next_if(|need| need.start <= range.start) {
                here.push(need);
            }
            if !here.is_empty() {
                parts.push(part(range, &here));
            }
        }
        parts
    }
}

fn part(range: ByteRange, needs: &[&Need]) -> Support {
    let mut moments: Vec<u64> = needs.iter().map(|need| need.t_us).collect();
    moments.sort_unstable();
    let mut classes: Vec<Class> = needs.iter().map(|need| need.class).collect();
    classes.sort_unstable();
    let last = moments.len() - 1;
    let middle = last / 2;
    let t_us = [moments[0], moments[middle], moments[last * 9 / 10]];
    Support { range, runs: needs.len(), class: classes[middle], t_us }
}

impl Profile {
    /// What to fetch ahead, first need first, and what is left out.
    pub fn plan(&self, threshold: Threshold) -> Supported {
        let mut left_out = LeftOut::default();
        let mut items: Vec<(Class, PlanItem)> = Vec::new();
        for (path, file) in &self.files {
            let trust = f64::from(file.trust.0) / 1000.0;
            let before = items.len();
            for support in file.support() {
                if !threshold.takes(support.runs, self.runs.len(), trust) {
                    left_out.bytes += support.range.len();
                    continue;
                }
                let t_ns = support.t_us[1].saturating_mul(1000);
                if let Some((class, last)) = items[before..].last_mut()
                    && *class == support.class
                    && last.range.end == support.range.start
                    && t_ns.checked_sub(last.first_need_ns).is_some_and(|later| later <= SAME_NEED_NS)
                {
                    last.range.end = support.range.end;
                    continue;
                }
                let item = PlanItem { path: Arc::clone(path), range: support.range, first_need_ns: t_ns };
                items.push((support.class, item));
            }
            left_out.files += usize::from(items.len() == before);
        }
        items.sort_by(|(a, one), (b, other)| {
            let key = |class: &Class, item: &PlanItem| (*class, item.first_need_ns);
            key(a, one).cmp(&key(b, other))
        });
        let asked = items.iter().take_while(|(class, _)| *class == Class::Start).count();
        let must_have = items.iter().take_while(|(class, _)| class.is_before_ready()).count();
        let items = items.into_iter().map(|(_, item)| item).collect();
        Supported { plan: Plan { items, asked, must_have }, left_out }
    }
}
