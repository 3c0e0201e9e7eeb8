//! One ranged request over adjacent spans, split as its bytes arrive.
//!
//! Owns the request's share of the engine's accounts ([`Transfer`]) and gives it back on drop, so a cancelled request
//! leaves no trace. A span's check and inflation start as soon as its own bytes are complete, while the rest still
//! arrives. Adjacent spans may share one byte of the compressed layer.
//!
//! Where windows are detached, that of the first span is asked for at the same time as the bytes; each other span of the run
//! takes its window from the span before it, and so waits for that.

use std::sync::Arc;

use soci_core::registry::{Giver, Pieces};
use soci_core::units::{ByteRange, SpanId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

use super::options::UNIT;
use super::queue::Run;
use super::{Class, Engine, address, windows};
use crate::doors;
#[cfg(test)]
use crate::doors::staged::{self, Planted, planted};
use crate::span::state::Claim;
use crate::span::{SpanError, SpanManager, chain};
use crate::telemetry::stats::Stats;

/// Room for downloaded bytes.
type Room = (OwnedSemaphorePermit, OwnedSemaphorePermit);

/// A request's entry in the engine's accounts.
#[derive(Debug)]
pub(super) struct Transfer {
    engine: Engine,
    class: Class,
    layer: usize,
    host: Arc<str>,
    started: Instant,
    waiting: bool,
    remaining: u64,
}

impl Transfer {
    /// Enters a request for the run's bytes.
    pub(super) fn start(engine: Engine, run: &Run, class: Class) -> Self {
        let (layer, remaining) = (address(&run.manager), range_of(run).len());
        let host = run.manager.host();
        let mut work = engine.0.work.lock();
        let lane = work.lane(&host, &engine.0.options);
        if class == Class::Demand {
            lane.demand_waiting += 1;
        } else {
            lane.ahead_requests += 1;
            lane.ahead_remaining += remaining;
            if let Some(rate) = engine.0.options.max_bandwidth {
                work.pace.spend(rate, remaining, Instant::now());
            }
            *work.ahead_layers.entry(layer).or_default() += 1;
        }
        drop(work);
        Self { engine, class, layer, host, started: Instant::now(), waiting: true, remaining }
    }

    /// Room for so many downloaded bytes: of the host's part, then of the whole, so that a host that stands still has no more
    /// than its part.
    async fn room(&self, bytes: u64) -> Option<Room> {
        let (lane, all) = {
            let mut work = self.engine.0.work.lock();
            let options = self.engine.0.options;
            (Arc::clone(&work.lane(&self.host, &options).buffer), options.buffer_units().div_ceil(2))
        };
        let units = (bytes / UNIT).clamp(1, u64::from(all)) as u32;
        Some((permit(&lane, units).await?, permit(&self.engine.0.buffer, units).await?))
    }

    /// The right to have one more reader's request out: one of the layer's, then of the host's.
    async fn slot(&self) -> Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)> {
        let (turns, slots) = {
            let mut work = self.engine.0.work.lock();
            let lane = work.lane(&self.host, &self.engine.0.options);
            (lane.turns(self.layer), Arc::clone(&lane.slots))
        };
        Some((permit(&turns, 1).await?, permit(&slots, 1).await?))
    }

    /// The request is sent now.
    fn sent(&mut self) {
        self.started = Instant::now();
    }

    /// Body bytes arrived.
    fn received(&mut self, bytes: u64) {
        let now = Instant::now();
        let bytes = bytes.min(self.remaining);
        self.remaining -= bytes;
        let mut work = self.engine.0.work.lock();
        let lane = work.lane(&self.host, &self.engine.0.options);
        if self.waiting {
            self.waiting = false;
            lane.link.first_byte(now, now.duration_since(self.started));
            if self.class == Class::Demand {
                lane.demand_waiting -= 1;
                lane.demand_receiving += 1;
            }
        }
        lane.link.received(now, bytes);
        if self.class == Class::Demand {
            lane.note_demand(now);
        } else {
            lane.ahead_remaining -= bytes;
        }
        drop(work);
        self.engine.pump();
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        let mut work = self.engine.0.work.lock();
        let lane = work.lane(&self.host, &self.engine.0.options);
        if self.class == Class::Demand {
            if self.waiting {
                lane.demand_waiting -= 1;
            } else {
                lane.demand_receiving -= 1;
            }
        } else {
            lane.ahead_requests -= 1;
            lane.ahead_remaining -= self.remaining;
        }
        let demand_over = self.class == Class::Demand && lane.demand_receiving == 0;
        if lane.is_idle() {
            lane.link.idle();
        }
        if self.class != Class::Demand
            && let Some(requests) = work.ahead_layers.get_mut(&self.layer)
        {
            *requests -= 1;
            if *requests == 0 {
                work.ahead_layers.remove(&self.layer);
            }
        }
        drop(work);
        if demand_over {
            self.engine.0.demand_over.notify_waiters();
        }
        self.engine.pump();
    }
}

