//! Seeds that must hold, the same seed twice, and bugs that must be found.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::{Outcome, Planted, Reached, run};

/// Seeds that each change runs.
const EACH_CHANGE: u64 = 600;
/// Seeds in which a bug must be found.
const FINDS_WITHIN: u64 = 1000;

/// What has come of some seeds.
#[derive(Debug, Default)]
struct Search {
    ran: u64,
    steps: u64,
    reached: Vec<(&'static str, u64)>,
    /// The one with the lowest seed in which something is wrong.
    found: Option<Outcome>,
}

impl Search {
    fn add(&mut self, outcome: Outcome) {
        self.ran += 1;
        self.steps += outcome.steps;
        let reached: Reached = outcome.reached;
        if self.reached.is_empty() {
            self.reached = reached.to_vec();
        } else {
            self.reached.iter_mut().zip(reached).for_each(|(sum, (_, more))| sum.1 += more);
        }
        if outcome.wrong.is_some() && self.found.as_ref().is_none_or(|known| known.seed > outcome.seed) {
            self.found = Some(outcome);
        }
    }
}

/// Runs seeds on all processors until one is wrong.
fn search(seeds: &Range<u64>, planted: Option<Planted>) -> Search {
    let (next, search) = (AtomicU64::new(seeds.start), Mutex::new(Search::default()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || search.lock().found.is_some() {
                return;
            }
            let outcome = run(seed, planted);
            search.lock().add(outcome);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(work);
        }
    });
    search.into_inner()
}

fn hold(seeds: &Range<u64>) -> Search {
    let search = search(seeds, None);
    if let Some(Outcome { seed, wrong: Some((wrong, lines)), took, .. }) = &search.found {
        for line in lines {
            println!("{line}");
        }
        panic!(
            "seed {seed}, after {took:?}: {wrong}\nto repeat it: cargo xtask simulate --seed {seed} --seeds 1"
        );
    }
    println!("{} seeds, {} steps, nothing wrong; {:?}", search.ran, search.steps, search.reached);
    search
}

/// `cargo xtask simulate` says other seeds, by the environment.
#[test]
fn what_must_hold_holds() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let (first, seeds) = (number("SOCI_SIMULATE_SEED").unwrap_or(0), number("SOCI_SIMULATE_SEEDS"));
    let search = hold(&(first..first + seeds.unwrap_or(EACH_CHANGE)));
    for (what, times) in search.reached {
        let enough = seeds.is_some() || times > EACH_CHANGE / 20;
        assert!(enough, "{what}: {times} is not often enough to mean something");
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..20 {
        let (one, other) = (run(seed, None), run(seed, None));
        assert_eq!((one.story, one.steps, one.took), (other.story, other.steps, other.took), "seed {seed}");
    }
    assert_ne!(run(0, None).story, run(1, None).story);
}

fn is_found(bug: Planted) {
    let search = search(&(0..FINDS_WITHIN), Some(bug));
    let Some(Outcome { seed, wrong: Some((wrong, _)), .. }) = search.found else {
        panic!("{bug:?} is not found in {} seeds", search.ran)
    };
    println!("{bug:?}: seed {seed}: {wrong}");
}

#[test]
fn a_lost_wake_up_is_found() {
    is_found(Planted::LostWakeUp);
}

#[test]
fn a_skipped_digest_is_found() {
    is_found(Planted::NoDigest);
}

#[test]
fn a_claim_without_end_is_found() {
    is_found(Planted::EndlessClaim);
}

#[test]
fn bytes_that_are_marked_too_early_are_found() {
    is_found(Planted::MarkedFirst);
}

#[test]
fn a_failed_write_that_is_believed_is_found() {
    is_found(Planted::WriteBelieved);
}

#[test]
fn prefetch_before_readers_is_found() {
    is_found(Planted::PrefetchFirst);
}

#[test]
fn memory_without_bound_is_found() {
    is_found(Planted::NoRoom);
}

#[test]
fn a_hole_that_is_believed_is_found() {
    is_found(Planted::HoleBelieved);
}

#[test]
fn a_wrong_pack_that_is_believed_is_found() {
    is_found(Planted::PackBelieved);
}
