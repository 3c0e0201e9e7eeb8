//! A running workload and the rules that say when it is ready and when to stop watching it.
//!
//! [`Supervisor`] owns the workload, the threads that copy its output and those that try its ports; all of them are
//! over when it is dropped or finished. It is asked again and again by whoever has something else to do meanwhile, and
//! never waits.

use std::io::Write;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use soci_core::trace::Outcome;

use super::course::{Course, Gone, Rules, Verdict};
use super::recording::Target;
use super::{STOP_GRACE, SessionError, URGENT_GRACE, output};
use crate::until::{self, Notify, Watch};
use crate::workload::{Exit, InitCommand, Isolation, Spec, Stdio, Workload};

/// How long the last output of a workload that has ended may take to be copied.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// How often the end of a workload is looked for while nothing else is to be done.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Where the workload's standard output and error go.
pub type Output = (Box<dyn Write + Send>, Box<dyn Write + Send>);

/// Something that a thread has seen.
#[derive(Debug, Clone, Copy)]
enum Event {
    True(usize, Instant),
    Exit(Exit),
}

/// A workload under watch.
#[derive(Debug)]
pub struct Supervisor {
    // Before the watch: a command that runs in the workload ends with it at the latest.
    workload: Workload,
    watch: Watch,
    output: Vec<JoinHandle<()>>,
    events: Receiver<Event>,
    course: Course,
    /// Does a signal without a handler do nothing to it, as to process 1 of a namespace?
    is_first: bool,
    exit: Option<Exit>,
    /// When it is killed, if it has been asked to end.
    killed_at: Option<Instant>,
}

impl Supervisor {
    /// Starts the workload. Without `output` its standard output and error are ours, and log rules never come true. `go` is
    /// called with its process id, just before it runs.
    pub fn start(
        spec: &Spec,
        init: &InitCommand,
        output: Option<Output>,
        rules: &Rules,
        go: impl FnOnce(u32),
    ) -> Result<Self, SessionError> {
        if let Some(rule) = until::already_true(&rules.until, spec.net) {
            return Err(SessionError::AlreadyTrue(rule.clone()));
        }
        let mut spec = spec.clone();
        let notify = rules.until.wants_notify().then(|| Notify::new(&mut spec)).transpose();
        let notify = notify.map_err(SessionError::Watch)?;
        let (sender, events) = channel();
        let stdio = if output.is_some() { Stdio::Piped } else { Stdio::Inherit };
        let tell_exit = sender.clone();
        let mut workload = Workload::start(&spec, init, stdio, go, move |exit| {
            let _ = tell_exit.send(Event::Exit(exit)); // nobody waits for it once the watch is over
        })?;
        let mut threads = Vec::new();
        if let (Some((out, err)), Some((from_out, from_err))) = (output, workload.take_output()) {
            let patterns = rules.until.logs();
            let copy = output::copy(from_out, out, patterns.clone(), tell(&sender));
            threads.push(copy.map_err(SessionError::Watch)?);
            let copy = output::copy(from_err, err, patterns, tell(&sender));
            threads.push(copy.map_err(SessionError::Watch)?);
        }
        let watch = Watch::start(&rules.until, &spec, workload.pid(), notify, tell(&sender));
        let watch = watch.map_err(SessionError::Watch)?;
        let course = Course::new(rules, workload.started());
        let is_first = spec.isolation == Isolation::Container;
        Ok(Self { workload, watch, output: threads, events, course, is_first, exit: None, killed_at: None })
    }

    /// When the command was executed.
    pub fn started(&self) -> Instant {
        self.course.started()
    }

    /// When it became ready.
    pub fn ready(&self) -> Option<Instant> {
        self.course.ready()
    }

    /// Has one of the rules, the timeout or a signal ended it by now?
    pub fn poll(&mut self, signals: &Receiver<Signal>) -> Option<Verdict> {
        self.take_events();
        if self.exit.is_some() {
            if !self.has_spoken(LAST_WORDS) {
                // Its last words may still be on their way; who is in a hurry does not wait for them.
                return self.course.interrupted(signals);
            }
            self.take_events();
        }
        let gone = self.exit.map(|exit| Gone { at: exit.at, code: Some(exit.code) });
        self.course.verdict(gone, signals)
    }

    /// Ends the workload if it still runs, and everything that watches it. `stuck` is called when it is still there this
    /// long after it was killed: what it waits for may be for the caller to give up.
    pub fn finish(
        mut self,
        verdict: &mut Verdict,
        signals: &Receiver<Signal>,
        patience: Duration,
        stuck: impl FnOnce(),
    ) {
        let mut stuck = Some(stuck);
        while !self.stop(verdict, signals) {
            let is_stuck = self.exit.is_none() && self.killed_at.is_some_and(|at| at.elapsed() > patience);
            if let Some(stuck) = stuck.take_if(|_| is_stuck) {
                stuck();
            }
            sleep(LOOK_EVERY);
        }
    }

    fn take_events(&mut self) {
        for event in self.events.try_iter() {
            match event {
                Event::True(rule, at) => self.course.note(rule, at),
                Event::Exit(ended) => self.exit = Some(ended),
            }
        }
    }

    /// Has all that it said been copied, or is it not worth waiting for any longer?
    fn has_spoken(&self, limit: Duration) -> bool {
        self.output.iter().all(JoinHandle::is_finished)
            || self.exit.is_some_and(|exit| exit.at.elapsed() > limit)
    }

    /// Asks it to end, in the way that it listens to; says when it is to be killed.
    fn ask(&self, verdict: &Verdict) -> Instant {
        let now = Instant::now();
        let signals = [verdict.signal, Some(Signal::TERM)].into_iter().flatten();
        let heard = |signal: &Signal| !self.is_first || self.workload.handles(*signal);
        let Some(signal) = signals.into_iter().find(heard) else { return now };
        self.workload.signal(signal);
        now + if verdict.is_urgent() { URGENT_GRACE } else { STOP_GRACE }
    }
}

impl Target for Supervisor {
    fn started(&self) -> Instant {
        self.started()
    }

    fn ready(&self) -> Option<Instant> {
        self.ready()
    }

    fn poll(&mut self, signals: &Receiver<Signal>) -> Option<Verdict> {
        self.poll(signals)
    }

    fn stop(&mut self, verdict: &mut Verdict, signals: &Receiver<Signal>) -> bool {
        self.watch.stop();
        self.take_events();
        if let Some(exit) = self.exit {
            let by_signal = verdict.outcome == Outcome::Interrupted
                && self.killed_at.is_some_and(|killed_at| exit.at < killed_at);
            if by_signal {
                verdict.exit = Some(exit);
            }
            let limit = if verdict.is_urgent() { URGENT_GRACE } else { LAST_WORDS };
            return self.has_spoken(limit) || signals.try_recv().is_ok();
        }
        let killed_at = match self.killed_at {
            Some(_) if signals.try_recv().is_ok() => Instant::now(),
            Some(killed_at) => killed_at,
            None => self.ask(verdict),
        };
        self.killed_at = Some(killed_at);
        if Instant::now() >= killed_at {
            self.workload.signal(Signal::KILL);
        }
        false
    }
}

/// Passes on that a rule has come true.
fn tell(sender: &Sender<Event>) -> impl Fn(usize, Instant) + Clone + Send + 'static {
    let sender = sender.clone();
    move |rule, at| {
        let _ = sender.send(Event::True(rule, at)); // nobody waits for it once the watch is over
    }
}