/// Fetches the run. Every claim ends complete or failed.
pub(super) async fn fetch(engine: &Engine, run: Run, mut transfer: Transfer) {
    let class = transfer.class;
    let _slot = match class {
        Class::Demand => transfer.slot().await,
        Class::Prefetch | Class::Background => None,
    };
    transfer.sent();
    let range = range_of(&run);
    let Run { manager, claims } = run;
    let mut before =
        claims.first().and_then(|first| windows::Before::of_first(&manager, first.span(), &engine.0.runtime));
    let mut claims = claims.into_iter();
    let outcome = async {
        let mut split =
            Splitter { body: Pieces::new(manager.fetch(range).await?), at: range.start, last: None };
        for claim in claims.by_ref() {
            let want = manager.ztoc().spans().compressed_range(claim.span());
            let room = match class {
                #[cfg(test)]
                _ if planted(Planted::NoRoom) => None,
                Class::Demand => None,
                Class::Prefetch | Class::Background => transfer.room(want.len()).await,
            };
            match split.take(want, &mut transfer).await {
                Ok(compressed) => {
                    let (told, next) = oneshot::channel();
                    let window = before.replace(windows::Before::Span(next));
                    spawn_fill(
                        engine,
                        &manager,
                        class,
                        Filling { claim, compressed, window, room, giver: split.body.giver(), _told: told },
                    );
                }
                Err(error) => {
                    let error = Arc::new(error);
                    claim.fail(Arc::clone(&error));
                    return Err(SpanError::Shared(error));
                }
            }
        }
        Ok(())
    }
    .await;
    if let Err(error) = outcome {
        engine.0.stats.span_failures.inc();
        if class == Class::Background {
            manager.tally().background_failures.inc();
        }
        let (image, layer) = (manager.tally().image(), manager.cache().layer());
        tracing::warn!(image = &*image, %layer, %range, wanted_by = class.name(), error = %chain(&error), "spans could not be fetched");
        let error = Arc::new(error);
        for claim in claims {
            claim.fail(Arc::clone(&error));
        }
    }
}

/// Tells the simulation of a request that begins.
#[cfg(test)]
pub(super) fn tell(run: &Run, class: Class) {
    if let Some(stage) = staged::stage() {
        let (host, layer) = (&*run.manager.host(), run.manager.cache().layer());
        let (range, spans, demand) = (range_of(run), run.claims.len(), class == Class::Demand);
        stage.begins(&staged::Begins { host, layer, range, spans, demand });
    }
}

fn range_of(run: &Run) -> ByteRange {
    let table = run.manager.ztoc().spans();
    let range = |claim: &Claim| table.compressed_range(claim.span());
    match (run.claims.first(), run.claims.last()) {
        (Some(first), Some(last)) => ByteRange::new(range(first).start, range(last).end),
        _ => ByteRange::new(0, 0),
    }
}

/// A span whose bytes are here.
struct Filling {
    claim: Claim,
    compressed: Vec<u8>,
    /// Where its window comes from.
    window: Option<windows::Before>,
    room: Option<Room>,
    /// Who is to blame when they are wrong.
    giver: Giver,
    /// Dropped when the span is over, one way or the other: the next one of the run waits for that.
    _told: oneshot::Sender<()>,
}

