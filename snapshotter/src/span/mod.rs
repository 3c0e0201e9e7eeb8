//! Spans of one layer: reads of its plain tar, answered from the cache file or after the spans were fetched.
//!
//! State: the [`SpanManager`] owns the cache ([`crate::cache`]) and the state of each span
//! ([`state`]) of one layer and zTOC; all mounts of the layer, of any image, share it.
//!
//! What must always hold: every byte that a read returns was inflated from compressed bytes whose sha256 is the zTOC's
//! digest of that span, or came in a block of a working-set pack (`packed`) and is compared when its span arrives. A
//! reader never fetches: it asks the engine and waits for its own bytes (`wait`), with a time limit. A failure is not
//! remembered: the next read tries again.

#![deny(clippy::disallowed_methods)]

mod ahead;
mod cold;
mod demand;
mod error;
mod packed;
pub mod room;
mod sources;
pub mod spare;
pub mod state;
mod wait;
mod walk;

#[cfg(test)]
mod pack_tests;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use soci_core::coverage::Coverage;
use soci_core::digest::Digest;
use soci_core::registry::{Giver, RangeBody, RangeFetcher};
use soci_core::units::{ByteRange, SpanId};
use soci_core::ztoc::{self, Window, Ztoc};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::away::away;
use crate::cache::bitmap::Identity;
use crate::cache::{SpanCache, is_for_space};
use crate::doors;
#[cfg(test)]
use crate::doors::staged::{Planted, planted};
use crate::telemetry::stats::Stats;
use crate::telemetry::tally::Tally;
use ahead::Ahead;
use cold::Uses;
pub use demand::Demand;
pub use error::SpanError;
pub use packed::PackBond;
pub(crate) use soci_core::error::chain;
use sources::Sources;
use spare::{LayerNumber, Parts};
use state::{Claim, SpanStates};
use walk::Walks;

/// Plain bytes are written to the cache, and told to waiting readers, in pieces of this size.
const PIECE: usize = 128 << 10;

/// Settings of all span managers.
#[derive(Clone, Copy, Debug)]
pub struct SpanOptions {
    /// How long a read waits for its bytes before it fails.
    pub read_timeout: Duration,
    /// For how long of that a read asks again when it gets an error that may heal. Less than the whole, so that the reader's
    /// error is the registry's and not only that time is over.
    pub retry_for: Duration,
    /// How often a span is fetched again when its digest is wrong.
    pub verification_retries: u32,
    /// Compressed bytes that a reader walking through a file has fetched ahead of it, at most. 0 switches it off.
    pub read_ahead: u64,
    /// How long a read waits for bytes that a pack has promised before it asks for their spans.
    pub pack_patience: Duration,
}

impl Default for SpanOptions {
    fn default() -> Self {
        Self {
            read_timeout: Duration::from_mins(5),
            retry_for: Duration::from_secs(270),
            verification_retries: 0,
            read_ahead: 4 << 20,
            pack_patience: Duration::from_millis(500),
        }
    }
}

/// Managers of this process are told apart by numbers.
static NEXT_NUMBER: AtomicU64 = AtomicU64::new(0);

/// The spans of one layer.
#[derive(Debug)]
pub struct SpanManager {
    number: LayerNumber,
    ztoc: Ztoc,
    cache: Arc<SpanCache>,
    states: Arc<SpanStates>,
    sources: Sources,
    walks: Mutex<Walks>,
    uses: Uses,
    /// What came ahead of readers and was not read.
    ahead: Ahead,
    tally: Arc<Tally>,
    /// What packs that are arriving will bring.
    promised: Mutex<Coverage>,
    /// A reader has waited for a pack in vain, and nothing has come since: readers ask at once.
    impatient: AtomicBool,
    /// Changes when bytes have come that a reader may wait for other than at a span's slot, or will not come.
    arrived: watch::Sender<()>,
    /// Changes when what packs have brought is forgotten.
    forgotten: watch::Sender<()>,
    /// The packs that have filled the layer.
    bonds: Mutex<Vec<Arc<PackBond>>>,
    interest: Mutex<(usize, CancellationToken)>,
    engine: Arc<dyn Demand>,
    stats: Arc<Stats>,
    options: SpanOptions,
}

impl Drop for SpanManager {
    /// The cache is closed by a thread that may wait for the disk. Whoever opens it next waits for its lock.
    fn drop(&mut self) {
        let cache = Arc::clone(&self.cache);
        away(move || {
            if let Err(error) = cache.close() {
                tracing::warn!(%error, "span cache was not closed cleanly; it is dropped if the machine restarts");
            }
        });
    }
}

/// Keeps fetching for a layer alive; when the last one is dropped, the layer's fetches are cancelled.
#[derive(Debug)]
pub struct Interest(Arc<SpanManager>);

