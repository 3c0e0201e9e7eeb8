//! When to try again, and how long to wait before.
//!
//! A [`Budget`] belongs to one operation (one manifest, one range, one upload) and is spent by all its
//! failures together, whatever step they happen in. Invariant: an operation ends, because a budget is
//! finite and is only refilled by bytes that were really received.

use std::time::Duration;

use jiff::Timestamp;
use rand::RngExt as _;

use super::error::RegistryError;

/// Bytes received that earn back one spent retry: a long transfer over a bad link may break more often
/// than a short one.
const BYTES_PER_RETRY: u64 = 8 << 20;

/// How failed requests are repeated. The defaults are those of the `[http]` table of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Extra attempts after the first; 0 turns retries off.
    pub max_retries: u32,
    /// Wait before the first retry; doubled for each further one.
    pub min_wait: Duration,
    /// Longest wait. A server that asks for more than this by Retry-After is not asked again.
    pub max_wait: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { max_retries: 8, min_wait: Duration::from_millis(30), max_wait: Duration::from_mins(5) }
    }
}

/// How waits are spread.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Spread {
    /// By chance.
    ByChance,
    /// Not at all: in a simulation, which is to be the same each time.
    #[cfg(feature = "testing")]
    Even,
}

impl Spread {
    fn pick(self, from: std::ops::Range<f64>) -> f64 {
        match self {
            Self::ByChance => rand::rng().random_range(from),
            #[cfg(feature = "testing")]
            Self::Even => f64::midpoint(from.start, from.end),
        }
    }
}

/// The retries left to one operation.
#[derive(Debug)]
pub(crate) struct Budget {
    policy: RetryPolicy,
    spread: Spread,
    spent: u32,
    received: u64,
}

impl Budget {
    pub(crate) fn new(policy: RetryPolicy, spread: Spread) -> Self {
        Self { policy, spread, spent: 0, received: 0 }
    }

    /// Takes one retry. `Ok(wait)`: wait that long and try again; `Err`: give up with this error.
    pub(crate) fn spend(&mut self, error: RegistryError) -> Result<Duration, RegistryError> {
        if !error.is_transient() || self.spent >= self.policy.max_retries {
            return Err(error);
        }
        // Spread, so that the nodes that failed together do not come back together; never earlier than asked for.
        let (wait, spread) = match error.retry_after() {
            Some(asked) if asked > self.policy.max_wait => return Err(error),
            Some(asked) => (asked, 1.0..1.25),
            None => {
                let doubled = self.policy.min_wait.saturating_mul(1 << self.spent.min(24));
                (doubled.min(self.policy.max_wait), 0.5..1.5)
            }
        };
        self.spent += 1;
        Ok(wait.mul_f64(self.spread.pick(spread)))
    }

    /// Whether a retry is left.
    pub(crate) fn has_left(&self) -> bool {
        self.spent < self.policy.max_retries
    }

    /// Takes one retry that was made already.
    pub(crate) fn note(&mut self) {
        self.spent = self.spent.saturating_add(1);
    }

    /// Notes progress.
    pub(crate) fn earn(&mut self, bytes: usize) {
        self.received += bytes as u64;
        if self.received >= BYTES_PER_RETRY {
            self.received -= BYTES_PER_RETRY;
            self.spent = self.spent.saturating_sub(1);
        }
    }
}

/// Wait asked for by a Retry-After header: seconds, or an HTTP date (in the past: no wait).
pub(crate) fn parse_retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(value).ok()?.timestamp();
    Some(Duration::try_from(date.duration_since(now)).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unavailable(retry_after: Option<u64>) -> RegistryError {
        let retry_after = retry_after.map(Duration::from_secs);
        RegistryError::Unavailable { url: String::new(), status: 503, retry_after }
    }

    #[test]
    fn waits_double_up_to_the_limit() {
        let policy =
            RetryPolicy { max_retries: 5, max_wait: Duration::from_millis(200), ..Default::default() };
        let mut budget = Budget::new(policy, Spread::ByChance);
        for expected in [30, 60, 120, 200, 200] {
            let wait = budget.spend(unavailable(None)).expect("budget left").as_millis();
            assert!((expected / 2..=expected * 3 / 2).contains(&wait), "{wait} for {expected}");
        }
        assert!(budget.spend(unavailable(None)).is_err());
    }

    #[test]
    fn retry_after_is_obeyed_or_ends_the_attempts() {
        let policy = RetryPolicy { max_wait: Duration::from_secs(10), ..Default::default() };
        let mut budget = Budget::new(policy, Spread::ByChance);
        assert!(budget.spend(unavailable(Some(9))).expect("short enough") >= Duration::from_secs(9));
        assert!(budget.spend(unavailable(Some(11))).is_err());
    }

    #[test]
    fn final_errors_are_not_repeated() {
        let mut budget = Budget::new(RetryPolicy::default(), Spread::ByChance);
        assert!(budget.spend(RegistryError::NotFound { url: String::new() }).is_err());
    }

    #[test]
    fn received_bytes_earn_retries_but_never_more_than_the_policy() {
        let mut budget = Budget::new(RetryPolicy { max_retries: 1, ..Default::default() }, Spread::ByChance);
        for _ in 0..3 {
            assert!(budget.spend(unavailable(None)).is_ok());
            assert!(budget.spend(unavailable(None)).is_err());
            budget.earn(BYTES_PER_RETRY as usize);
        }
    }

    #[test]
    fn retry_after_forms() {
        let now: Timestamp = "2024-05-01T12:00:00Z".parse().expect("a valid time");
        let parse = |value| parse_retry_after(value, now);
        assert_eq!(parse("120"), Some(Duration::from_mins(2)));
        assert_eq!(parse(" 0 "), Some(Duration::ZERO));
        assert_eq!(parse("Wed, 01 May 2024 12:00:30 GMT"), Some(Duration::from_secs(30)));
        assert_eq!(parse("Wed, 01 May 2024 11:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(parse("soon"), None);
        assert_eq!(parse("-1"), None);
    }
}
