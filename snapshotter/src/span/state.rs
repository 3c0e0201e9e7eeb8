//! The state of each span of one layer: unrequested -> fetching -> cached, or back to unrequested when fetching failed.
//!
//! State: one bit per span that is cached (all of it was checked against its digest; what a pack has brought does not
//! count), and a slot per span being fetched; owned by the layer's
//! [`super::SpanManager`]. (A span waiting in the prefetch queue is still unrequested here, so that a reader may claim it
//! at any moment.)
//!
//! What must always hold: a span is fetched, or its bytes are taken away, by one [`Claim`] at a time; a claim that is dropped without an outcome fails
//! its span, so no waiter is ever left behind; a failure is told to those who wait now and then forgotten, so the next
//! reader tries again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use soci_core::units::SpanId;
use tokio::sync::watch;

use super::SpanError;
use crate::doors;

/// How far the fetch of a span has come.
#[derive(Clone, Debug)]
pub enum Progress {
    /// Plain bytes up to this offset of the layer's tar were written to the cache file.
    Filled(u64),
    /// The whole span is cached.
    Cached,
    /// The fetch failed; the span is unrequested again.
    Failed(Arc<SpanError>),
}

/// The states of all spans of a layer.
#[derive(Debug)]
pub struct SpanStates {
    count: u32,
    cached: Box<[AtomicU64]>,
    /// Cached by prefetch and not yet used by a reader.
    unused: Box<[AtomicU64]>,
    fetching: Mutex<HashMap<u32, watch::Sender<Progress>>>,
}

/// What a reader finds for a span that is not cached.
#[derive(Debug)]
pub enum Wanted {
    /// It became cached in the meantime.
    Cached,
    /// Someone fetches it: wait here.
    Fetching(watch::Receiver<Progress>),
    /// The caller is to fetch it.
    Claimed(Claim, watch::Receiver<Progress>),
}

impl SpanStates {
    /// All `count` spans unrequested.
    pub fn new(count: u32) -> Self {
        let words = || (0..count.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self { count, cached: words(), unused: words(), fetching: Mutex::default() }
    }

    /// Whether the whole span is in the cache file, checked.
    pub fn is_cached(&self, span: SpanId) -> bool {
        bit(&self.cached, span).is_some_and(|(word, mask)| word.load(Ordering::SeqCst) & mask != 0)
    }

    /// Whether the span is neither cached nor being fetched.
    pub fn is_unrequested(&self, span: SpanId) -> bool {
        span.0 < self.count && !self.is_cached(span) && !self.fetching.lock().contains_key(&span.0)
    }

    /// Number of cached spans.
    pub fn cached(&self) -> u32 {
        self.cached.iter().map(|word| word.load(Ordering::Relaxed).count_ones()).sum()
    }

    /// Records a span that is known to be in the cache file.
    pub fn set_cached(&self, span: SpanId) {
        if let Some((word, mask)) = bit(&self.cached, span) {
            word.fetch_or(mask, Ordering::SeqCst);
        }
    }

    /// Records that prefetch brought the span.
    pub fn set_unused(&self, span: SpanId) {
        if let Some((word, mask)) = bit(&self.unused, span) {
            word.fetch_or(mask, Ordering::Relaxed);
        }
    }

    /// Whether this is a reader's first use of a span that prefetch brought.
    pub fn take_unused(&self, span: SpanId) -> bool {
        bit(&self.unused, span).is_some_and(|(word, mask)| {
            word.load(Ordering::Relaxed) & mask != 0 && word.fetch_and(!mask, Ordering::Relaxed) & mask != 0
        })
    }

    /// Claims a span for a reader, or finds whom to wait for.
    pub fn want(self: &Arc<Self>, span: SpanId) -> Wanted {
        let mut fetching = self.fetching.lock();
        if let Some(progress) = fetching.get(&span.0) {
            return Wanted::Fetching(progress.subscribe());
        }
        if self.is_cached(span) {
            return Wanted::Cached;
        }
        let (sender, receiver) = watch::channel(Progress::Filled(0));
        fetching.insert(span.0, sender);
        Wanted::Claimed(Claim { states: Arc::clone(self), span, open: true }, receiver)
    }

    /// Claims a span for prefetch: `None` when it is cached or being fetched.
    pub fn claim(self: &Arc<Self>, span: SpanId) -> Option<Claim> {
        match self.want(span) {
            Wanted::Claimed(claim, _) => Some(claim),
            Wanted::Cached | Wanted::Fetching(_) => None,
        }
    }

    /// Claims a span that nobody fetches, to take its bytes away: it is not cached from now on.
    pub fn claim_to_release(self: &Arc<Self>, span: SpanId) -> Option<Claim> {
        let mut fetching = self.fetching.lock();
        if span.0 >= self.count || fetching.contains_key(&span.0) {
            return None;
        }
        for words in [&self.cached, &self.unused] {
            if let Some((word, mask)) = bit(words, span) {
                word.fetch_and(!mask, Ordering::SeqCst);
            }
        }
        fetching.insert(span.0, watch::channel(Progress::Filled(0)).0);
        Some(Claim { states: Arc::clone(self), span, open: true })
    }

    fn finish(&self, span: SpanId, outcome: Progress) {
        let slot = self.fetching.lock().remove(&span.0);
        if let Some(slot) = slot {
            slot.send_replace(outcome);
        }
    }
}

/// The right and duty to bring one span into the cache.
#[derive(Debug)]
pub struct Claim {
    states: Arc<SpanStates>,
    span: SpanId,
    open: bool,
}

impl Claim {
    /// The claimed span.
    pub const fn span(&self) -> SpanId {
        self.span
    }

    /// Tells waiters that the plain bytes up to `end` are in the cache file.
    pub fn filled(&self, end: u64) {
        if let Some(slot) = self.states.fetching.lock().get(&self.span.0) {
            slot.send_replace(Progress::Filled(end));
        }
    }

    /// The span is in the cache file; wakes all waiters.
    pub fn complete(mut self) {
        self.open = false;
        self.states.set_cached(self.span);
        doors::between();
        self.states.finish(self.span, Progress::Cached);
    }

    /// Wakes all waiters, which look again what is there; the span is unrequested again. It is here in memory alone, or was
    /// given back.
    pub fn let_go(mut self) {
        self.open = false;
        self.states.finish(self.span, Progress::Cached);
    }

    /// The fetch failed; waiters are told and the span is unrequested again.
    pub fn fail(mut self, error: Arc<SpanError>) {
        self.open = false;
        self.states.finish(self.span, Progress::Failed(error));
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.open {
            self.states.finish(self.span, Progress::Failed(Arc::new(SpanError::Abandoned)));
        }
    }
}

fn bit(words: &[AtomicU64], span: SpanId) -> Option<(&AtomicU64, u64)> {
    words.get(span.0 as usize / 64).map(|word| (word, 1 << (span.0 % 64)))
}
