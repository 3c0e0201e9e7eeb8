//! The trace being written: accesses in time order, each with its layer and phase.
//!
//! Owns the trace file and the accesses that are not settled yet. An access is written only when no event can come any
//! more that would put it into another phase; those after the end are left out.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use soci_core::trace::{Access, End, Phase, TraceError, TraceWriter};

use super::{Recorded, Verdict};
use crate::capture::{Capture, RawAccess};
use crate::resolve::Resolver;

/// Accesses that are taken at once, before those are written that can be.
const MAX_BATCH: usize = 1 << 14;

/// How far a recording is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Time since the start.
    pub elapsed: Duration,
    /// Is the workload ready?
    pub ready: bool,
    /// Accesses so far.
    pub accesses: u64,
    /// Image files touched so far.
    pub files: u64,
    /// Bytes read so far.
    pub bytes: u64,
}

/// A recorder that is killed loses the accesses of this time at most.
const FLUSH_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Log {
    flushed: Instant,
    started: Instant,
    ready: Option<Instant>,
    writer: TraceWriter,
    pending: VecDeque<RawAccess>,
    files: HashSet<Arc<[u8]>>,
    bytes: u64,
    outside: u64,
}

impl Log {
    pub(super) fn new(started: Instant, writer: TraceWriter) -> Self {
        let (pending, files) = (VecDeque::new(), HashSet::new());
        let flushed = Instant::now();
        Self { flushed, started, ready: None, writer, pending, files, bytes: 0, outside: 0 }
    }

    pub(super) fn set_ready(&mut self, ready: Option<Instant>) {
        self.ready = ready;
    }

    /// Takes what the capture has, but no more than can be kept, waiting `patience` for the first; true when that was
    /// all.
    pub(super) fn take(&mut self, capture: &mut dyn Capture, patience: Duration) -> bool {
        let mut next = capture.next(patience);
        for _ in 0..MAX_BATCH {
            let Some(access) = next else { return true };
            self.pending.push_back(access);
            next = capture.next(Duration::ZERO);
        }
        self.pending.extend(next);
        false
    }

    /// Writes what was asked for no later than `limit`.
    pub(super) fn write_until(&mut self, limit: Instant, resolver: &mut Resolver) -> Result<(), TraceError> {
        // Several threads serve: neighbours in the queue may have changed places.
        self.pending.make_contiguous().sort_by_key(|access| access.at);
        while self.pending.front().is_some_and(|access| access.at <= limit) {
            let Some(raw) = self.pending.pop_front() else { break };
            let Some(origin) = resolver.origin(&raw.path) else {
                self.outside += 1;
                continue;
            };
            let phase = if raw.at < self.started {
                Phase::Setup
            } else if self.ready.is_some_and(|ready| raw.at > ready) {
                Phase::Tail
            } else {
                Phase::Start
            };
            self.files.insert(Arc::clone(&raw.path));
            self.bytes += raw.len;
            self.writer.access(&Access {
                t_ns: nanoseconds(self.started, raw.at),
                phase,
                kind: raw.kind,
                path: raw.path,
                layer: origin.layer(),
                offset: raw.offset,
                len: raw.len,
                process: raw.process,
                wait_ns: raw.wait.unwrap_or_default().as_nanos() as u64,
            })?;
        }
        if self.flushed.elapsed() >= FLUSH_EVERY {
            self.flushed = Instant::now();
            self.writer.flush()?;
        }
        Ok(())
    }

    /// Forgets what was asked for after `limit`; was there anything?
    pub(super) fn forget_later(&mut self, limit: Instant) -> bool {
        let before = self.pending.len();
        self.pending.retain(|access| access.at <= limit);
        self.pending.len() < before
    }

    /// Ends the trace of a recording that has lost this many accesses.
    pub(super) fn seal(
        self,
        verdict: &Verdict,
        lost: u64,
        capture: &dyn Capture,
        of_directory: bool,
    ) -> Result<Recorded, TraceError> {
        let mut outside = capture.outside();
        outside.unknown += self.outside;
        if of_directory {
            // A command of the machine reads the machine's files, beside those of the directory: nothing is strange about it.
            outside.elsewhere += std::mem::take(&mut outside.unknown);
        }
        let end = End {
            dropped: lost,
            outcome: verdict.outcome,
            ready_ns: self.ready.map(|ready| nanoseconds(self.started, ready)),
            ended_ns: nanoseconds(self.started, verdict.ended),
            exit_code: verdict.exit.map(|exit| i32::from(exit.code)),
            outside: Some(outside),
            links: capture.links(),
        };
        let accesses = self.writer.accesses();
        self.writer.finish(&end)?;
        Ok(Recorded { end, accesses, signal: verdict.signal })
    }

    pub(super) fn progress(&self, now: Instant) -> Progress {
        Progress {
            elapsed: now.saturating_duration_since(self.started),
            ready: self.ready.is_some(),
            accesses: self.writer.accesses(),
            files: self.files.len() as u64,
            bytes: self.bytes,
        }
    }
}

fn nanoseconds(from: Instant, to: Instant) -> u64 {
    to.saturating_duration_since(from).as_nanos() as u64
}
