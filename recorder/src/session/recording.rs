//! The one loop of all recordings: take what the capture has, look at what is recorded, write, until it is over.
//!
//! # What must always hold
//! * The backlog is emptied whatever its size: what the capture had at the end is in the trace, or counted as lost.
//! * The account is taken when the recording is over. What a workload does while it is being ended is not of it, and what
//!   is lost of that makes nothing incomplete; it is taken all the same, so that nothing waits behind it.

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use soci_core::trace::TraceError;

use super::log::{Log, Progress};
use super::{Recorded, SETTLE, TICK, Verdict};
use crate::capture::Capture;
use crate::resolve::Resolver;

/// What is recorded: it runs, and ends by itself or is ended. Nothing here waits.
pub(super) trait Target {
    /// From when times count.
    fn started(&self) -> Instant;

    /// When it became ready.
    fn ready(&self) -> Option<Instant>;

    /// Is the recording over?
    fn poll(&mut self, signals: &Receiver<Signal>) -> Option<Verdict>;

    /// Goes on ending what has to end with the recording: true when that is done. An exit code that comes of the
    /// verdict's signal is entered there; a further signal means at once.
    fn stop(&mut self, verdict: &mut Verdict, signals: &Receiver<Signal>) -> bool;
}

/// Records `target` until it is over, and seals the trace.
pub(super) fn run(
    mut log: Log,
    capture: &mut dyn Capture,
    resolver: &mut Resolver,
    target: &mut dyn Target,
    signals: &Receiver<Signal>,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Recorded, TraceError> {
    let mut verdict = loop {
        log.take(capture, TICK);
        let verdict = target.poll(signals);
        log.set_ready(target.ready());
        if let Some(verdict) = verdict {
            break verdict;
        }
        let now = Instant::now();
        log.write_until(now.checked_sub(SETTLE).unwrap_or_else(|| target.started()), resolver)?;
        progress(&log.progress(now));
    };
    let lost = capture.dropped();
    capture.settle();
    loop {
        let stopped = target.stop(&mut verdict, signals);
        let empty = log.take(capture, if stopped { Duration::ZERO } else { TICK });
        log.write_until(verdict.ended, resolver)?;
        // Something that goes on after the recording may have more and more.
        let behind = log.forget_later(verdict.ended + SETTLE);
        if stopped && (empty || behind) {
            return log.seal(&verdict, lost, capture, resolver.is_of_directory());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    use soci_core::trace::{AccessKind, Header, Outcome, Process, Tail, TraceReader, TraceWriter};

    use super::*;
    use crate::capture::RawAccess;

    /// A capture with a backlog; `lost` goes up with every look.
    #[derive(Debug)]
    struct Backlog {
        accesses: VecDeque<RawAccess>,
        lost: u64,
    }

    impl Capture for Backlog {
        fn engine(&self) -> &'static str {
            "backlog"
        }
        fn warm(&self) -> Option<bool> {
            None
        }
        fn measures_waits(&self) -> bool {
            false
        }
        fn partial(&self) -> Option<String> {
            None
        }
        fn next(&mut self, _patience: Duration) -> Option<RawAccess> {
            self.accesses.pop_front()
        }
        fn dropped(&self) -> u64 {
            self.lost
        }
    }

    /// A target that is over at once, and loses more while it ends.
    struct Over {
        started: Instant,
        ended: Instant,
        steps: u32,
    }

    impl Target for Over {
        fn started(&self) -> Instant {
            self.started
        }
        fn ready(&self) -> Option<Instant> {
            Some(self.ended)
        }
        fn poll(&mut self, _signals: &Receiver<Signal>) -> Option<Verdict> {
            Some(Verdict { outcome: Outcome::Ready, ended: self.ended, exit: None, signal: None })
        }
        fn stop(&mut self, _verdict: &mut Verdict, _signals: &Receiver<Signal>) -> bool {
            self.steps += 1;
            self.steps > 3
        }
    }

    fn access(at: Instant, number: u64) -> RawAccess {
        RawAccess {
            at,
            kind: AccessKind::Read,
            path: Arc::from(&b"f"[..]),
            offset: number,
            len: 1,
            process: Arc::new(Process { pid: 1, comm: Arc::from(&b"p"[..]) }),
            wait: None,
        }
    }

    fn record(
        accesses: impl Iterator<Item = RawAccess>,
        started: Instant,
        ended: Instant,
        lost: u64,
    ) -> (u64, u64) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.trace");
        let header = Header {
            image: "dir:/".into(),
            manifest: None,
            layers: Vec::new(),
            engine: "backlog".into(),
            argv: Vec::new(),
            started_at: String::new(),
            warm: None,
            waits: None,
            partial: false,
        };
        let log = Log::new(started, TraceWriter::create(&path, &header).unwrap());
        let mut capture = Backlog { accesses: accesses.collect(), lost };
        let mut target = Over { started, ended, steps: 0 };
        let (_sender, signals) = channel();
        let mut resolver = Resolver::of_directory();
        run(log, &mut capture, &mut resolver, &mut target, &signals, &mut |_| ()).unwrap();
        let mut reader = TraceReader::open(&path).unwrap();
        let count = reader.by_ref().map(Result::unwrap).count() as u64;
        let Some(Tail::Sealed(end)) = reader.tail() else { panic!("sealed") };
        (count, end.dropped)
    }

    #[test]
    fn a_backlog_above_every_batch_is_recorded_whole_and_what_comes_later_is_not() {
        let started = Instant::now();
        let ended = started + Duration::from_secs(1);
        for count in [1, 16_384, 16_385, 16_386, 100_000] {
            let of_it = (0..count).map(|number| access(started + Duration::from_micros(number), number));
            let later =
                (0..40_000).map(|number| access(ended + Duration::from_millis(1 + number), count + number));
            assert_eq!(record(of_it.chain(later), started, ended, 0), (count, 0));
        }
    }

    #[test]
    fn losses_by_the_end_are_counted() {
        let started = Instant::now();
        assert_eq!(record([].into_iter(), started, started + Duration::from_secs(1), 7), (0, 7));
    }
}
