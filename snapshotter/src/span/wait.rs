//! How a reader comes by bytes that are not there: which spans it asks for, and what it waits for.
//!
//! Stateless: everything it looks at is the [`SpanManager`]'s. A reader goes on as soon as its own bytes are there, whether
//! a span or a pack has brought them. It waits for bytes that an arriving pack has promised for a short time, and not at all
//! while the pack brings nothing and another reader has waited in vain; everything else is asked for at once.
//!
//! What must always hold: whatever brings bytes, or says that they will not come, wakes the reader after the fact can be
//! seen; the reader subscribes before it looks.

use std::collections::HashMap;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use soci_core::units::{ByteRange, SpanId};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::spare::Parts;
use super::state::{Claim, Progress, Wanted};
use super::{SpanError, SpanManager};
use crate::doors;
#[cfg(test)]
use crate::doors::staged::{self, Planted, planted};

/// How often a reader asks itself for what others have asked for and given up.
const MAX_GIVEN_UP: usize = 3;

/// The pauses of a reader whose bytes cannot be had now.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What is missing of one span.
#[derive(Debug)]
struct Missing {
    span: SpanId,
    /// End of what is wanted of it.
    end: u64,
    /// A pack has promised all of it.
    promised: bool,
}

type Slot = watch::Receiver<Progress>;

impl SpanManager {
    /// Whether all of `range` is there, from spans, from a pack, or in memory.
    pub(super) fn there(&self, range: ByteRange, spare: &Parts) -> bool {
        let table = self.ztoc.spans();
        table.spans_covering(range).map(SpanId).all(|span| {
            self.states.is_cached(span)
                || range
                    .intersect(&table.uncompressed_range(span))
                    .is_none_or(|part| self.cache.holds(part) || spare.have(part))
        })
    }

    /// The spans of which bytes of `range` are missing.
    fn missing(&self, range: ByteRange, spare: &Parts) -> Vec<Missing> {
        let table = self.ztoc.spans();
        let mut missing = Vec::new();
        for span in table.spans_covering(range).map(SpanId).filter(|span| !self.states.is_cached(*span)) {
            let Some(part) = range.intersect(&table.uncompressed_range(span)) else { continue };
            let absent = if spare.have(part) { Vec::new() } else { self.cache.absent(part) };
            if let Some(last) = absent.last() {
                missing.push(Missing { span, end: last.end, promised: self.is_promised(&absent) });
            }
        }
        missing
    }

    /// Waits until the bytes of `range` are in the cache file, but for those of the result.
    pub(super) async fn ensure(
        self: &Arc<Self>,
        range: ByteRange,
        file: ByteRange,
    ) -> Result<Parts, SpanError> {
        let mut arrived = self.arrived.subscribe();
        let is_patient = !self.impatient.load(Ordering::Relaxed);
        let mut patience = Instant::now().checked_add(self.options.pack_patience).filter(|_| is_patient);
        let (mut slots, mut given_up) = (HashMap::new(), 0);
        let (mut pause, retry_until) = (FIRST_PAUSE, Instant::now().checked_add(self.options.retry_for));
        loop {
            let spare = self.spare(range);
            let missing = self.missing(range, &spare);
            doors::between();
            #[cfg(test)]
            if planted(Planted::LostWakeUp) {
                arrived.mark_unchanged();
            }
            let patient = |one: &&Missing| patience.is_some() && one.promised;
            let asked = missing.iter().filter(|one| !patient(one)).map(|one| one.span);
            if missing.is_empty() {
                return Ok(spare);
            }
            if self.ask(asked, &mut slots, file) {
                continue;
            }
            let first =
                missing.iter().find_map(|one| Some((one.span, one.end, slots.get(&one.span)?.clone())));
            let until = patience.filter(|_| missing.iter().any(|one| patient(&one)));
            doors::between();
            tokio::select! {
                // In this order, so that a seed of the simulation has one course.
                biased;
                // The sender is ours, so it is there as long as we are.
                _ = arrived.changed() => {}
                () = at(until) => {
                    patience = None;
                    self.impatient.store(true, Ordering::Relaxed);
                }
                (span, outcome) = slot(first) => {
                    if outcome.is_err() {
                        slots.remove(&span);
                    }
                    if !self.missing(range, &self.spare(range)).iter().any(|one| one.span == span) {
                        continue;
                    }
                    // It was in memory alone, and had to go: it is asked for again.
                    slots.remove(&span);
                    match outcome {
                        // So is what somebody else has asked for who is gone.
                        Err(error) if error.is_abandoned() && given_up < MAX_GIVEN_UP => given_up += 1,
                        Err(error) if error.may_heal() && retry_until.is_none_or(|end| Instant::now() + pause < end) => {
                            self.stats.reads_retried.inc();
                            #[cfg(test)]
                            staged::pauses(pause);
                            sleep_until(Instant::now() + pause).await;
                            pause = (pause * 2).min(LONGEST_PAUSE);
                        }
                        outcome => outcome?,
                    }
                }
            }
        }
    }

    /// Demands the spans that have no slot yet, and finds their slots. `true` when one became cached in the meantime.
    fn ask(
        self: &Arc<Self>,
        spans: impl Iterator<Item = SpanId>,
        slots: &mut HashMap<SpanId, Slot>,
        file: ByteRange,
    ) -> bool {
        let (mut claims, mut cached) = (Vec::new(), false);
        for span in spans {
            if slots.contains_key(&span) {
                continue;
            }
            match self.states.want(span) {
                Wanted::Cached => cached = true,
                Wanted::Fetching(slot) => _ = slots.insert(span, slot),
                Wanted::Claimed(claim, slot) => {
                    claims.push(claim);
                    slots.insert(span, slot);
                }
            }
        }
        if let (Some(first), Some(last)) = (claims.first(), claims.last()) {
            let ahead = self.walks.lock().step(first.span(), last.span(), file.start);
            claims.extend(self.claim_ahead(last.span(), ahead, file));
            self.engine.demand(self, claims);
        }
        cached
    }

    /// Claims up to `count` spans after `last` that hold bytes of `file`, up to the read-ahead limit; but none of which a
    /// pack has brought or promised what the file has in it.
    fn claim_ahead(&self, last: SpanId, count: u32, file: ByteRange) -> Vec<Claim> {
        let table = self.ztoc.spans();
        let mut budget = self.options.read_ahead;
        let mut claims = Vec::new();
        for span in (last.0 + 1..table.len()).take(count as usize).map(SpanId) {
            let cost = table.compressed_range(span).len();
            let Some(part) = file.intersect(&table.uncompressed_range(span)) else { break };
            if cost > budget {
                break;
            }
            if !self.states.is_cached(span) && self.is_promised(&self.cache.absent(part)) {
                continue;
            }
            let Some(claim) = self.states.claim(span) else { break };
            budget -= cost;
            claims.push(claim);
        }
        claims
    }
}

async fn at(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => pending().await,
    }
}

/// Waits until a span is filled up to what is wanted of it.
async fn slot(wanted: Option<(SpanId, u64, Slot)>) -> (SpanId, Result<(), SpanError>) {
    let Some((span, end, mut progress)) = wanted else { return pending().await };
    let reached = progress
        .wait_for(|now| match now {
            Progress::Filled(upto) => *upto >= end,
            Progress::Cached | Progress::Failed(_) => true,
        })
        .await;
    let outcome = match reached.as_deref() {
        Ok(Progress::Failed(error)) => Err(SpanError::Shared(Arc::clone(error))),
        Ok(_) => Ok(()),
        Err(_) => Err(SpanError::Abandoned),
    };
    (span, outcome)
}