impl Drop for Interest {
    fn drop(&mut self) {
        let mut interest = self.0.interest.lock();
        interest.0 -= 1;
        if interest.0 == 0 {
            interest.1.cancel();
            // Before anybody may use the layer again: what is queued for them stays.
            self.0.engine.forget(&self.0);
        }
    }
}

impl SpanManager {
    /// The spans of `ztoc`, with what `cache` holds of them already.
    pub fn new(
        ztoc: Ztoc,
        cache: SpanCache,
        engine: Arc<dyn Demand>,
        stats: Arc<Stats>,
        options: SpanOptions,
    ) -> Arc<Self> {
        let states = Arc::new(SpanStates::new(ztoc.spans().len()));
        for span in (0..ztoc.spans().len()).map(SpanId) {
            if cache.checked(ztoc.spans().uncompressed_range(span)) {
                states.set_cached(span);
            }
        }
        let (uses, ahead) = (Uses::new(ztoc.spans().len()), Ahead::new(ztoc.uncompressed_size()));
        Arc::new(Self {
            number: NEXT_NUMBER.fetch_add(1, Ordering::Relaxed),
            ztoc,
            cache: Arc::new(cache),
            states,
            sources: Sources::default(),
            walks: Mutex::default(),
            uses,
            ahead,
            tally: Arc::default(),
            promised: Mutex::default(),
            impatient: AtomicBool::new(false),
            arrived: watch::Sender::default(),
            forgotten: watch::Sender::default(),
            bonds: Mutex::default(),
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

    /// What became of the layer's bytes.
    pub const fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    /// The settings.
    pub const fn options(&self) -> &SpanOptions {
        &self.options
    }

    /// The cache file.
    pub fn cache(&self) -> &SpanCache {
        &self.cache
    }

    /// The registry host that is asked first for the layer's bytes.
    pub(crate) fn host(&self) -> Arc<str> {
        self.sources.host()
    }

    /// Adds a place (`HOST/NAME`) to fetch from, with that of the windows if they are detached.
    pub fn add_source(&self, name: &str, layer: RangeFetcher, windows: Option<RangeFetcher>) {
        self.sources.add(name, layer, windows);
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

    /// Reads the plain bytes `range` if all of them are here; `false` when some are not.
    pub fn read_cached(&self, range: ByteRange, into: &mut [u8]) -> Result<bool, SpanError> {
        self.check(range)?;
        let holes = self.cache.holes();
        let spare = self.spare(range);
        if !self.there(range, &spare) {
            return Ok(false);
        }
        self.note_use(range);
        self.copy(range, &spare, into)?;
        Ok(self.cache.holes() == holes)
    }

    /// Reads the plain bytes `range`, waiting for those that are not there. `file` is the content that the reader walks
    /// through: nothing outside it is fetched ahead.
    pub async fn read(self: &Arc<Self>, range: ByteRange, file: ByteRange) -> Result<Vec<u8>, SpanError> {
        self.check(range)?;
        let started = Instant::now();
        let limit = self.options.read_timeout;
        let length = usize::try_from(range.len()).map_err(|_| SpanError::OutOfRange(range))?;
        let waited_for = self.cache.absent(range);
        let outcome = tokio::time::timeout(limit, async {
            loop {
                let holes = self.cache.holes();
                let spare = self.ensure(range, file).await?;
                doors::between();
                let late = waited_for.iter().map(|part| self.ahead.take(*part)).sum();
                self.note_wait(started, late);
                self.note_use(range);
                // They were written a moment ago, as a rule: the kernel has them in memory.
                let mut bytes = vec![0; length];
                self.copy(range, &spare, &mut bytes)?;
                // Else it may have been given back meanwhile.
                let is_whole = self.cache.holes() == holes;
                #[cfg(test)]
                let is_whole = is_whole || planted(Planted::HoleBelieved);
                if is_whole {
                    return Ok(bytes);
                }
            }
        });
        let outcome = outcome.await;
        let waited = started.elapsed();
        self.stats.read_wait_us.add(waited.as_micros() as u64);
        self.stats.demand_waits.observe(waited);
        outcome.unwrap_or(Err(SpanError::TimedOut(limit)))
    }

    /// Copies bytes that are here.
    fn copy(&self, range: ByteRange, spare: &Parts, into: &mut [u8]) -> Result<(), SpanError> {
        if !spare.have(range) {
            self.cache.read(range.start, into).map_err(SpanError::Cache)?;
        }
        spare.overlay(range.start, into);
        Ok(())
    }

    /// What of a range is in memory, because it could not be written.
    fn spare(&self, range: ByteRange) -> Parts {
        self.engine.spare().of(self.number, range)
    }

    fn check(&self, range: ByteRange) -> Result<(), SpanError> {
        if range.end > self.cache.size() { Err(SpanError::OutOfRange(range)) } else { Ok(()) }
    }

    fn note_use(&self, range: ByteRange) {
        self.note_hit(range);
        let round = self.engine.room().round();
        for span in self.ztoc.spans().spans_covering(range).map(SpanId) {
            self.uses.note(span, round);
            if self.states.take_unused(span) {
                self.stats.prefetch_hits.inc();
            }
        }
        if self.cache.any_packed(range) {
            self.stats.pack_hits.inc();
        }
    }

    /// Starts a ranged request for compressed bytes, at the first source that gives them.
    pub async fn fetch(&self, range: ByteRange) -> Result<RangeBody, SpanError> {
        self.sources.fetch(range, &self.stats).await
    }

    /// Fetches a window, as it is stored. Its length was limited when the table was opened.
    pub async fn fetch_window(&self, range: ByteRange) -> Result<(Vec<u8>, Giver), SpanError> {
        self.sources.windows(range, &self.stats).await
    }

    /// Checks, inflates and stores one span. `window` is needed where the zTOC's are detached. Blocking: runs on the inflate pool. On failure the claim comes back with the
    /// reason, so that the caller may fetch again.
    pub fn fill(
        &self,
        claim: Claim,
        window: Option<&Window>,
        compressed: &[u8],
    ) -> Result<(), (Claim, SpanError)> {
        match self.verify(claim.span(), compressed).and_then(|()| self.store(&claim, window, compressed)) {
            Ok(()) => {
                self.uses.note(claim.span(), self.engine.room().round());
                doors::between();
                claim.complete();
                Ok(())
            }
            Err(SpanError::Cache(error)) if self.keep_spare(claim.span(), window, compressed) => {
                self.stats.spans_not_written.inc();
                tracing::warn!(layer = %self.cache.layer(), span = %claim.span(), %error, "a span could not be written; it is served from memory");
                claim.let_go();
                // Also who has looked before and now asks again, since the span is unrequested.
                self.arrived.send_replace(());
                Ok(())
            }
            Err(error) => Err((claim, error)),
        }
    }

    /// Keeps a span in memory that could not be written; whether it is there.
    fn keep_spare(&self, span: SpanId, window: Option<&Window>, compressed: &[u8]) -> bool {
        let range = self.ztoc.spans().uncompressed_range(span);
        let mut plain = Vec::new();
        let extracted = ztoc::extract_span(&self.ztoc, span, window, compressed, &mut |bytes| {
            plain.extend_from_slice(bytes);
            Ok(())
        });
        extracted.is_ok() && self.engine.spare().keep(self.number, range, plain)
    }

    fn verify(&self, span: SpanId, compressed: &[u8]) -> Result<(), SpanError> {
        let wanted = self.ztoc.spans().digest(span).ok_or(SpanError::NoDigest(span))?;
        let found = Digest::of(compressed);
        #[cfg(test)]
        let found = if planted(Planted::NoDigest) { wanted } else { found };
        if found == wanted {
            return Ok(());
        }
        self.stats.span_digest_mismatches.inc();
        Err(SpanError::Digest { span, found, wanted })
    }

    fn store(&self, claim: &Claim, window: Option<&Window>, compressed: &[u8]) -> Result<(), SpanError> {
        let mut at = self.ztoc.spans().uncompressed_range(claim.span()).start;
        let mut piece = Vec::with_capacity(PIECE);
        let (mut failure, mut differs) = (None, None);
        let mut flush = |piece: &mut Vec<u8>| {
            let stored = self.cache.store(at, piece, &mut |offset| _ = differs.get_or_insert(offset));
            self.note_written(piece.len() as u64, &stored);
            stored?;
            at += piece.len() as u64;
            piece.clear();
            doors::between();
            claim.filled(at);
            doors::between();
            self.wake_patient();
            Ok(())
        };
        let extracted = ztoc::extract_span(&self.ztoc, claim.span(), window, compressed, &mut |mut bytes| {
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
        let stored = match failure {
            Some(error) => Err(SpanError::Cache(error)),
            None => extracted
                .map_err(SpanError::Extract)
                .and_then(|()| flush(&mut piece).map_err(SpanError::Cache)),
        };
        if let Some(offset) = differs {
            self.pack_differs(claim.span(), offset);
        }
        stored
    }

    /// Tells whoever makes room on the disk.
    fn note_written<T>(&self, bytes: u64, written: &io::Result<T>) {
        let room = self.engine.room();
        match written {
            Ok(_) => room.wrote(bytes),
            Err(error) if is_for_space(error) => room.refused(),
            // A disk that fails otherwise does not work better with less on it.
            Err(_) => {}
        }
    }
}
