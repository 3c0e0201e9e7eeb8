//! Which bytes of a layer nobody has read for long, and giving their disk back.
//!
//! State: [`Uses`], the round of each span's last use, owned by the layer's [`SpanManager`]. (What the kernel has in its own cache it
//! does not ask for again: such a span ages here, too.) What must always hold: a span is given back by whoever has its claim, so
//! nobody fills it meanwhile; waiters are woken and look again.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use soci_core::units::{ByteRange, SpanId};

use super::SpanManager;
use super::room::Round;
use super::state::Claim;

/// Bytes that are given back at once, about: writers of the layer wait for it.
const AT_ONCE: u64 = 64 << 20;

/// The round of each span's last use; 0: before this process.
#[derive(Debug)]
pub(super) struct Uses(Box<[AtomicU32]>);

impl Uses {
    pub(super) fn new(spans: u32) -> Self {
        Self((0..spans).map(|_| AtomicU32::new(0)).collect())
    }

    pub(super) fn note(&self, span: SpanId, round: Round) {
        if let Some(last) = self.0.get(span.0 as usize) {
            last.store(round, Ordering::Relaxed);
        }
    }

    fn last(&self, span: SpanId) -> Round {
        self.0.get(span.0 as usize).map_or(0, |last| last.load(Ordering::Relaxed))
    }
}

impl SpanManager {
    /// Tells for each span that has bytes on disk when it was used last, and how many bytes it has there.
    pub fn uses(&self, tell: &mut dyn FnMut(Round, u64)) {
        let spans = self.ztoc.spans();
        for span in (0..spans.len()).map(SpanId) {
            let bytes = self.cache.present_in(spans.uncompressed_range(span));
            if bytes > 0 {
                tell(self.uses.last(span), bytes);
            }
        }
    }

    /// Gives back about `bytes` of what was last used in the round `until` or before, and is not being fetched; the bytes that this gave.
    /// Blocking.
    ///
    /// # Errors
    /// As [`crate::cache::SpanCache::release`].
    pub fn give_back(&self, until: Round, bytes: u64) -> io::Result<u64> {
        let spans = self.ztoc.spans();
        let (mut given, mut run) = (0, Vec::new());
        let mut range = ByteRange::default();
        for span in (0..spans.len()).map(SpanId) {
            if given + range.len() >= bytes {
                break;
            }
            let part = spans.uncompressed_range(span);
            let is_cold = self.uses.last(span) <= until && self.cache.present_in(part) > 0;
            let claim = if is_cold { self.states.claim_to_release(span) } else { None };
            if claim.is_none() || range.len() >= AT_ONCE {
                given += self.release(std::mem::take(&mut run), std::mem::take(&mut range))?;
            }
            if let Some(claim) = claim {
                range = if run.is_empty() { part } else { ByteRange::new(range.start, part.end) };
                run.push(claim);
            }
        }
        Ok(given + self.release(run, range)?)
    }

    /// Gives back the bytes of adjacent spans.
    fn release(&self, claims: Vec<Claim>, range: ByteRange) -> io::Result<u64> {
        if claims.is_empty() {
            return Ok(0);
        }
        let released = self.cache.release(range);
        // Nobody has read it, and now nobody can.
        self.ahead.take(range);
        for claim in claims {
            claim.let_go();
        }
        let released = released?;
        if released.packed {
            // What a pack has brought is compared with its span only while it is here: the kernel must not keep it alone.
            self.forgotten.send_replace(());
        }
        Ok(released.bytes)
    }
}
