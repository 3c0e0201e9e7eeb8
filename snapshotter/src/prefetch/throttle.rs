//! How many bytes prefetch may have asked for at once: enough to keep the link busy, and no more, so that what is needed
//! first also arrives first and a reader's request finds a short queue.
//!
//! State: the measured link (shortest wait for a first byte, throughput while busy), owned by the [`super::Engine`]. The
//! window is twice the product of the two. Starting small it doubles while more requests bring more throughput, as the
//! measured throughput is then bounded by the window itself.

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

/// What is known of the link.
#[derive(Debug, Default)]
pub(super) struct Link {
    first_byte: Option<Duration>,
    bytes_per_second: f64,
    slice: Option<(Instant, u64)>,
}

impl Link {
    /// A request waited this long for its first byte.
    pub(super) fn first_byte(&mut self, waited: Duration) {
        self.first_byte = Some(self.first_byte.map_or(waited, |shortest| shortest.min(waited)));
    }

    /// Body bytes arrived.
    pub(super) fn received(&mut self, now: Instant, bytes: u64) {
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
        match self.first_byte {
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
        link.first_byte(Duration::from_millis(20));
        link.received(start, 0);
        link.received(start + Duration::from_secs(1), 100 << 20);
        assert_eq!(link.window(), (2.0 * 0.02 * f64::from(100 << 20)) as u64);
        link.received(start + Duration::from_secs(2), 1 << 10);
        assert!(link.window() < 4 << 20, "it shrinks when the link becomes slow");
        link.first_byte(Duration::from_micros(10));
        assert_eq!(link.window(), MIN_WINDOW);
    }
}
