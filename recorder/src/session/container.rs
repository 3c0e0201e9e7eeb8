//! One recording of a container that somebody else runs: what it reads, from the runtime's first step or from now on.
//!
//! [`record_started`] runs a command of the host and records the container that comes of it; [`record_attached`] takes
//! one that runs. A container is watched and not owned: it goes on after the recording, unless the user wants it stopped.
//! The command is ours, and over when the recording is.
//!
//! The container's end is that of its first process, which a descriptor of that process tells; the exit code is
//! containerd's to say.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use soci_core::trace::{Header, Outcome, TraceWriter};

use super::arrival::{arrival, chain, other};
use super::container_error::ContainerSessionError;
use super::host_command::HostCommand;
use super::{Log, Output, Progress, Recorded, Rules, SETTLE, STOP_GRACE, TICK, Verdict, wall_clock};
use crate::capture::{Capture, Ebpf};
use crate::container::attach::Attached;
use crate::container::{Container, News, Wanted};
use crate::resolve::Resolver;
use crate::until::{Condition, Ends, Watch};
use crate::workload::{Exit, InitCommand, Isolation, Net, Spec};

/// How long the exit code and the last output may take after the end.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(2);

/// What to record and for how long.
pub struct ContainerOptions<'a> {
    /// Where the trace of a container goes.
    pub trace: &'a dyn Fn(&Container) -> PathBuf,
    /// When the recording is over.
    pub rules: Rules,
    /// What containerd tells.
    pub news: &'a Receiver<News>,
    /// Signals that came to the recorder.
    pub signals: &'a Receiver<Signal>,
    /// End the container with the recording.
    pub stop: bool,
}

impl std::fmt::Debug for ContainerOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContainerOptions").field("rules", &self.rules).finish_non_exhaustive()
    }
}

/// A command that starts a container.
pub struct Starter<'a> {
    /// The program that becomes the command and ties it to its parent.
    pub launcher: &'a InitCommand,
    /// The command.
    pub words: &'a [OsString],
    /// Where its output goes.
    pub output: Output,
    /// Which of its containers is meant.
    pub wanted: &'a Wanted,
}

impl std::fmt::Debug for Starter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Starter").field("words", &self.words).finish_non_exhaustive()
    }
}

/// A recording that is over.
#[derive(Debug)]
pub struct RecordedContainer {
    /// How it ended.
    pub recorded: Recorded,
    /// Whose it is.
    pub container: Container,
    /// Where the trace is.
    pub trace: PathBuf,
    /// Other containers that came meanwhile, and why they are not in it.
    pub others: Vec<String>,
    /// Does the container still run?
    pub runs: bool,
}

/// Runs a command and records the container that comes of it. `capture` watches a [`crate::capture::Scope::Tree`].
pub fn record_started(
    capture: &mut Ebpf,
    starter: Starter<'_>,
    options: &ContainerOptions<'_>,
    progress: &mut dyn FnMut(&Progress),
) -> Result<RecordedContainer, ContainerSessionError> {
    check(&options.rules, true)?;
    let (tell, events) = channel();
    let patterns = options.rules.until.logs();
    let command =
        HostCommand::start(starter.launcher, starter.words, starter.output, patterns, telling(&tell));
    let mut command = command.map_err(ContainerSessionError::Command)?;
    let mut others = Vec::new();
    let container = arrival(capture, &mut command, starter.wanted, options, &mut others)?;
    capture.follow_new(container.pid);
    identify(capture, &container)?;
    let watched = Watched::new(container, Some(command), options.rules.clone(), others, (tell, events));
    watched.record(capture, options, progress, None)
}

/// Records a container that runs, as `attached` tells its processes. `capture` watches the scope that goes with it.
pub fn record_attached(
    capture: &mut Ebpf,
    container: Container,
    attached: &Attached,
    options: &ContainerOptions<'_>,
    progress: &mut dyn FnMut(&Progress),
) -> Result<RecordedContainer, ContainerSessionError> {
    check(&options.rules, false)?;
    identify(capture, &container)?;
    match attached {
        Attached::Cgroup { .. } => {}
        Attached::Container(pid) => capture.follow_running(&[*pid], true)?,
        Attached::Processes(pids) => capture.follow_running(pids, false)?,
    }
    let watched = Watched::new(container, None, options.rules.clone(), Vec::new(), channel());
    watched.record(capture, options, progress, Some(Instant::now()))
}

fn identify(capture: &mut Ebpf, container: &Container) -> Result<(), ContainerSessionError> {
    let topmost_first: Vec<PathBuf> = container.dirs.iter().rev().cloned().collect();
    Ok(capture.identify(&topmost_first, &container.view(), container.upper.as_deref())?)
}

