//! How much several recordings of one workload agree: on the bytes, and on the order of files. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;
use soci_core::trace::Access;
use soci_core::units::ByteRange;

use crate::plan::{Coverage, first_use};

/// Agreement of runs. All shares are 1 for runs that agree, also for one run alone and for runs that read nothing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stability {
    /// Number of runs.
    pub runs: usize,
    /// Distinct bytes that each run read, in the order of the runs.
    pub bytes: Vec<u64>,
    /// Bytes that every run read.
    pub common_bytes: u64,
    /// Bytes that any run read.
    pub all_bytes: u64,
    /// The first by the second (Jaccard index).
    pub overlap: f64,
    /// The smallest Jaccard index of two runs.
    pub worst_pair_overlap: f64,
    /// Files that every run read from.
    pub common_files: usize,
    /// Spearman's rank correlation of the order in which two runs need the common files first: the mean over all pairs.
    /// Absent with fewer than two common files.
    pub order: Option<f64>,
    /// The smallest of them.
    pub worst_pair_order: Option<f64>,
}

type Read = HashMap<Arc<[u8]>, Coverage>;

impl Stability {
    /// Compares runs.
    pub fn of(runs: &[Vec<Access>]) -> Self {
        let read: Vec<Read> = runs.iter().map(|run| bytes_read(run)).collect();
        let mut all = Read::new();
        for (path, coverage) in read.iter().flatten() {
            add(all.entry(Arc::clone(path)).or_default(), coverage);
        }
        let common = read.iter().skip(1).fold(read.first().cloned().unwrap_or_default(), |common, run| {
            let both = |(path, coverage): (Arc<[u8]>, Coverage)| {
                let both = coverage.common(run.get(&path)?);
                (!both.is_empty()).then_some((path, both))
            };
            common.into_iter().filter_map(both).collect()
        });
        let (common_bytes, all_bytes) = (size(&common), size(&all));
        let mut worst_pair_overlap: f64 = 1.0;
        for (at, one) in read.iter().enumerate() {
            for other in &read[at + 1..] {
                worst_pair_overlap = worst_pair_overlap.min(jaccard(one, other));
            }
        }
        let orders = common_orders(runs, &read);
        let correlations: Vec<f64> = (orders.iter().enumerate())
            .flat_map(|(at, one)| orders[at + 1..].iter().filter_map(|other| spearman(one, other)))
            .collect();
        let mean = correlations.iter().sum::<f64>() / correlations.len() as f64;
        Self {
            runs: runs.len(),
            bytes: read.iter().map(size).collect(),
            common_bytes,
            all_bytes,
            overlap: share(common_bytes, all_bytes),
            worst_pair_overlap,
            common_files: orders.first().map_or(0, Vec::len),
            order: (!correlations.is_empty()).then_some(mean),
            worst_pair_order: correlations.into_iter().reduce(f64::min),
        }
    }
}

fn bytes_read(run: &[Access]) -> Read {
    let mut read = Read::new();
    for access in run.iter().filter(|access| access.len > 0) {
        let range = ByteRange::new(access.offset, access.offset.saturating_add(access.len));
        read.entry(Arc::clone(&access.path)).or_default().add(range);
    }
    read
}

fn add(to: &mut Coverage, from: &Coverage) {
    for range in from.ranges() {
        to.add(range);
    }
}

fn size(read: &Read) -> u64 {
    read.values().map(Coverage::len).sum()
}

fn jaccard(one: &Read, other: &Read) -> f64 {
    let common: u64 = one.iter().filter_map(|(path, bytes)| Some(bytes.common(other.get(path)?).len())).sum();
    share(common, size(one) + size(other) - common)
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 1.0 } else { part as f64 / whole as f64 }
}

/// For each run the ranks of the files that all runs read from, the files always in the same order.
fn common_orders(runs: &[Vec<Access>], read: &[Read]) -> Vec<Vec<usize>> {
    let mut files: Vec<&Arc<[u8]>> = read.first().map(|first| first.keys().collect()).unwrap_or_default();
    files.retain(|path| read.iter().all(|run| run.contains_key(*path)));
    files.sort();
    let ranks = |run: &Vec<Access>| {
        let mut order = first_use(run);
        order.retain(|path| files.binary_search(&path).is_ok());
        let ranks: HashMap<&Arc<[u8]>, usize> =
            order.iter().enumerate().map(|(rank, path)| (path, rank)).collect();
        files.iter().filter_map(|path| ranks.get(path).copied()).collect()
    };
    runs.iter().map(ranks).collect()
}

