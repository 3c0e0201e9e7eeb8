//! Spans of one layer: reads of its plain tar, answered from the cache file or after the spans were fetched.
//!
//! State: the [`SpanManager`] owns the cache file ([`cache`]), the page map ([`bitmap`]) and the state of each span
//! ([`state`]) of one layer and zTOC; all mounts of the layer, of any image, share it.
//!
//! What must always hold: every byte that a read returns was inflated from compressed bytes whose sha256 is the zTOC's
//! digest of that span. A reader never fetches: it asks the engine and waits for its own bytes, with a time limit. A
//! failure is not remembered: the next read tries again.

pub mod bitmap;
pub mod cache;
mod error;
pub mod eviction;
pub mod state;
mod walk;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use soci_core::digest::Digest;
use soci_core::registry::{RangeBody, RangeFetcher};
use soci_core::units::{ByteRange, SpanId};
use soci_core::ztoc::{self, Ztoc};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::prefetch::Engine;
use crate::stats::Stats;
use bitmap::{Identity, PAGE};
use cache::SpanCache;
pub use error::SpanError;
pub(crate) use error::chain;
use state::{Claim, Progress, SpanStates, Wanted};
use walk::Walks;

/// Plain bytes are written to the cache, and told to waiting readers, in pieces of this size.
const PIECE: usize = 128 << 10;
/// Sources (repositories that have the layer) that are tried at most.
const MAX_SOURCES: usize = 4;

/// Settings of all span managers.
#[derive(Clone, Copy, Debug)]
pub struct SpanOptions {
    /// How long a read waits for its bytes before it fails.
    pub read_timeout: Duration,
    /// How often a span is fetched again when its digest is wrong.
    pub verification_retries: u32,
    /// Compressed bytes that a reader walking through a file has fetched ahead of it, at most. 0 switches it off.
    pub read_ahead: u64,
}

impl Default for SpanOptions {
    fn default() -> Self {
        Self { read_timeout: Duration::from_mins(5), verification_retries: 0, read_ahead: 4 << 20 }
    }
}

/// The spans of one layer.
#[derive(Debug)]
pub struct SpanManager {
    ztoc: Ztoc,
    cache: SpanCache,
    states: Arc<SpanStates>,
    sources: Mutex<Vec<(String, RangeFetcher)>>,
    walks: Mutex<Walks>,
    interest: Mutex<(usize, CancellationToken)>,
    engine: Engine,
    stats: Arc<Stats>,
    options: SpanOptions,
}

/// Keeps fetching for a layer alive; when the last one is dropped, the layer's fetches are cancelled.
#[derive(Debug)]
pub struct Interest(Arc<SpanManager>);

impl Drop for Interest {
    fn drop(&mut self) {
        let mut interest = self.0.interest.lock();
        interest.0 -= 1;
        let last = interest.0 == 0;
        if last {
            interest.1.cancel();
        }
        drop(interest);
        if last {
            self.0.engine.forget(&self.0);
        }
    }
}

impl SpanManager {
    /// The spans of `ztoc`, with what `cache` holds of them already.
    pub fn new(
        ztoc: Ztoc,
        cache: SpanCache,
        engine: Engine,
        stats: Arc<Stats>,
        options: SpanOptions,
    ) -> Arc<Self> {
        let states = Arc::new(SpanStates::new(ztoc.spans().len()));
        for span in (0..ztoc.spans().len()).map(SpanId) {
            if cache.holds(ztoc.spans().uncompressed_range(span)) {
                states.set_cached(span);
            }
        }
        Arc::new(Self {
            ztoc,
            cache,
            states,
            sources: Mutex::default(),
            walks: Mutex::default(),
            interest: Mutex::new((0, CancellationToken::new())),
            engine,
            stats,
            options,
        })
    }

    /// What the cache of a layer with this zTOC is called.
    pub fn identity(layer: Digest, ztoc: &Ztoc) -> Identity {
        Identity { layer, ztoc: ztoc.digest(), size: ztoc.uncompressed_size() }
    }

    /// The zTOC.
    pub const fn ztoc(&self) -> &Ztoc {
        &self.ztoc
    }

    /// The state of each span.
    pub const fn states(&self) -> &Arc<SpanStates> {
        &self.states
    }

    /// The settings.
    pub const fn options(&self) -> &SpanOptions {
        &self.options
    }

    /// The cache file.
    pub const fn cache(&self) -> &SpanCache {
        &self.cache
    }

