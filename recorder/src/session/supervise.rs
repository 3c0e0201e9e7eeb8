//! A running workload and the rules that say when it is ready and when to stop watching it.
//!
//! [`Supervisor`] owns the workload, the threads that copy its output and those that try its ports; all of them are
//! over when it is dropped or finished. It is asked again and again by whoever has something else to do meanwhile.

use std::io::Write;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use soci_core::trace::Outcome;

use super::{STOP_GRACE, SessionError, output};
use crate::until::{self, Rule, Watch};
use crate::workload::{Exit, InitCommand, Spec, Stdio, Workload};

/// When a workload is ready, and when it is over.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// When it is ready; none means at its end.
    pub until: Vec<Rule>,
    /// How long to go on after that.
    pub tail: Duration,
    /// Give up when it is not ready by then.
    pub timeout: Option<Duration>,
}

/// Where the workload's standard output and error go.
pub type Output = (Box<dyn Write + Send>, Box<dyn Write + Send>);

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

/// Something that a thread has seen.
#[derive(Debug, Clone, Copy)]
enum Event {
    Ready(Instant),
    Exit(Exit),
}

/// A workload under watch.
#[derive(Debug)]
pub struct Supervisor {
    _watch: Watch,
    workload: Workload,
    output: Vec<JoinHandle<()>>,
    events: Receiver<Event>,
    rules: Rules,
    ready: Option<Instant>,
}

impl Supervisor {
    /// Starts the workload. Without `output` its standard output and error are ours, and log rules never come true.
    pub fn start(
        spec: &Spec,
        init: &InitCommand,
        output: Option<Output>,
        rules: Rules,
    ) -> Result<Self, SessionError> {
        if let Some(rule) = until::already_true(&rules.until, spec.net) {
            return Err(SessionError::AlreadyTrue(rule.clone()));
        }
        let (sender, events) = channel();
        let stdio = if output.is_some() { Stdio::Piped } else { Stdio::Inherit };
        let tell_exit = sender.clone();
        let mut workload = Workload::start(
            spec,
            init,
            stdio,
            || (),
            move |exit| {
                let _ = tell_exit.send(Event::Exit(exit)); // nobody waits for it once the watch is over
            },
        )?;
        let mut threads = Vec::new();
        if let (Some((out, err)), Some((from_out, from_err))) = (output, workload.take_output()) {
            let patterns = until::log_patterns(&rules.until);
            let copy = output::copy(from_out, out, patterns.clone(), tell_ready(&sender));
            threads.push(copy.map_err(SessionError::Watch)?);
            let copy = output::copy(from_err, err, patterns, tell_ready(&sender));
            threads.push(copy.map_err(SessionError::Watch)?);
        }
        let watch = Watch::start(&rules.until, spec.net, workload.pid(), tell_ready(&sender));
        let watch = watch.map_err(SessionError::Watch)?;
        Ok(Self { _watch: watch, workload, output: threads, events, rules, ready: None })
    }

    /// When the command was executed.
    pub fn started(&self) -> Instant {
        self.workload.started()
    }

    /// When it became ready.
    pub fn ready(&self) -> Option<Instant> {
        self.ready
    }

    /// Has one of the rules, the timeout or a signal ended it by now?
    pub fn poll(&mut self, signals: &Receiver<Signal>) -> Option<Verdict> {
        let exit = self.take_events();
        if exit.is_some() {
            // Its last words may still be on their way.
            self.join_output();
            self.take_events();
        }
        let start = self.started();
        let now = exit.map_or_else(Instant::now, |exit| exit.at);
        if let Some(due) = until::deadline(&self.rules.until, start).filter(|due| *due <= now) {
            self.note_ready(due);
        }
        let over = |outcome, ended, exit| Some(Verdict { outcome, ended, exit, signal: None });
        if let Some(exit) = exit {
            let was_ready = self.ready.is_some();
            self.ready = match self.ready {
                Some(ready) => Some(ready.min(exit.at)),
                None => until::ends_on_exit(&self.rules.until).then_some(exit.at),
            };
            return over(if was_ready { Outcome::Ready } else { Outcome::Exited }, exit.at, Some(exit));
        }
        for signal in signals.try_iter() {
            if self.ready.is_none() && until::ends_on_signal(&self.rules.until) {
                self.note_ready(now);
                continue;
            }
            let exit = self.workload.ask(signal, STOP_GRACE);
            return Some(Verdict { outcome: Outcome::Interrupted, ended: now, exit, signal: Some(signal) });
        }
        let tail_end = self.ready.and_then(|ready| ready.checked_add(self.rules.tail));
        if let Some(ended) = tail_end.filter(|end| *end <= now) {
            return over(Outcome::Ready, ended, None);
        }
        let limit = self.rules.timeout.and_then(|timeout| start.checked_add(timeout));
        if let Some(ended) = limit.filter(|end| *end <= now && self.ready.is_none()) {
            return over(Outcome::TimedOut, ended, None);
        }
        None
    }

    /// Ends the workload if it still runs, and everything that watches it.
    pub fn finish(mut self) -> Exit {
        let exit = self.workload.stop(STOP_GRACE);
        self.join_output();
        exit
    }

    fn take_events(&mut self) -> Option<Exit> {
        let mut exit = None;
        while let Ok(event) = self.events.try_recv() {
            match event {
                Event::Ready(at) => self.note_ready(at),
                Event::Exit(ended) => exit = Some(ended),
            }
        }
        exit
    }

    fn note_ready(&mut self, at: Instant) {
        self.ready = Some(self.ready.map_or(at, |ready| ready.min(at)));
    }

    fn join_output(&mut self) {
        for thread in self.output.drain(..) {
            let _ = thread.join(); // a panic of that thread has been reported by itself
        }
    }
}

/// Passes the moment of readiness on.
fn tell_ready(sender: &Sender<Event>) -> impl Fn(Instant) + Clone + Send + 'static {
    let sender = sender.clone();
    move |at| {
        let _ = sender.send(Event::Ready(at)); // nobody waits for it once the watch is over
    }
}
