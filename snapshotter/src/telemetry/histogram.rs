//! How long things took, in buckets that double.
//!
//! A [`Histogram`] is owned by whoever measures. An observation is two atomic additions and takes no lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets with an upper bound: 1, 2, 4, … 16384 of the unit, as upstream's.
pub const BOUNDS: usize = 15;

/// Times in buckets of milliseconds.
pub type Milliseconds = Histogram<1000>;
/// Times in buckets of microseconds.
pub type Microseconds = Histogram<1>;

/// Times in buckets whose unit is `UNIT` microseconds.
#[derive(Debug, Default)]
pub struct Histogram<const UNIT: u64> {
    /// The last one has no bound.
    buckets: [AtomicU64; BOUNDS + 1],
    /// Microseconds in all.
    sum: AtomicU64,
}

/// What a histogram has at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Buckets {
    /// Observations in each bucket alone; the last one has no upper bound.
    pub counts: [u64; BOUNDS + 1],
    /// Microseconds of all of them.
    pub sum: u64,
}

impl<const UNIT: u64> Histogram<UNIT> {
    /// Adds one observation.
    pub fn observe(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let at = micros.div_ceil(UNIT).max(1).next_power_of_two().trailing_zeros() as usize;
        self.buckets[at.min(BOUNDS)].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(micros, Ordering::Relaxed);
    }

    /// What it has now.
    pub fn get(&self) -> Buckets {
        let counts = std::array::from_fn(|at| self.buckets[at].load(Ordering::Relaxed));
        Buckets { counts, sum: self.sum.load(Ordering::Relaxed) }
    }
}

impl Buckets {
    /// Observations in all.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The same and those of another.
    #[must_use]
    pub fn with(mut self, other: &Self) -> Self {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.sum = self.sum.saturating_add(other.sum);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observation_is_in_the_first_bucket_that_holds_it() {
        let times = Milliseconds::default();
        for micros in [0, 999, 1000, 1001, 2000, 2001, 16_384_000, 16_384_001, u64::MAX / 2] {
            times.observe(Duration::from_micros(micros));
        }
        let got = times.get();
        assert_eq!((got.counts[0], got.counts[1], got.counts[2]), (3, 2, 1));
        assert_eq!((got.counts[BOUNDS - 1], got.counts[BOUNDS], got.count()), (1, 2, 9));
        let twice = got.clone().with(&got);
        assert_eq!(twice.count(), 18);
        let short = Microseconds::default();
        short.observe(Duration::from_micros(3));
        assert_eq!((short.get().counts[2], short.get().sum), (1, 3));
    }
}
