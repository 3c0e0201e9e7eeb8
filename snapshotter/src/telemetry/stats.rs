//! Counters of the data plane, from which the metrics room makes its text.
//!
//! Owned by the process as one `Arc<Stats>`; every room that does the work adds to it. Counters only grow, gauges do not; a value is
//! read by [`Counter::get`] at any time and is exact for the events that have happened before the read.

use std::sync::atomic::{AtomicU64, Ordering};

use super::histogram::Milliseconds;

/// One counter that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that is measured now and then.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// What was measured.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// What was measured last; 0 before.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the data plane has done since the process started. Bytes are bytes, waits are microseconds.
#[derive(Debug, Default)]
pub struct Stats {
    /// Spans fetched because a reader waited for them (or was walking towards them).
    pub demand_spans: Counter,
    /// Compressed bytes of [`Stats::demand_spans`].
    pub demand_bytes: Counter,
    /// Spans fetched because a prefetch artifact named them.
    pub prefetch_spans: Counter,
    /// Compressed bytes of [`Stats::prefetch_spans`].
    pub prefetch_bytes: Counter,
    /// Spans fetched by the background class.
    pub background_spans: Counter,
    /// Compressed bytes of [`Stats::background_spans`].
    pub background_bytes: Counter,
    /// Ranged requests started by the fetch engine (each may carry several spans).
    pub fetch_requests: Counter,
    /// Span fetches that failed after all their retries.
    pub span_failures: Counter,
    /// How often a read has asked again because of an error that may heal.
    pub reads_retried: Counter,
    /// Spans that could not be written to the cache, and were served from memory.
    pub spans_not_written: Counter,
    /// Spans whose compressed bytes did not have the zTOC's digest (each bad download counts).
    pub span_digest_mismatches: Counter,
    /// Reads of regular files that arrived over FUSE.
    pub reads: Counter,
    /// Bytes given to those reads.
    pub read_bytes: Counter,
    /// Reads whose bytes were all in the cache already.
    pub read_cache_hits: Counter,
    /// Reads that had to wait for a span.
    pub read_waits: Counter,
    /// Microseconds those reads waited in total.
    pub read_wait_us: Counter,
    /// Reads answered with an error.
    pub read_failures: Counter,
    /// How long reads waited that found their bytes missing.
    pub demand_waits: Milliseconds,
    /// How long Prepares of image layers took until their answer.
    pub prepares: Milliseconds,
    /// From the Prepare of a container until its first read that reached the daemon.
    pub first_bytes: Milliseconds,
    /// How long it took to mount a layer, on the kernel's side.
    pub mounts: Milliseconds,
    /// How long it took to get an index of an image.
    pub index_fetches: Milliseconds,
    /// How long it took to get the table (zTOC) of a layer.
    pub table_fetches: Milliseconds,
    /// From a ranged request to its header.
    pub range_requests: Milliseconds,
    /// Bytes of packs that were given to the kernel before it asked for them.
    pub pack_given_bytes: Counter,
    /// Spans that were first used by a reader after prefetch had brought them.
    pub prefetch_hits: Counter,
    /// Reads for which a working-set pack had brought bytes.
    pub pack_hits: Counter,
    /// Spans whose bytes were not what a pack had brought of them.
    pub pack_mismatches: Counter,
    /// Prefetch artifacts that were taken into the queue.
    pub prefetch_artifacts: Counter,
    /// Prefetch artifacts that were skipped because they could not be fetched or were not valid.
    pub prefetch_artifact_failures: Counter,
    /// Packs that were brought whole.
    pub packs: Counter,
    /// Packs that were dropped, or could not be fetched.
    pub pack_failures: Counter,
    /// Blocks of packs that were checked and written.
    pub pack_blocks: Counter,
    /// Bytes of packs that were received.
    pub pack_bytes: Counter,
    /// Layers that became ready to be mounted lazily.
    pub layers_resolved: Counter,
    /// Caches of unused layers that were taken away.
    pub caches_evicted: Counter,
    /// Cached bytes that were given back to make room, of layers in use or not.
    pub cache_given_back_bytes: Counter,
    /// Bytes on disk that the cache takes.
    pub cache_bytes: Gauge,
    /// Bytes that its file system has free.
    pub disk_free_bytes: Gauge,
    /// FUSE mounts made, those of images included.
    pub fuse_mounts: Counter,
    /// Layers mounted as EROFS images.
    pub erofs_mounts: Counter,
    /// FUSE mounts that failed.
    pub fuse_mount_failures: Counter,
}