/// Refuses rules that cannot come true.
fn check(rules: &Rules, has_command: bool) -> Result<(), ContainerSessionError> {
    for rule in rules.until.rules() {
        let why = match rule.when {
            Condition::Log(_) if !has_command => {
                "the output of a container that runs already goes elsewhere; use tcp:, http: or exec:"
            }
            Condition::Notify => {
                "nothing can be put into somebody else's container; use log:, tcp:, http: or exec:"
            }
            _ => continue,
        };
        return Err(ContainerSessionError::Rule { rule: rule.clone(), why });
    }
    Ok(())
}

/// A rule has come true.
type Told = (usize, Instant);

fn telling(sender: &Sender<Told>) -> impl Fn(usize, Instant) + Clone + Send + 'static {
    let sender = sender.clone();
    move |rule, at| {
        let _ = sender.send((rule, at)); // nobody waits for it once the watch is over
    }
}

/// A container under watch.
struct Watched {
    container: Container,
    /// None when it had ended before it could be opened.
    pidfd: Option<OwnedFd>,
    command: Option<HostCommand>,
    rules: Rules,
    others: Vec<String>,
    tell: Sender<Told>,
    events: Receiver<Told>,
    gone: Option<Instant>,
    code: Option<u8>,
}

impl Watched {
    fn new(
        container: Container,
        command: Option<HostCommand>,
        rules: Rules,
        others: Vec<String>,
        (tell, events): (Sender<Told>, Receiver<Told>),
    ) -> Self {
        let pid = i32::try_from(container.pid).ok().and_then(Pid::from_raw);
        let pidfd = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        Self { container, pidfd, command, rules, others, tell, events, gone: None, code: None }
    }

    /// Records. `started` is the moment from which times count, when that is not the execution of the command.
    fn record(
        mut self,
        capture: &mut Ebpf,
        options: &ContainerOptions<'_>,
        progress: &mut dyn FnMut(&Progress),
        started: Option<Instant>,
    ) -> Result<RecordedContainer, ContainerSessionError> {
        let attached = started.is_some();
        let mut resolver = Resolver::new(&self.container.dirs).map_err(ContainerSessionError::Layers)?;
        let started = match started {
            Some(at) => at,
            None => self.execution(capture, options)?,
        };
        let trace = (options.trace)(&self.container);
        let header = Header {
            image: self.container.image.clone(),
            manifest: Some(self.container.manifest),
            layers: self.container.layers.clone(),
            engine: capture.engine().into(),
            argv: self.container.process.args.clone(),
            started_at: wall_clock(started),
            // Of a new container every need is seen, whatever is cached; what has been mapped before is not.
            warm: attached.then_some(true),
        };
        let mut log = Log::new(started, TraceWriter::create(&trace, &header)?);
        let mut ends = Ends::new(&self.rules.until, self.rules.tail, started);
        let watch = self.watch()?;
        let verdict = loop {
            log.take(capture, TICK);
            let verdict = self.poll(&mut ends, started, options);
            log.set_ready(ends.ready());
            if let Some(verdict) = verdict {
                break verdict;
            }
            let now = Instant::now();
            log.write_until(now.checked_sub(SETTLE).unwrap_or(started), &mut resolver)?;
            progress(&log.progress(now));
        };
        drop(watch);
        log.take(capture, Duration::ZERO);
        log.write_until(verdict.ended, &mut resolver)?;
        let recorded = log.seal(&verdict, capture)?;
        let runs = self.finish(options);
        let Self { container, others, .. } = self;
        Ok(RecordedContainer { recorded, container, trace, others, runs })
    }

    /// Waits until the container's command is executed; a container that ends before has begun when it was found.
    fn execution(
        &mut self,
        capture: &mut Ebpf,
        options: &ContainerOptions<'_>,
    ) -> Result<Instant, ContainerSessionError> {
        let found = Instant::now();
        loop {
            if let Some(at) = capture.executed() {
                return Ok(at);
            }
            let gone = self.has_ended();
            capture.look(TICK / 4);
            self.take_news(options);
            if gone {
                return Ok(capture.executed().unwrap_or(found));
            }
            if let Ok(signal) = options.signals.try_recv() {
                if let Some(command) = &mut self.command {
                    command.signal(signal);
                }
                self.finish(options);
                return Err(ContainerSessionError::NoStart("stopped"));
            }
            if self.rules.timeout.is_some_and(|limit| found.elapsed() > limit) {
                self.finish(options);
                return Err(ContainerSessionError::NoStart("out of time"));
            }
        }
    }