    /// Adds a place to fetch from; the newest is tried first, since its credentials are the freshest. A `name` that is
    /// known already is replaced.
    pub fn add_source(&self, name: &str, fetcher: RangeFetcher) {
        let mut sources = self.sources.lock();
        sources.retain(|(known, _)| known != name);
        sources.insert(0, (name.to_owned(), fetcher));
        sources.truncate(MAX_SOURCES);
    }

    /// Says that someone uses the layer.
    pub fn attach(self: &Arc<Self>) -> Interest {
        let mut interest = self.interest.lock();
        if interest.0 == 0 {
            interest.1 = CancellationToken::new();
        }
        interest.0 += 1;
        drop(interest);
        Interest(Arc::clone(self))
    }

    /// Cancelled when nobody uses the layer any more.
    pub fn cancelled(&self) -> CancellationToken {
        self.interest.lock().1.clone()
    }

    /// Reads the plain bytes `range` if all of them are cached; `false` when some are not.
    pub fn read_cached(&self, range: ByteRange, into: &mut [u8]) -> Result<bool, SpanError> {
        self.check(range)?;
        if !self.missing(range).is_empty() {
            return Ok(false);
        }
        self.note_use(range);
        self.cache.read(range.start, into).map_err(SpanError::Cache)?;
        Ok(true)
    }

    /// Reads the plain bytes `range`, waiting for spans that are not cached. `file` is the content that the reader walks
    /// through: nothing outside it is fetched ahead.
    pub async fn read(self: &Arc<Self>, range: ByteRange, file: ByteRange) -> Result<Vec<u8>, SpanError> {
        self.check(range)?;
        let started = Instant::now();
        let limit = self.options.read_timeout;
        let outcome = tokio::time::timeout(limit, self.ensure(range, file)).await;
        self.stats.read_wait_us.add(started.elapsed().as_micros() as u64);
        outcome.unwrap_or(Err(SpanError::TimedOut(limit)))?;
        self.note_use(range);
        let length = usize::try_from(range.len()).map_err(|_| SpanError::OutOfRange(range))?;
        let mut bytes = vec![0; length];
        self.cache.read(range.start, &mut bytes).map_err(SpanError::Cache)?;
        Ok(bytes)
    }

    fn check(&self, range: ByteRange) -> Result<(), SpanError> {
        if range.end > self.cache.size() { Err(SpanError::OutOfRange(range)) } else { Ok(()) }
    }

    /// The spans of `range` that are not there, each with the end of what is wanted of it.
    fn missing(&self, range: ByteRange) -> Vec<(SpanId, u64)> {
        let table = self.ztoc.spans();
        let mut missing = Vec::new();
        for span in table.spans_covering(range).map(SpanId) {
            if let Some(part) = range.intersect(&table.uncompressed_range(span))
                && !self.states.is_cached(span)
                && !self.cache.holds(part)
            {
                missing.push((span, part.end));
            }
        }
        missing
    }

    fn note_use(&self, range: ByteRange) {
        for span in self.ztoc.spans().spans_covering(range) {
            if self.states.take_unused(SpanId(span)) {
                self.stats.prefetch_hits.inc();
            }
        }
    }

    /// Waits until the bytes of `range` are in the cache file.
    async fn ensure(self: &Arc<Self>, range: ByteRange, file: ByteRange) -> Result<(), SpanError> {
        let (mut claims, mut waits) = (Vec::new(), Vec::new());
        for (span, end) in self.missing(range) {
            match self.states.want(span) {
                Wanted::Cached => {}
                Wanted::Fetching(progress) => waits.push((progress, end)),
                Wanted::Claimed(claim, progress) => {
                    claims.push(claim);
                    waits.push((progress, end));
                }
            }
        }
        if let (Some(first), Some(last)) = (claims.first(), claims.last()) {
            let ahead = self.walks.lock().step(first.span(), last.span(), file.start);
            claims.extend(self.claim_ahead(last.span(), ahead, file));
            self.engine.demand(self, claims);
        }
        for (progress, end) in waits {
            wait(progress, end).await?;
        }
        Ok(())
    }

    /// Claims up to `count` spans after `last` that hold bytes of `file`, up to the read-ahead limit.
    fn claim_ahead(&self, last: SpanId, count: u32, file: ByteRange) -> Vec<Claim> {
        let table = self.ztoc.spans();
        let mut budget = self.options.read_ahead;
        let mut claims = Vec::new();
        for span in (last.0 + 1..table.len()).take(count as usize).map(SpanId) {
            let cost = table.compressed_range(span).len();
            if cost > budget || file.intersect(&table.uncompressed_range(span)).is_none() {
                break;
            }
            let Some(claim) = self.states.claim(span) else { break };
            budget -= cost;
            claims.push(claim);
        }
        claims
    }

