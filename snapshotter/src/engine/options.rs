//! Settings of the engine. Plain data.

use std::num::NonZeroU64;
use std::time::Duration;

/// Bytes of a unit of the buffer.
pub(super) const UNIT: u64 = 1 << 10;

/// The slow fetch of everything that is not there yet.
#[derive(Clone, Copy, Debug)]
pub struct BackgroundOptions {
    /// Pause after a new image was asked for.
    pub silence: Duration,
    /// One span each period, for the whole node.
    pub period: Duration,
}

/// Settings of the engine.
#[derive(Clone, Copy, Debug)]
pub struct EngineOptions {
    /// Readers' requests that may be out at once, at each host.
    pub demand_requests: usize,
    /// Prefetch requests that may be out at once, at each host, whatever the window.
    pub prefetch_requests: usize,
    /// Layers that prefetch may work on at once; 0 for no limit (upstream's `[prefetch] max_concurrency`).
    pub prefetch_layers: usize,
    /// Compressed bytes that one prefetch request joins at most.
    pub join_bytes: u64,
    /// Compressed bytes that prefetch may have downloaded and not yet inflated; one host has half of them at most.
    pub buffer_bytes: u64,
    /// Spans inflated at once for readers; ahead of them one fewer, if that is any.
    pub inflate_threads: usize,
    /// Compressed bytes a second that are asked for ahead of readers, on average: prefetch, packs and background together.
    pub max_bandwidth: Option<NonZeroU64>,
    /// The background class; `None` switches it off.
    pub background: Option<BackgroundOptions>,
}

impl EngineOptions {
    /// [`Self::buffer_bytes`] in [`UNIT`]s.
    pub(super) fn buffer_units(&self) -> u32 {
        (self.buffer_bytes / UNIT).clamp(1, 1 << 30) as u32
    }

    /// Bytes ahead of readers that may be on their way without being waited for: what a quarter of a second may bring.
    pub(super) fn at_once(&self) -> u64 {
        self.max_bandwidth.map_or(u64::MAX, |rate| rate.get() / 4)
    }
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            demand_requests: 64,
            prefetch_requests: 16,
            prefetch_layers: 0,
            join_bytes: 8 << 20,
            buffer_bytes: 128 << 20,
            inflate_threads: std::thread::available_parallelism().map_or(2, usize::from),
            max_bandwidth: None,
            background: None,
        }
    }
}