    /// The threads for rules that need one, unless the container has ended.
    fn watch(&self) -> Result<Option<Watch>, ContainerSessionError> {
        let spec = Spec {
            isolation: Isolation::Container,
            rootfs: "/".into(),
            process: self.container.process.clone(),
            user: self.container.user.clone(),
            net: Net::None, // whatever it is, it is entered
            hostname: String::new(),
            binds: Vec::new(),
            cgroup: None,
        };
        let watch = Watch::start(&self.rules.until, &spec, self.container.pid, None, telling(&self.tell));
        match watch {
            Ok(watch) => Ok(Some(watch)),
            Err(_) if self.has_ended() => Ok(None),
            Err(error) => Err(ContainerSessionError::Watch(error)),
        }
    }

    /// Has one of the rules, the timeout, a signal or its end ended it by now?
    fn poll(&mut self, ends: &mut Ends, started: Instant, options: &ContainerOptions<'_>) -> Option<Verdict> {
        self.take_news(options);
        if self.gone.is_none() && self.has_ended() {
            self.gone = Some(Instant::now());
            if let Some(command) = &mut self.command {
                // Its last words may still be on their way.
                command.wait_for(LAST_WORDS);
                command.join_output(LAST_WORDS);
            }
        }
        for (rule, at) in self.events.try_iter() {
            ends.note(rule, at);
        }
        let now = self.gone.unwrap_or_else(Instant::now);
        ends.reach(now);
        let over = |outcome, exit| Some(Verdict { outcome, ended: now, exit, signal: None });
        if let Some(gone) = self.gone {
            if self.code.is_none() && gone.elapsed() < LAST_WORDS {
                return None;
            }
            let was_ready = ends.ready().is_some();
            ends.exited(gone);
            let exit = self.code.map(|code| Exit { code, at: gone });
            return over(if was_ready { Outcome::Ready } else { Outcome::Exited }, exit);
        }
        for signal in options.signals.try_iter() {
            if ends.signalled(now) {
                continue;
            }
            if let Some(command) = &mut self.command {
                command.signal(signal);
            }
            return Some(Verdict {
                outcome: Outcome::Interrupted,
                ended: now,
                exit: None,
                signal: Some(signal),
            });
        }
        if let Some(ended) = ends.end().filter(|end| *end <= now) {
            return Some(Verdict { outcome: Outcome::Ready, ended, exit: None, signal: None });
        }
        let limit = self.rules.timeout.and_then(|timeout| started.checked_add(timeout));
        let late = limit.filter(|end| *end <= now && ends.ready().is_none());
        late.map(|ended| Verdict { outcome: Outcome::TimedOut, ended, exit: None, signal: None })
    }

    fn take_news(&mut self, options: &ContainerOptions<'_>) {
        for news in options.news.try_iter() {
            match news {
                News::Created { id, container } => self.others.push(match *container {
                    Ok(container) => other(&container),
                    Err(error) => format!("{id} ({})", chain(&error)),
                }),
                News::Exited { namespace, id, code } => {
                    if (&namespace, &id) == (&self.container.namespace, &self.container.id) {
                        self.code = Some(code);
                    }
                }
                News::Lost(error) => {
                    tracing::warn!(error = chain(&error), "containerd tells nothing any more");
                }
            }
        }
    }

    fn has_ended(&self) -> bool {
        self.pidfd.as_ref().is_none_or(|pidfd| readable(pidfd, Duration::ZERO))
    }

    /// Ends what is ours, and the container if that is wanted. Does it still run?
    fn finish(&mut self, options: &ContainerOptions<'_>) -> bool {
        if let Some(pidfd) = self.pidfd.as_ref().filter(|_| options.stop) {
            for signal in [Signal::TERM, Signal::KILL] {
                let _ = pidfd_send_signal(pidfd, signal); // it may have ended
                if readable(pidfd, STOP_GRACE) {
                    break;
                }
            }
        }
        if let Some(mut command) = self.command.take() {
            // After the container's end there is something to clean up, and then it ends by itself.
            if !self.has_ended() || !command.wait_for(STOP_GRACE) {
                command.signal(Signal::TERM);
                command.wait_for(STOP_GRACE);
            }
            command.join_output(LAST_WORDS);
        }
        !self.has_ended()
    }
}

/// Has the process of this descriptor ended within `patience`?
fn readable(pidfd: &OwnedFd, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        let rest = deadline.saturating_duration_since(Instant::now());
        let time = Timespec { tv_sec: rest.as_secs() as i64, tv_nsec: i64::from(rest.subsec_nanos()) };
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&time)) {
            Err(rustix::io::Errno::INTR) => {}
            answer => return answer.is_ok_and(|ready| ready > 0),
        }
    }
}
