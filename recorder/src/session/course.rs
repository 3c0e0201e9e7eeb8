//! When a recording is over: rules, the time-out, signals and the workload's own end, put together. Pure but for the
//! signals that it takes; told of everything else.

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use soci_core::trace::Outcome;

use crate::until::{Ends, Until};
use crate::workload::Exit;

/// When a workload is ready, and when it is over.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// When it is ready; none means at its end.
    pub until: Until,
    /// How long to go on after that, where the rule does not say it itself.
    pub tail: Duration,
    /// Give up when it is not ready by then.
    pub timeout: Option<Duration>,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Why it is over.
    pub outcome: Outcome,
    /// When it was over.
    pub ended: Instant,
    /// The workload's own end, if it had ended by then or because of the signal.
    pub exit: Option<Exit>,
    /// The signal that stopped it.
    pub signal: Option<Signal>,
}

impl Verdict {
    /// Does the user wait for the end, who has asked for it or given up?
    pub(super) fn is_urgent(&self) -> bool {
        matches!(self.outcome, Outcome::Interrupted | Outcome::TimedOut)
    }
}

/// The end of what is watched.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gone {
    /// When.
    pub(super) at: Instant,
    /// Its exit code, if that is known.
    pub(super) code: Option<u8>,
}

/// One recording on its way to its end.
#[derive(Debug)]
pub(super) struct Course {
    ends: Ends,
    started: Instant,
    timeout: Option<Duration>,
}

impl Course {
    /// Nothing has come true yet.
    pub(super) fn new(rules: &Rules, started: Instant) -> Self {
        Self { ends: Ends::new(&rules.until, rules.tail, started), started, timeout: rules.timeout }
    }

    /// From when times count.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// When the workload became ready.
    pub(super) fn ready(&self) -> Option<Instant> {
        self.ends.ready()
    }

    /// A rule has come true.
    pub(super) fn note(&mut self, rule: usize, at: Instant) {
        self.ends.note(rule, at);
    }

    /// Is it over? `gone` is the end of what is watched, if that has ended and everything that it said is known.
    pub(super) fn verdict(&mut self, gone: Option<Gone>, signals: &Receiver<Signal>) -> Option<Verdict> {
        let now = gone.map_or_else(Instant::now, |gone| gone.at);
        self.ends.reach(now);
        let over = |outcome, ended, exit| Some(Verdict { outcome, ended, exit, signal: None });
        if let Some(Gone { at, code }) = gone {
            let was_ready = self.ready().is_some();
            self.ends.exited(at);
            let exit = code.map(|code| Exit { code, at });
            return over(if was_ready { Outcome::Ready } else { Outcome::Exited }, at, exit);
        }
        if let Some(verdict) = self.interrupted(signals) {
            return Some(verdict);
        }
        if let Some(ended) = self.ends.end().filter(|end| *end <= now) {
            return over(Outcome::Ready, ended, None);
        }
        let limit = self.timeout.and_then(|timeout| self.started.checked_add(timeout));
        let late = limit.filter(|end| *end <= now && self.ready().is_none());
        late.and_then(|ended| over(Outcome::TimedOut, ended, None))
    }

    /// Has a signal come that is the wish to stop?
    pub(super) fn interrupted(&mut self, signals: &Receiver<Signal>) -> Option<Verdict> {
        let now = Instant::now();
        let signal = signals.try_iter().find(|_| !self.ends.signalled(now))?;
        Some(Verdict { outcome: Outcome::Interrupted, ended: now, exit: None, signal: Some(signal) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    fn course(until: &str, timeout: Option<u64>) -> Course {
        let until = if until.is_empty() { Until::default() } else { until.parse().unwrap() };
        let rules = Rules { until, tail: Duration::ZERO, timeout: timeout.map(Duration::from_secs) };
        // Long ago: every moment of these tests has passed.
        Course::new(&rules, Instant::now().checked_sub(Duration::from_mins(1)).unwrap())
    }

    #[test]
    fn each_way_to_end_has_its_outcome_and_its_moment() {
        let (sender, signals) = channel();
        let mut waiting = course("log:x", None);
        assert_eq!(waiting.verdict(None, &signals), None);
        let ready = waiting.started() + Duration::from_secs(3);
        waiting.note(0, ready);
        let verdict = waiting.verdict(None, &signals).unwrap();
        assert_eq!((verdict.outcome, verdict.ended, verdict.is_urgent()), (Outcome::Ready, ready, false));

        let mut late = course("log:x", Some(5));
        let verdict = late.verdict(None, &signals).unwrap();
        let limit = late.started() + Duration::from_secs(5);
        assert_eq!((verdict.outcome, verdict.ended, verdict.is_urgent()), (Outcome::TimedOut, limit, true));

        let mut ended = course("log:x", Some(90));
        let at = ended.started() + Duration::from_secs(7);
        let verdict = ended.verdict(Some(Gone { at, code: Some(9) }), &signals).unwrap();
        assert_eq!((verdict.outcome, verdict.exit), (Outcome::Exited, Some(Exit { code: 9, at })));

        sender.send(Signal::INT).unwrap();
        let verdict = course("log:x", None).verdict(None, &signals).unwrap();
        assert_eq!((verdict.outcome, verdict.signal), (Outcome::Interrupted, Some(Signal::INT)));
        assert!(verdict.is_urgent());
    }

    #[test]
    fn a_signal_that_is_a_rule_marks_the_moment_and_the_next_one_stops() {
        let (sender, signals) = channel();
        let mut marked = course("signal+60s", None);
        sender.send(Signal::INT).unwrap();
        assert_eq!(marked.verdict(None, &signals), None);
        assert!(marked.ready().is_some());
        sender.send(Signal::TERM).unwrap();
        let verdict = marked.verdict(None, &signals).unwrap();
        assert_eq!((verdict.outcome, verdict.signal), (Outcome::Interrupted, Some(Signal::TERM)));
    }
}
