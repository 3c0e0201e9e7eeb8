//! A limit for what is fetched ahead, in bytes a second.
//!
//! State: the moment at which the bytes that were asked for so far will have been due; owned by the engine, under its lock. What
//! must always hold: over any time no more is asked for than the rate allows and one request.

use std::num::NonZeroU64;
use std::time::Duration;

use tokio::time::Instant;

/// When more may be asked for.
#[derive(Debug, Default)]
pub(super) struct Pace {
    due: Option<Instant>,
}

impl Pace {
    /// How long to wait before more is asked for; zero: not at all.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        self.due.map_or(Duration::ZERO, |due| due.saturating_duration_since(now))
    }

    /// So many bytes are asked for.
    pub(super) fn spend(&mut self, rate: NonZeroU64, bytes: u64, now: Instant) {
        let from = self.due.map_or(now, |due| due.max(now));
        let time = Duration::try_from_secs_f64(bytes as f64 / rate.get() as f64).unwrap_or(Duration::MAX);
        // What is due in an age is not limited: nobody waits for that.
        self.due = from.checked_add(time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_due_at_the_rate_and_time_without_bytes_is_lost() {
        let (rate, begin) = (NonZeroU64::new(1000).unwrap(), Instant::now());
        let at = |ms: u64| begin + Duration::from_millis(ms);
        let mut pace = Pace::default();
        assert_eq!(pace.wait(begin), Duration::ZERO);
        pace.spend(rate, 500, begin);
        pace.spend(rate, 250, begin);
        assert_eq!(pace.wait(begin), Duration::from_millis(750));
        assert_eq!(pace.wait(at(700)), Duration::from_millis(50));
        assert_eq!(pace.wait(at(5000)), Duration::ZERO);
        pace.spend(rate, 100, at(5000));
        assert_eq!(pace.wait(at(5000)), Duration::from_millis(100), "the pause is no credit");
    }
}
