//! What became of the bytes of one layer: what was fetched for whom, and how much of it was there when it was read.
//!
//! A [`Tally`] is owned by the layer's spans and lives as long as somebody looks at it. Counters only grow, but for
//! [`Tally::withdraw`]. Adding is a few atomic additions; nothing here locks on the way of a read.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use soci_core::registry::Traffic;

use super::histogram::Microseconds;
use super::stats::Counter;

/// The counters of one layer.
#[derive(Debug, Default)]
pub struct Tally {
    /// What the link has carried for spans of the layer, whoever wanted them.
    pub meter: Arc<Traffic>,
    /// Compressed bytes of spans that a reader has waited for.
    pub missed: Counter,
    /// Spans that a reader has waited for.
    pub missed_spans: Counter,
    /// Compressed bytes of spans that a prefetch artifact has named.
    pub prefetched: Counter,
    /// Compressed bytes of spans of the background class.
    pub background: Counter,
    /// Spans of that class, and those that failed.
    pub background_spans: Counter,
    /// Spans of the background class that could not be fetched.
    pub background_failures: Counter,
    /// Reads that waited for spans of their own, microseconds.
    pub missed_wait_us: Counter,
    /// Plain bytes that came ahead of readers.
    ahead: AtomicU64,
    /// Of these, read when they were there.
    pub hit: Counter,
    /// Of these, given to the kernel before anybody has asked for them.
    pub handed: Counter,
    /// Of these, waited for by a reader.
    pub late: Counter,
    /// How long those readers waited, microseconds.
    pub late_wait_us: Counter,
    /// Reads that reached the daemon.
    pub reads: Counter,
    /// Reads that failed.
    pub read_failures: Counter,
    /// Bytes given to them.
    pub read_bytes: Counter,
    /// How long each of them took.
    pub read_times: Microseconds,
    /// When the first read came since it was last asked for ([`Tally::rearm`]), and the last one. [`micros`]; 0: none.
    first_read: AtomicU64,
    last_read: AtomicU64,
    /// The image that was served last with the layer: for the log.
    image: Mutex<Option<Arc<str>>>,
}

impl Tally {
    /// Plain bytes have come ahead of readers.
    pub fn came_ahead(&self, bytes: u64) {
        self.ahead.fetch_add(bytes, Ordering::Relaxed);
    }

    /// They have not, after all.
    pub fn withdraw(&self, bytes: u64) {
        // Never more than was added.
        self.ahead.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Plain bytes that came ahead of readers.
    pub fn ahead(&self) -> u64 {
        self.ahead.load(Ordering::Relaxed)
    }

    /// A read of `bytes` bytes, which came at `begun`, was answered.
    pub fn answered(&self, begun: u64, bytes: u64) {
        self.read_bytes.add(bytes);
        self.read_times.observe(Duration::from_micros(micros().saturating_sub(begun)));
    }

    /// A read has come; when.
    pub fn read_begins(&self) -> u64 {
        let now = micros();
        self.reads.inc();
        if self.first_read.load(Ordering::Relaxed) == 0 {
            // Of several that are first at the same time any is as good.
            self.first_read.store(now, Ordering::Relaxed);
        }
        self.last_read.store(now, Ordering::Relaxed);
        now
    }

    /// When the first read since the last [`Tally::rearm`] has come, and the last one.
    pub fn read_at(&self) -> (Option<u64>, Option<u64>) {
        let at = |cell: &AtomicU64| Some(cell.load(Ordering::Relaxed)).filter(|at| *at > 0);
        (at(&self.first_read), at(&self.last_read))
    }

    /// The next read is a first one.
    pub fn rearm(&self) {
        self.first_read.store(0, Ordering::Relaxed);
    }

    /// The image that the layer is served for.
    pub fn serves(&self, image: &Arc<str>) {
        *self.image.lock() = Some(Arc::clone(image));
    }

    /// The image that the layer was served for last; empty when nobody has said so. For the log.
    pub fn image(&self) -> Arc<str> {
        self.image.lock().clone().unwrap_or_else(|| "".into())
    }
}

/// Microseconds since the process has first asked for them, and one.
pub fn micros() -> u64 {
    static BEGUN: OnceLock<Instant> = OnceLock::new();
    u64::try_from(BEGUN.get_or_init(Instant::now).elapsed().as_micros()).unwrap_or(u64::MAX).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_read_is_told_until_somebody_wants_another() {
        let tally = Tally::default();
        assert_eq!(tally.read_at(), (None, None));
        let first = tally.read_begins();
        std::thread::sleep(Duration::from_millis(2));
        let second = tally.read_begins();
        assert!(second > first);
        assert_eq!(tally.read_at(), (Some(first), Some(second)));
        tally.rearm();
        assert_eq!(tally.read_at(), (None, Some(second)));
        let third = tally.read_begins();
        assert_eq!(tally.read_at(), (Some(third), Some(third)));
        tally.answered(third, 100);
        assert_eq!((tally.read_bytes.get(), tally.read_times.get().count(), tally.reads.get()), (100, 1, 3));
    }
}
