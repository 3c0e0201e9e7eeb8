//! How many bytes prefetch may have asked for at once: enough to keep the link busy, and no more, so that what is needed
//! first also arrives first and a reader's request finds a short queue.
//!
//! State: the measured link (shortest wait for a first byte, throughput while busy), owned by the [`super::Engine`]. The
//! window is twice the product of the two. Starting small it doubles while more requests bring more throughput, as the
//! measured throughput is then bounded by the window itself.
//!
//! What was measured ages: a link may become slower, or lead elsewhere. The shortest wait is that of the last one to two
//! [`AGE`]s, and the throughput is forgotten when nothing has come for as long.

use std::time::Duration;

use tokio::time::Instant;

/// Smallest window in bytes.
const MIN_WINDOW: u64 = 512 << 10;
/// Window before anything was measured, in bytes.
const FIRST_WINDOW: u64 = 1 << 20;
/// Largest window in bytes.
const MAX_WINDOW: u64 = 32 << 20;
/// Throughput is measured over slices of at least this length.
const SLICE: Duration = Duration::from_millis(50);
/// How long a measure is believed.
const AGE: Duration = Duration::from_secs(30);

/// What is known of the link.
#[derive(Debug, Default)]
pub(super) struct Link {
    /// Shortest waits for a first byte: in this age, and in the one before.
    first_byte: [Option<Duration>; 2],
    /// When this age began.
    since: Option<Instant>,
    bytes_per_second: f64,
    /// When bytes came last.
    last: Option<Instant>,
    slice: Option<(Instant, u64)>,
}

impl Link {
    /// A request waited this long for its first byte.
    pub(super) fn first_byte(&mut self, now: Instant, waited: Duration) {
        let since = *self.since.get_or_insert(now);
        let age = now.saturating_duration_since(since);
        if age >= AGE {
            let before = self.first_byte[0].filter(|_| age < AGE * 2);
            (self.first_byte, self.since) = ([None, before], Some(now));
        }
        let shortest = &mut self.first_byte[0];
        *shortest = Some(shortest.map_or(waited, |shortest| shortest.min(waited)));
    }

    /// Body bytes arrived.
    pub(super) fn received(&mut self, now: Instant, bytes: u64) {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) >= AGE) {
            (self.bytes_per_second, self.slice) = (0.0, None);
        }
        self.last = Some(now);
        let (since, sum) = self.slice.get_or_insert((now, 0));
        *sum += bytes;
        let elapsed = now.duration_since(*since);
        if elapsed >= SLICE {
            let sample = *sum as f64 / elapsed.as_secs_f64();
            self.bytes_per_second = sample.max(self.bytes_per_second * 0.8 + sample * 0.2);
            self.slice = Some((now, 0));
        }
    }

    /// No request is out: what follows is not a measure of the link.
    pub(super) fn idle(&mut self) {
        self.slice = None;
    }

    /// Bytes that may be asked for and not yet received.
    pub(super) fn window(&self) -> u64 {
        match self.first_byte.iter().flatten().min() {
            Some(wait) if self.bytes_per_second > 0.0 => {
                ((2.0 * self.bytes_per_second * wait.as_secs_f64()) as u64).clamp(MIN_WINDOW, MAX_WINDOW)
            }
            _ => FIRST_WINDOW,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_follows_the_bandwidth_delay_product() {
        let start = Instant::now();
        let mut link = Link::default();
        assert_eq!(link.window(), FIRST_WINDOW);
        link.first_byte(start, Duration::from_millis(20));
        link.received(start, 0);
        link.received(start + Duration::from_secs(1), 100 << 20);
        assert_eq!(link.window(), (2.0 * 0.02 * f64::from(100 << 20)) as u64);
        link.received(start + Duration::from_secs(2), 1 << 10);
        assert!(link.window() < 4 << 20, "it shrinks when the link becomes slow");
        link.first_byte(start, Duration::from_micros(10));
        assert_eq!(link.window(), MIN_WINDOW);
    }

    #[test]
    fn what_was_measured_ages() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let product = |wait: f64, rate: f64| (2.0 * wait * rate) as u64;
        let mut link = Link::default();
        link.first_byte(start, Duration::from_millis(1));
        link.received(start, 0);
        link.received(at(1), 100 << 20);
        assert_eq!(link.window(), MIN_WINDOW);
        // The way has become longer: the short wait is believed for two ages at most.
        for seconds in [10, 31] {
            link.first_byte(at(seconds), Duration::from_millis(40));
            assert_eq!(link.window(), MIN_WINDOW, "{seconds}");
        }
        link.first_byte(at(62), Duration::from_millis(40));
        assert_eq!(link.window(), product(0.04, f64::from(100 << 20)));
        // After a pause, what the link could do then is not believed.
        link.received(at(200), 1 << 20);
        assert_eq!(link.window(), FIRST_WINDOW);
        link.first_byte(at(200), Duration::from_millis(80));
        link.received(at(201), 10 << 20);
        assert_eq!(link.window(), product(0.08, f64::from(11 << 20)), "nor is the wait");
    }
}