/// Spearman's coefficient of two rankings of the same things, without ties: 1 - 6 Σd² / (n (n² - 1)).
fn spearman(one: &[usize], other: &[usize]) -> Option<f64> {
    if one.len() < 2 {
        return None;
    }
    let n = one.len() as f64;
    let squares: f64 = one.iter().zip(other).map(|(a, b)| (a.abs_diff(*b) as f64).powi(2)).sum();
    Some(1.0 - 6.0 * squares / (n * (n * n - 1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use soci_core::trace::{AccessKind, Phase, Process};

    fn run(rows: &[(u64, &str, u64, u64)]) -> Vec<Access> {
        let access = |&(t_ns, path, offset, len): &(u64, &str, u64, u64)| Access {
            t_ns,
            phase: Phase::Start,
            kind: AccessKind::Read,
            path: Arc::from(path.as_bytes()),
            layer: Some(0),
            offset,
            len,
            process: Arc::new(Process { pid: 1, comm: Arc::from(&b"x"[..]) }),
            wait_ns: 0,
        };
        rows.iter().map(access).collect()
    }

    fn close(left: f64, right: f64) -> bool {
        (left - right).abs() < 1e-12
    }

    #[test]
    fn overlap_and_order_are_counted() {
        let runs = [
            run(&[(1, "a", 0, 100), (2, "b", 0, 100), (3, "c", 0, 100), (4, "a", 50, 100)]),
            run(&[(1, "c", 0, 100), (2, "b", 0, 100), (3, "a", 0, 50), (4, "d", 0, 50)]),
            run(&[(1, "a", 0, 100), (3, "c", 0, 100), (2, "b", 0, 100)]),
        ];
        let stability = Stability::of(&runs);
        assert_eq!((stability.runs, &stability.bytes[..]), (3, &[350, 300, 300][..]));
        assert_eq!((stability.common_bytes, stability.all_bytes, stability.common_files), (250, 400, 3));
        assert!(close(stability.overlap, 250.0 / 400.0));
        assert!(close(stability.worst_pair_overlap, 250.0 / 400.0), "runs 0 and 1");
        assert!(close(stability.worst_pair_order.unwrap(), -1.0));
        assert!(close(stability.order.unwrap(), (-1.0 + 1.0 - 1.0) / 3.0));
    }

    #[test]
    fn spearman_is_the_textbooks() {
        // Σd² = 1 + 1 + 4 + 0 + 4 with n = 5
        assert!(close(spearman(&[0, 1, 2, 3, 4], &[1, 0, 4, 3, 2]).unwrap(), 1.0 - 6.0 * 10.0 / 120.0));
        assert_eq!(spearman(&[0], &[0]), None);
    }

    #[test]
    fn nothing_to_compare_is_agreement() {
        for runs in [vec![], vec![vec![]], vec![vec![], vec![]]] {
            let stability = Stability::of(&runs);
            assert!(close(stability.overlap, 1.0) && close(stability.worst_pair_overlap, 1.0));
            assert_eq!((stability.order, stability.common_files), (None, 0));
        }
    }

    proptest! {
        #[test]
        fn figures_are_shares_and_do_not_depend_on_the_order_of_runs(
            rows in prop::collection::vec(prop::collection::vec((0u64..9, 0usize..4, 0u64..30, 1u64..9), 0..12), 1..5),
        ) {
            let paths = ["a", "b", "c", "d"];
            let mut runs: Vec<Vec<Access>> = rows.iter().map(|rows| {
                run(&rows.iter().map(|&(t, path, at, len)| (t, paths[path], at, len)).collect::<Vec<_>>())
            }).collect();
            let one = Stability::of(&runs);
            prop_assert!((0.0..=1.0).contains(&one.overlap));
            prop_assert!(one.overlap <= one.worst_pair_overlap + 1e-12 && one.worst_pair_overlap <= 1.0);
            prop_assert!(one.order.is_none_or(|order| (-1.0 - 1e-9..=1.0 + 1e-9).contains(&order)));
            prop_assert!(one.common_bytes <= one.bytes.iter().copied().min().unwrap_or(0));
            prop_assert!(one.all_bytes >= one.bytes.iter().copied().max().unwrap_or(0));
            runs.reverse();
            let other = Stability::of(&runs);
            prop_assert_eq!((one.common_bytes, one.all_bytes, one.common_files), (other.common_bytes, other.all_bytes, other.common_files));
            prop_assert!(close(one.worst_pair_overlap, other.worst_pair_overlap));
            let same = Stability::of(&vec![runs[0].clone(); 3]);
            prop_assert!(close(same.overlap, 1.0) && same.order.is_none_or(|order| close(order, 1.0)));
        }
    }
}
