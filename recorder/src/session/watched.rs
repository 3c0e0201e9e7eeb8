//! A container under watch, which somebody else runs. [`Watched`] owns the command that has started it, if we have run
//! one, and the threads that try its ports. The container itself goes on, unless the user wants it stopped.

use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use soci_core::error::chain;
use soci_core::trace::Outcome;

use super::container_error::{ContainerSessionError, other};
use super::container_options::ContainerOptions;
use super::course::{Course, Gone, Verdict};
use super::host_command::HostCommand;
use super::recording::Target;
use super::{STOP_GRACE, TICK, URGENT_GRACE};
use crate::capture::Ebpf;
use crate::container::{Container, News};
use crate::until::Watch;
use crate::workload::{Isolation, Net, Spec};

/// How long the exit code and the last output may take after the end.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(2);

/// A rule has come true.
pub(super) type Told = (usize, Instant);

/// Passes on that a rule has come true.
pub(super) fn telling(sender: &Sender<Told>) -> impl Fn(usize, Instant) + Clone + Send + 'static {
    let sender = sender.clone();
    move |rule, at| {
        let _ = sender.send((rule, at)); // nobody waits for it once the watch is over
    }
}

/// A container under watch.
pub(super) struct Watched<'a> {
    container: Container,
    options: &'a ContainerOptions<'a>,
    /// None when it had ended before it could be opened.
    pidfd: Option<OwnedFd>,
    command: Option<HostCommand>,
    course: Course,
    watch: Option<Watch>,
    others: Vec<String>,
    tell: Sender<Told>,
    events: Receiver<Told>,
    gone: Option<Instant>,
    code: Option<u8>,
    ending: Option<Ending>,
}

/// Moments of the end of what is to end.
#[derive(Debug, Clone, Copy)]
struct Ending {
    /// The container is killed.
    kill_container: Instant,
    /// The command is asked to end, if it has not done so by itself.
    ask_command: Instant,
    /// The command is killed.
    kill_command: Instant,
    /// Has the command been asked?
    asked: bool,
}

impl Ending {
    fn at_once(now: Instant) -> Self {
        Self { kill_container: now, ask_command: now, kill_command: now, asked: true }
    }
}

impl<'a> Watched<'a> {
    pub(super) fn new(
        container: Container,
        command: Option<HostCommand>,
        options: &'a ContainerOptions<'a>,
        others: Vec<String>,
        (tell, events): (Sender<Told>, Receiver<Told>),
    ) -> Self {
        let pid = i32::try_from(container.pid).ok().and_then(Pid::from_raw);
        let pidfd = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let course = Course::new(&options.rules, Instant::now());
        Self {
            container,
            options,
            pidfd,
            command,
            course,
            watch: None,
            others,
            tell,
            events,
            gone: None,
            code: None,
            ending: None,
        }
    }

    pub(super) fn container(&self) -> &Container {
        &self.container
    }

    /// Other containers that came meanwhile, and whether this one still runs.
    pub(super) fn over(self) -> (Vec<String>, bool) {
        let runs = !self.has_ended();
        (self.others, runs)
    }

    /// Waits until the container's command is executed; a container that ends before has begun when it was found.
    pub(super) fn execution(&mut self, capture: &mut Ebpf) -> Result<Instant, ContainerSessionError> {
        let found = Instant::now();
        loop {
            if let Some(at) = capture.executed() {
                return Ok(at);
            }
            let gone = self.has_ended();
            capture.look(TICK / 4);
            self.take_news();
            if gone {
                return Ok(capture.executed().unwrap_or(found));
            }
            let signal = self.options.signals.try_recv().ok();
            let late = self.options.rules.timeout.is_some_and(|limit| found.elapsed() > limit);
            if signal.is_none() && !late {
                continue;
            }
            let outcome = if signal.is_some() { Outcome::Interrupted } else { Outcome::TimedOut };
            let mut verdict = Verdict { outcome, ended: Instant::now(), exit: None, signal };
            while !self.stop(&mut verdict, self.options.signals) {
                std::thread::sleep(TICK / 4);
            }
            return Err(signal.map_or(ContainerSessionError::TimedOut, ContainerSessionError::Stopped));
        }
    }

