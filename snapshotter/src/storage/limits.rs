//! How much disk cached bytes may take, and what is to go when they take more.
//!
//! [`Rounds`] owns when each round began; the rest is arithmetic. What must always hold: what was used a short time ago goes only when it
//! must (the limit, a write that was refused), not to keep a reserve for others; after something had to go there is room for a while.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Parts of a limit, of which one is made free beyond what is needed.
const SLACK: u64 = 16;
/// The part of the cached bytes that goes after a write was refused, and the least that does.
const REFUSED: (u64, u64) = (8, 16 << 20);
/// What nobody has used for so long may go to keep a reserve.
const IDLE: Duration = Duration::from_mins(1);

/// What cached bytes may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the cache.
    pub max_bytes: Option<u64>,
    /// The part of the file system that is to stay free, in percent.
    pub min_free: u8,
}

/// What there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// Bytes that the cache takes.
    pub cached: u64,
    /// Bytes that its file system has free.
    pub free: u64,
    /// Bytes that its file system has.
    pub total: u64,
}

/// What is to go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Goal {
    /// Bytes that have to go, the longest unused first.
    pub must: u64,
    /// Bytes that go beside those, if they are idle.
    pub may: u64,
}

impl Goal {
    /// Whether nothing is to go.
    pub const fn is_empty(&self) -> bool {
        self.must == 0 && self.may == 0
    }
}

impl Limits {
    fn floor(&self, disk: &Disk) -> u64 {
        disk.total / 100 * u64::from(self.min_free.min(100))
    }

    /// What is to go. `refused`: a write found no space lately.
    pub fn goal(&self, disk: &Disk, refused: bool) -> Goal {
        let over = self
            .max_bytes
            .filter(|max| disk.cached > *max)
            .map_or(0, |max| disk.cached - (max - max / SLACK));
        let for_refused = if refused { (disk.cached / REFUSED.0).max(REFUSED.1) } else { 0 };
        let must = over.max(for_refused).min(disk.cached);
        let floor = self.floor(disk);
        let short = if disk.free < floor { floor + floor / SLACK - disk.free } else { 0 };
        Goal { must, may: short.saturating_sub(must).min(disk.cached - must) }
    }

    /// Bytes that may be written before something has to go, and how many of them are only for who waits. Below 0: too many
    /// are written already.
    pub fn left(&self, disk: &Disk) -> (i64, u64) {
        let floor = self.floor(disk);
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let free = signed(disk.free) - signed(floor);
        match self.max_bytes {
            Some(max) if signed(max) - signed(disk.cached) < free => {
                (signed(max) - signed(disk.cached), max / SLACK)
            }
            _ => (free, floor / SLACK),
        }
    }
}

/// When rounds began, as far back as it matters.
#[derive(Debug, Default)]
pub struct Rounds(VecDeque<(u32, Instant)>);

impl Rounds {
    /// A round begins. Gives the last round that is over so long that what was used in it is idle; 0 if there is none.
    pub fn begin(&mut self, round: u32, now: Instant) -> u32 {
        let is_old = |at: &Instant| now.saturating_duration_since(*at) >= IDLE;
        // The first of these has ended when the second began.
        while self.0.get(1).is_some_and(|(_, began)| is_old(began)) {
            self.0.pop_front();
        }
        let known = self.0.front().filter(|(_, began)| is_old(began));
        let idle = known.map_or(0, |(round, _)| round.saturating_sub(1));
        self.0.push_back((round, now));
        idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_limit_and_a_refused_write_must_be_met_and_a_reserve_may() {
        let disk = |cached, free| Disk { cached: cached * MIB, free: free * MIB, total: 1000 * MIB };
        let none = Limits { max_bytes: None, min_free: 10 };
        let some = Limits { max_bytes: Some(160 * MIB), min_free: 10 };
        let goal = |must, may| Goal { must: must * MIB, may: may * MIB };
        assert!(none.goal(&disk(900, 100), false).is_empty());
        assert_eq!(some.goal(&disk(161, 500), false), goal(11, 0));
        assert!(some.goal(&disk(160, 500), false).is_empty());
        let reserve = none.goal(&disk(500, 50), false);
        assert!(reserve.must == 0 && reserve.may > 50 * MIB && reserve.may < 60 * MIB, "{reserve:?}");
        assert_eq!(none.goal(&disk(2, 50), false).may, 2 * MIB, "no more than there is");
        assert_eq!(none.goal(&disk(160, 500), true), goal(20, 0));
        assert_eq!(none.goal(&disk(8, 500), true), goal(8, 0));
        let both = some.goal(&disk(170, 0), true);
        assert!(both.must >= 20 * MIB && both.must + both.may <= 170 * MIB && both.may > 0, "{both:?}");
        assert_eq!(Limits { max_bytes: None, min_free: 0 }.goal(&disk(500, 0), false), goal(0, 0));
    }

    #[test]
    fn what_is_left_is_the_smaller_of_both() {
        let disk = |cached, free| Disk { cached, free, total: 1000 };
        let limits = Limits { max_bytes: Some(160), min_free: 10 };
        assert_eq!(limits.left(&disk(100, 900)), (60, 10));
        assert_eq!(limits.left(&disk(100, 120)), (20, 6));
        assert_eq!(limits.left(&disk(200, 900)), (-40, 10));
        assert_eq!(Limits { max_bytes: None, min_free: 10 }.left(&disk(0, 50)), (-50, 6));
    }

    #[test]
    fn idle_is_what_was_used_in_rounds_that_ended_long_ago() {
        let begin = Instant::now();
        let mut rounds = Rounds::default();
        let mut idle = |round, seconds| rounds.begin(round, begin + Duration::from_secs(seconds));
        assert_eq!(idle(1, 0), 0);
        assert_eq!(idle(2, 30), 0);
        assert_eq!(idle(3, 60), 0, "what was there before anything began");
        assert_eq!(idle(4, 89), 0);
        assert_eq!(idle(5, 90), 1, "round 1 ended at 30");
        assert_eq!(idle(6, 160), 4);
    }
}
