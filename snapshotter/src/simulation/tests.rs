//! Seeds that must hold, the same seed twice, and bugs that must be found.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::{Outcome, Planted, run};

/// Seeds that each change runs.
const EACH_CHANGE: u64 = 600;
/// Seeds in which a bug must be found.
const FINDS_WITHIN: u64 = 1000;

/// Runs seeds on all processors until one is wrong; gives the one with the lowest seed, and how many were run.
fn search(seeds: std::ops::Range<u64>, planted: Option<Planted>) -> (Option<Outcome>, u64, u64) {
    let (next, steps, ran) = (AtomicU64::new(seeds.start), AtomicU64::new(0), AtomicU64::new(0));
    let found: Mutex<Option<Outcome>> = Mutex::default();
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || found.lock().is_some() {
                return;
            }
            let outcome = run(seed, planted);
            steps.fetch_add(outcome.steps, Ordering::Relaxed);
            ran.fetch_add(1, Ordering::Relaxed);
            let mut found = found.lock();
            if outcome.wrong.is_some() && found.as_ref().is_none_or(|known| known.seed > seed) {
                *found = Some(outcome);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(work);
        }
    });
    (found.into_inner(), ran.into_inner(), steps.into_inner())
}

fn hold(seeds: std::ops::Range<u64>) {
    let (found, ran, steps) = search(seeds, None);
    if let Some(Outcome { seed, wrong: Some((wrong, lines)), took, .. }) = found {
        for line in lines {
            println!("{line}");
        }
        panic!("seed {seed}, after {took:?}: {wrong}\nrepeat it: cargo xtask simulate --seed {seed} --seeds 1");
    }
    println!("{ran} seeds, {steps} steps: nothing is wrong");
}

#[test]
fn what_must_hold_holds() {
    hold(0..EACH_CHANGE);
}

#[test]
#[ignore = "as many as the environment says: cargo xtask simulate"]
fn what_must_hold_holds_for_many() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let first = number("SOCI_SIMULATE_SEED").unwrap_or(0);
    hold(first..first + number("SOCI_SIMULATE_SEEDS").unwrap_or(10_000));
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
    let (found, ran, _) = search(0..FINDS_WITHIN, Some(bug));
    let found = found.unwrap_or_else(|| panic!("{bug:?} is not found in {ran} seeds"));
    println!("{bug:?}: seed {}: {}", found.seed, found.wrong.unwrap().0);
}

#[test]
fn planted_bugs_are_found() {
    is_found(Planted::LostWakeUp);
    is_found(Planted::NoDigest);
    is_found(Planted::EndlessClaim);
    is_found(Planted::MarkedFirst);
    is_found(Planted::WriteBelieved);
    is_found(Planted::PrefetchFirst);
    is_found(Planted::NoRoom);
    is_found(Planted::PackBelieved);
}