/// Checks, inflates and stores a span on the blocking pool; a wrong digest is fetched again as often as configured.
fn spawn_fill(engine: &Engine, manager: &Arc<SpanManager>, class: Class, filling: Filling) {
    let stats = Arc::clone(&engine.0.stats);
    let (spans, bytes) = match class {
        Class::Demand => (&stats.demand_spans, &stats.demand_bytes),
        Class::Prefetch => (&stats.prefetch_spans, &stats.prefetch_bytes),
        Class::Background => (&stats.background_spans, &stats.background_bytes),
    };
    let (length, tally) = (filling.compressed.len() as u64, manager.tally());
    spans.inc();
    bytes.add(length);
    match class {
        Class::Demand => {
            tally.missed_spans.inc();
            tally.missed.add(length);
        }
        Class::Prefetch => tally.prefetched.add(length),
        Class::Background => {
            tally.background_spans.inc();
            tally.background.add(length);
        }
    }
    let pool = match class {
        Class::Demand => &engine.0.inflate_demand,
        Class::Prefetch | Class::Background => &engine.0.inflate_ahead,
    };
    let (pool, manager, cancelled) = (Arc::clone(pool), Arc::clone(manager), manager.cancelled());
    doors::spawn(&engine.0.runtime, async move {
        let Filling { mut claim, mut compressed, window, room: _room, mut giver, _told } = filling;
        let span = claim.span();
        let window = match windows::window(&manager, span, window).await {
            Ok(window) => window,
            Err(error) => return give_up(&stats, &manager, claim, error),
        };
        let mut retries = manager.options().verification_retries;
        loop {
            let turn = permit(&pool, 1).await;
            if class != Class::Demand && cancelled.is_cancelled() {
                return;
            }
            let plain = manager.ztoc().spans().uncompressed_range(span);
            if class == Class::Prefetch {
                manager.states().set_unused(span);
                manager.comes_ahead(plain);
            }
            let (filler, window) = (Arc::clone(&manager), window.clone());
            let fill = move || filler.fill(claim, window.as_ref(), &compressed);
            let Some(filled) = doors::blocking(fill).await else { return };
            drop(turn); // nobody waits for a processor while this one waits for a registry
            let Err((returned, error)) = filled else { return };
            claim = returned;
            manager.states().take_unused(span);
            if class == Class::Prefetch {
                manager.came_not(plain);
            }
            let again = match error {
                SpanError::Digest { .. } if giver.distrust() => whole(&manager, span).await,
                SpanError::Digest { .. } if retries > 0 => {
                    retries -= 1;
                    whole(&manager, span).await
                }
                other => Err(other),
            };
            match again {
                Ok(again) => (compressed, giver) = again,
                Err(error) => return give_up(&stats, &manager, claim, error),
            }
        }
    });
}

fn give_up(stats: &Stats, manager: &SpanManager, claim: Claim, error: SpanError) {
    #[cfg(test)]
    if planted(Planted::EndlessClaim) {
        return std::mem::forget(claim);
    }
    stats.span_failures.inc();
    let (image, layer) = (manager.tally().image(), manager.cache().layer());
    tracing::error!(image = &*image, %layer, span = %claim.span(), error = %chain(&error), "span is not usable");
    claim.fail(Arc::new(error));
}

/// Fetches the compressed bytes of one span by a request of its own.
async fn whole(manager: &SpanManager, span: SpanId) -> Result<(Vec<u8>, Giver), SpanError> {
    let range = manager.ztoc().spans().compressed_range(span);
    manager.fetch(range).await?.collect_from().await.map_err(SpanError::Fetch)
}

async fn permit(semaphore: &Arc<Semaphore>, count: u32) -> Option<OwnedSemaphorePermit> {
    // The engine's semaphores are never closed.
    Arc::clone(semaphore).acquire_many_owned(count).await.ok()
}

/// The body of a ranged request, cut at span ends.
struct Splitter {
    body: Pieces,
    /// Offset in the compressed layer of the next byte of the body.
    at: u64,
    last: Option<u8>,
}

impl Splitter {
    /// The bytes of `want`, which starts at or one before the end of what was taken last.
    async fn take(&mut self, want: ByteRange, transfer: &mut Transfer) -> Result<Vec<u8>, SpanError> {
        let length = usize::try_from(want.len()).map_err(|_| SpanError::OutOfRange(want))?;
        let mut bytes = Vec::with_capacity(length);
        if want.start + 1 == self.at {
            bytes.extend(self.last);
        }
        if want.start + bytes.len() as u64 != self.at {
            return Err(SpanError::OutOfRange(want));
        }
        let missing = length.saturating_sub(bytes.len());
        let arrived = |chunk: usize| transfer.received(chunk as u64);
        if !self.body.take(missing, &mut bytes, arrived).await.map_err(SpanError::Fetch)? {
            return Err(SpanError::OutOfRange(want));
        }
        self.at += missing as u64;
        self.last = bytes.last().copied();
        Ok(bytes)
    }
}