    /// From `started` on times count and rules are watched; a container that has ended needs no watch.
    pub(super) fn begin(&mut self, started: Instant) -> Result<(), ContainerSessionError> {
        self.course = Course::new(&self.options.rules, started);
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
        let (rules, pid) = (&self.options.rules.until, self.container.pid);
        match Watch::start(rules, &spec, pid, None, telling(&self.tell)) {
            Ok(watch) => self.watch = Some(watch),
            Err(_) if self.has_ended() => {}
            Err(error) => return Err(ContainerSessionError::Watch(error)),
        }
        Ok(())
    }

    fn take_news(&mut self) {
        for news in self.options.news.try_iter() {
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
        self.pidfd.as_ref().is_none_or(has_ended)
    }

    /// Is everything known that comes after the end: the exit code, the command's last output?
    fn is_settled(&mut self, gone: Instant) -> bool {
        let spoken =
            self.command.as_mut().is_none_or(|command| command.ended().is_some() && command.has_spoken());
        (self.code.is_some() && spoken) || gone.elapsed() > LAST_WORDS
    }

    /// What is to happen when, from now on.
    fn end(&mut self, verdict: &Verdict) -> Ending {
        let now = Instant::now();
        let grace = if verdict.is_urgent() { URGENT_GRACE } else { STOP_GRACE };
        let mut ending =
            Ending { kill_container: now + grace, ask_command: now, kill_command: now + grace, asked: false };
        if let (Some(command), Some(signal)) = (&mut self.command, verdict.signal) {
            command.signal(signal);
        }
        let ends = self.options.stop || self.has_ended();
        if ends && !verdict.is_urgent() {
            // After the container's end there is something to clean up, and then the command ends by itself.
            let patience = if self.has_ended() { grace } else { 2 * grace };
            ending.ask_command = now + patience;
            ending.kill_command = ending.ask_command + grace;
        }
        if self.options.stop {
            self.signal(Signal::TERM);
        }
        ending
    }

    fn signal(&self, signal: Signal) {
        if let Some(pidfd) = &self.pidfd {
            let _ = pidfd_send_signal(pidfd, signal); // it may have ended
        }
    }

    /// Has the command ended, and been heard to its end? It is asked, and killed, when its time has come.
    fn command_is_over(&mut self, ending: &mut Ending) -> bool {
        let Some(command) = &mut self.command else { return true };
        let now = Instant::now();
        if command.ended().is_some() {
            return command.has_spoken() || now >= ending.kill_command;
        }
        if now >= ending.kill_command {
            self.command = None; // which kills it
            return true;
        }
        if now >= ending.ask_command && !ending.asked {
            command.signal(Signal::TERM);
            ending.asked = true;
        }
        false
    }
}

impl Target for Watched<'_> {
    fn started(&self) -> Instant {
        self.course.started()
    }

    fn ready(&self) -> Option<Instant> {
        self.course.ready()
    }

    fn poll(&mut self, signals: &Receiver<Signal>) -> Option<Verdict> {
        self.take_news();
        if self.gone.is_none() && self.has_ended() {
            self.gone = Some(Instant::now());
        }
        let settled = self.gone.is_some_and(|gone| self.is_settled(gone));
        for (rule, at) in self.events.try_iter() {
            self.course.note(rule, at);
        }
        match self.gone {
            Some(_) if !settled => self.course.interrupted(signals),
            gone => self.course.verdict(gone.map(|at| Gone { at, code: self.code }), signals),
        }
    }

    fn stop(&mut self, verdict: &mut Verdict, signals: &Receiver<Signal>) -> bool {
        if let Some(watch) = &self.watch {
            watch.stop();
        }
        let mut ending = match self.ending {
            Some(_) if signals.try_recv().is_ok() => Ending::at_once(Instant::now()),
            Some(ending) => ending,
            None => self.end(verdict),
        };
        if self.options.stop && !self.has_ended() && Instant::now() >= ending.kill_container {
            self.signal(Signal::KILL);
        }
        let command_is_over = self.command_is_over(&mut ending);
        self.ending = Some(ending);
        command_is_over && (!self.options.stop || self.has_ended())
    }
}

/// Has the process of this descriptor ended?
fn has_ended(pidfd: &OwnedFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    loop {
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&now)) {
            Err(rustix::io::Errno::INTR) => {}
            answer => return answer.is_ok_and(|ready| ready > 0),
        }
    }
}
