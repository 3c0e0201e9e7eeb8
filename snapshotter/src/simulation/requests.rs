//! Requests of the engine as the network sees them: who goes first, and how much lies about.
//!
//! [`Requests`] owns a list of what the engine has begun and what has come of it. What must hold: no prefetch begins at a host while
//! a reader's bytes arrive from there; what was downloaded ahead of readers and not inflated yet is bounded.

use std::sync::Arc;
use std::time::Duration;

use soci_core::digest::Digest;
use soci_core::units::{ByteRange, SpanId};
use tokio::time::Instant;

use crate::doors::staged::Begins;
use crate::span::SpanManager;

/// As in the engine: a body of which nothing has come for so long holds nothing back.
const STANDS_STILL: Duration = Duration::from_millis(250);
/// A piece of a body at most.
pub(super) const PIECE: u64 = 16 << 10;
/// Rounding of the room in the engine, for each span.
const ROUNDING: u64 = 1 << 10;

/// What the engine has begun, the newest last.
#[derive(Debug)]
pub(super) struct Requests {
    buffer: u64,
    begun: u64,
    runs: Vec<Run>,
}

#[derive(Debug)]
struct Run {
    number: u64,
    host: String,
    layer: Digest,
    range: ByteRange,
    demand: bool,
    /// Its body is open.
    is_open: bool,
    /// It has been asked for.
    is_asked: bool,
    last: Option<Instant>,
    received: u64,
}

impl Requests {
    pub(super) const fn new(buffer: u64) -> Self {
        Self { buffer, begun: 0, runs: Vec::new() }
    }

    /// The engine begins a request. What is wrong with that.
    pub(super) fn begins(&mut self, request: &Begins<'_>, now: Instant) -> Option<String> {
        let arrives = |run: &Run| {
            run.demand
                && run.is_open
                && run.host == request.host
                && run.last.is_some_and(|last| now < last + STANDS_STILL)
        };
        let (waits, ahead) = (
            self.runs
                .iter()
                .any(|run| run.host == request.host && run.demand && run.is_open && run.last.is_none()),
            self.runs.iter().any(|run| {
                run.host == request.host && !run.demand && run.is_open && run.received < run.range.len()
            }),
        );
        let first = self.runs.iter().find(|run| arrives(run));
        let wrong = first.filter(|_| !request.demand).map(|run| {
            format!("prefetch of {} begins while a reader's {} arrives", request.range, run.range)
        });
        let wrong = wrong.or_else(|| {
            let too_much = !request.demand && waits && (ahead || request.spans > 1);
            too_much.then(|| {
                format!("more than a span of prefetch ({}) begins while a reader waits", request.range)
            })
        });
        self.begun += 1;
        let number = self.begun;
        // Neighbours may share a byte. What shares more was given up.
        self.runs.retain(|run| {
            run.layer != request.layer
                || run.range.intersect(&request.range).is_none_or(|part| part.len() < 2)
        });
        self.runs.push(Run {
            number,
            host: request.host.to_owned(),
            layer: request.layer,
            range: request.range,
            demand: request.demand,
            is_open: false,
            is_asked: false,
            last: None,
            received: 0,
        });
        wrong
    }

    /// A server is asked for a range: which request of the engine that is, if it is the first time.
    pub(super) fn asked(&mut self, layer: &Digest, range: ByteRange) -> Option<u64> {
        let run = self.runs.iter_mut().rev().find(|run| run.layer == *layer && run.range == range)?;
        if run.is_asked {
            return None;
        }
        (run.is_asked, run.is_open) = (true, true);
        Some(run.number)
    }

    /// Bytes of a body arrive.
    pub(super) fn received(&mut self, number: u64, bytes: u64, now: Instant) {
        if let Some(run) = self.runs.iter_mut().find(|run| run.number == number) {
            run.received += bytes;
            run.last = Some(now);
        }
    }

    /// A body is over.
    pub(super) fn closed(&mut self, number: u64) {
        if let Some(run) = self.runs.iter_mut().find(|run| run.number == number) {
            run.is_open = false;
        }
    }

    /// Whether more was downloaded ahead of readers, and is not inflated, than there is room for.
    pub(super) fn too_much(&self, open: &[Arc<SpanManager>]) -> Option<String> {
        let (mut waiting, mut spans, mut largest) = (0, 0, 0);
        for manager in open {
            let table = manager.ztoc().spans();
            for run in self.runs.iter().filter(|run| !run.demand && run.layer == manager.cache().layer()) {
                for span in (0..table.len()).map(SpanId) {
                    let part = table.compressed_range(span);
                    let is_here = part.start >= run.range.start && part.end <= run.range.start + run.received;
                    let states = manager.states();
                    if is_here && !states.is_cached(span) && !states.is_unrequested(span) {
                        waiting += part.len();
                        spans += 1;
                        largest = part.len().max(largest);
                    }
                }
            }
        }
        let bodies = self.runs.iter().filter(|run| run.is_open && !run.demand).count() as u64;
        let room = self.buffer.max(largest) + spans * ROUNDING + (bodies + 1) * PIECE;
        (waiting > room).then(|| format!("{waiting} bytes wait for the inflater, {room} may"))
    }
}