    /// Says that bytes received were wrong. `true`: there is another server to ask.
    pub fn distrust(&self) -> bool {
        self.sources.lock().iter().fold(false, |any, (_, source)| source.distrust() || any)
    }

    /// Starts a ranged request for compressed bytes, at the first source that gives them.
    pub async fn fetch(&self, range: ByteRange) -> Result<RangeBody, SpanError> {
        let sources = self.sources.lock().clone();
        let mut failure = SpanError::NoSource;
        for (name, source) in sources {
            self.stats.fetch_requests.inc();
            match source.fetch(range).await {
                Ok(body) => return Ok(body),
                Err(error) => {
                    tracing::warn!(source = name, %range, error = %chain(&error), "ranged request failed");
                    failure = SpanError::Fetch(error);
                }
            }
        }
        Err(failure)
    }

    /// Checks, inflates and stores one span. Blocking: runs on the inflate pool. On failure the claim comes back with the
    /// reason, so that the caller may fetch again.
    pub fn fill(&self, claim: Claim, compressed: &[u8]) -> Result<(), (Claim, SpanError)> {
        match self.verify(claim.span(), compressed).and_then(|()| self.store(&claim, compressed)) {
            Ok(()) => {
                let span = claim.span();
                claim.complete();
                if let Err(error) = self.mark(span) {
                    tracing::warn!(%error, "pages of a span could not be recorded; they are fetched again after a restart");
                }
                Ok(())
            }
            Err(error) => Err((claim, error)),
        }
    }

    fn verify(&self, span: SpanId, compressed: &[u8]) -> Result<(), SpanError> {
        let wanted = self.ztoc.spans().digest(span).ok_or(SpanError::NoDigest(span))?;
        let found = Digest::of(compressed);
        if found == wanted {
            return Ok(());
        }
        self.stats.span_digest_mismatches.inc();
        Err(SpanError::Digest { span, found, wanted })
    }

    fn store(&self, claim: &Claim, compressed: &[u8]) -> Result<(), SpanError> {
        let mut at = self.ztoc.spans().uncompressed_range(claim.span()).start;
        let mut piece = Vec::with_capacity(PIECE);
        let mut failure = None;
        let mut flush = |piece: &mut Vec<u8>| {
            self.cache.write(at, piece)?;
            at += piece.len() as u64;
            piece.clear();
            claim.filled(at);
            Ok(())
        };
        let extracted = ztoc::extract_span(&self.ztoc, claim.span(), None, compressed, &mut |mut bytes| {
            while !bytes.is_empty() {
                let (now, rest) = bytes.split_at(bytes.len().min(PIECE - piece.len()));
                piece.extend_from_slice(now);
                bytes = rest;
                if piece.len() == PIECE
                    && let Err(error) = flush(&mut piece)
                {
                    failure = Some(error);
                    return Err(io::ErrorKind::Other.into());
                }
            }
            Ok(())
        });
        match failure {
            Some(error) => Err(SpanError::Cache(error)),
            None => extracted
                .map_err(SpanError::Extract)
                .and_then(|()| flush(&mut piece).map_err(SpanError::Cache)),
        }
    }

    /// Sets the page bits of a cached span; the pages it shares with neighbours when those are cached too.
    fn mark(&self, span: SpanId) -> io::Result<()> {
        let mut range = self.ztoc.spans().uncompressed_range(span);
        let (first, last) =
            (range.start / PAGE * PAGE, range.end.next_multiple_of(PAGE).min(self.cache.size()));
        if first < range.start && self.all_cached(ByteRange::new(first, range.start)) {
            range.start = first;
        }
        if range.end < last && self.all_cached(ByteRange::new(range.end, last)) {
            range.end = last;
        }
        self.cache.mark(range)
    }

    fn all_cached(&self, range: ByteRange) -> bool {
        self.ztoc.spans().spans_covering(range).all(|span| self.states.is_cached(SpanId(span)))
    }
}

/// Waits until a span is filled up to `end`.
async fn wait(mut progress: watch::Receiver<Progress>, end: u64) -> Result<(), SpanError> {
    let reached = progress
        .wait_for(|now| match now {
            Progress::Filled(upto) => *upto >= end,
            Progress::Cached | Progress::Failed(_) => true,
        })
        .await;
    match reached.as_deref() {
        Ok(Progress::Failed(error)) => Err(SpanError::Shared(Arc::clone(error))),
        Ok(_) => Ok(()),
        Err(_) => Err(SpanError::Abandoned),
    }
}
