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
use crate::until::{self, Ends, Notify, Until, Watch};
use crate::workload::{Exit, InitCommand, Spec, Stdio, Workload};

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
    ends: Ends,
    timeout: Option<Duration>,
}

impl Supervisor {
    /// Starts the workload. Without `output` its standard output and error are ours, and log rules never come true. `go` is
    /// called with its process id, just before it runs.
    pub fn start(
        spec: &Spec,
        init: &InitCommand,
        output: Option<Output>,
        rules: Rules,
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
        let ends = Ends::new(&rules.until, rules.tail, workload.started());
        Ok(Self { workload, watch, output: threads, events, ends, timeout: rules.timeout })
    }

    /// When the command was executed.
    pub fn started(&self) -> Instant {
        self.workload.started()
    }

    /// When it became ready.
    pub fn ready(&self) -> Option<Instant> {
        self.ends.ready()
    }

    /// Has one of the rules, the timeout or a signal ended it by now?
    pub fn poll(&mut self, signals: &Receiver<Signal>) -> Option<Verdict> {
        let exit = self.take_events();
        if exit.is_some() {
            // Its last words may still be on their way.
            self.join_output();
            self.take_events();
        }
        let now = exit.map_or_else(Instant::now, |exit| exit.at);
        self.ends.reach(now);
        let over = |outcome, ended, exit| Some(Verdict { outcome, ended, exit, signal: None });
        if let Some(exit) = exit {
            let was_ready = self.ready().is_some();
            self.ends.exited(exit.at);
            return over(if was_ready { Outcome::Ready } else { Outcome::Exited }, exit.at, Some(exit));
        }
        for signal in signals.try_iter() {
            if self.ends.signalled(now) {
                continue;
            }
            let exit = self.workload.ask(signal, STOP_GRACE);
            return Some(Verdict { outcome: Outcome::Interrupted, ended: now, exit, signal: Some(signal) });
        }
        if let Some(ended) = self.ends.end().filter(|end| *end <= now) {
            return over(Outcome::Ready, ended, None);
        }
        let limit = self.timeout.and_then(|timeout| self.started().checked_add(timeout));
        if let Some(ended) = limit.filter(|end| *end <= now && self.ready().is_none()) {
            return over(Outcome::TimedOut, ended, None);
        }
        None
    }

    /// Ends the workload if it still runs, and everything that watches it.
    pub fn finish(mut self) -> Exit {
        self.watch.stop();
        let exit = self.workload.stop(STOP_GRACE);
        self.join_output();
        exit
    }

    fn take_events(&mut self) -> Option<Exit> {
        let mut exit = None;
        while let Ok(event) = self.events.try_recv() {
            match event {
                Event::True(rule, at) => self.ends.note(rule, at),
                Event::Exit(ended) => exit = Some(ended),
            }
        }
        exit
    }

    fn join_output(&mut self) {
        for thread in self.output.drain(..) {
            let _ = thread.join(); // a panic of that thread has been reported by itself
        }
    }
}

/// Passes on that a rule has come true.
fn tell(sender: &Sender<Event>) -> impl Fn(usize, Instant) + Clone + Send + 'static {
    let sender = sender.clone();
    move |rule, at| {
        let _ = sender.send(Event::True(rule, at)); // nobody waits for it once the watch is over
    }
}
