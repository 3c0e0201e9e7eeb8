//! Counters of what went over the wire.
//!
//! One [`Traffic`] per [`Registry`](super::Registry), shared by everything made from it; whoever wants its own part counted gives
//! another one ([`Repository::metered`](super::Repository::metered)). Counters only grow.
//! A request is counted when it is sent (so retries and redirect hops count), a byte when it is received.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a request was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// Exchange of a credential for a bearer token.
    Token,
    /// Manifest or index, by tag or digest.
    Manifest,
    /// Whole blob.
    Blob,
    /// Part of a blob.
    Range,
    /// List of referrers.
    Referrers,
    /// Anything that writes, and the look-ups before it.
    Push,
}

impl RequestKind {
    /// Every kind, in the order of the counters.
    pub const ALL: [Self; 6] =
        [Self::Token, Self::Manifest, Self::Blob, Self::Range, Self::Referrers, Self::Push];

    /// Lower-case word for logs and metric labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Manifest => "manifest",
            Self::Blob => "blob",
            Self::Range => "range",
            Self::Referrers => "referrers",
            Self::Push => "push",
        }
    }
}

/// Requests by kind, and body bytes in both directions.
#[derive(Debug, Default)]
pub struct Traffic {
    requests: [AtomicU64; RequestKind::ALL.len()],
    received: AtomicU64,
    sent: AtomicU64,
    retries: AtomicU64,
}

impl Traffic {
    /// Requests sent of one kind.
    pub fn requests(&self, kind: RequestKind) -> u64 {
        self.requests[kind as usize].load(Relaxed)
    }

    /// Requests sent of all kinds.
    pub fn total_requests(&self) -> u64 {
        self.requests.iter().map(|counter| counter.load(Relaxed)).sum()
    }

    /// Response body bytes received, wanted or not; headers are not counted.
    pub fn bytes_received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    /// Request body bytes handed to the network.
    pub fn bytes_sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// Requests sent again after a transient failure.
    pub fn retries(&self) -> u64 {
        self.retries.load(Relaxed)
    }

    pub(crate) fn count_request(&self, kind: RequestKind) {
        self.requests[kind as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn count_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn count_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn count_retry(&self) {
        self.retries.fetch_add(1, Relaxed);
    }
}
