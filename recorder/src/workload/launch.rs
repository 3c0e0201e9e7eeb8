//! Starts the first process of a workload, watches it, and ends it.
//!
//! One thread owns the child: it leaves the pid namespace for its children, starts the program, waits for it and
//! reports the end. It lives as long as the child does, because the kernel ties the child's life to this very thread.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio as Pipe};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::guard::Guard;
use super::init::{EXEC_FAILED, GO, READY, SETUP_FAILED};
use super::namespace::{Namespace, leave};
use super::streams::Lent;
use super::{InitCommand, Isolation, Spec, WorkloadError, cgroup};

/// What becomes of the workload's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdio {
    /// Standard input, output and error are ours.
    Inherit,
    /// Output and error come through pipes: see [`Workload::take_output`]. Input is ours.
    Piped,
}

/// How a workload ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Exit code as a shell reports it: the code itself, or 128 and the signal's number.
    pub code: u8,
    /// When.
    pub at: Instant,
}

impl Exit {
    fn new(status: ExitStatus) -> Self {
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        Self { code: code as u8, at: Instant::now() }
    }
}

/// A running workload. Killed when dropped.
#[derive(Debug)]
pub struct Workload {
    pid: Pid,
    pidfd: OwnedFd,
    output: Option<(ChildStdout, ChildStderr)>,
    started: Instant,
    end: Arc<(Mutex<Option<Exit>>, Condvar)>,
    thread: Option<JoinHandle<()>>,
    // After the thread, which has ended the workload when it is joined.
    guard: Option<Guard>,
    /// Kept for its drop.
    #[expect(dead_code, reason = "its drop gives the streams back")]
    streams: Lent,
}

/// What the owning thread hands over once the child exists.
type Born = Result<Birth, WorkloadError>;

/// A child with its descriptors.
type Birth = (Pid, OwnedFd, Option<(ChildStdout, ChildStderr)>);

impl Workload {
    /// Starts a workload. When this returns, the command itself is running; `go` was called with its process id just
    /// before it was executed, when everything was prepared: the start of its time.
    pub fn start(
        spec: &Spec,
        init: &InitCommand,
        stdio: Stdio,
        go: impl FnOnce(u32),
        on_exit: impl FnOnce(Exit) + Send + 'static,
    ) -> Result<Self, WorkloadError> {
        let dir = tempfile::Builder::new().prefix("soci-init-").tempdir();
        let dir = dir.map_err(WorkloadError::system("make a directory for the socket"))?;
        let socket = dir.path().join("init.sock");
        let listener =
            UnixListener::bind(&socket).map_err(WorkloadError::system("listen for the first process"))?;

        let mut command = Command::new(&init.program);
        command.args(&init.args).arg(&socket);
        if stdio == Stdio::Piped {
            command.stdout(Pipe::piped()).stderr(Pipe::piped());
        }
        let streams = Lent::note(stdio == Stdio::Inherit);
        let (born_sender, born) = channel();
        let end = Arc::new((Mutex::new(None), Condvar::new()));
        let thread = thread::Builder::new()
            .name("workload".into())
            .spawn({
                let (end, spec) = (Arc::clone(&end), spec.clone());
                move || own(command, &spec, &born_sender, &end, on_exit)
            })
            .map_err(WorkloadError::system("start a thread"))?;
        let (pid, pidfd, output) = receive_birth(&born)?;
        let started = Instant::now();
        let mut workload =
            Self { pid, pidfd, output, started, end, thread: Some(thread), guard: None, streams };
        let guard = Guard::start(init, &workload.pidfd, spec.cgroup.as_deref());
        workload.guard = Some(guard.map_err(WorkloadError::system("start the workload's guard"))?);
        let mut child = workload.accept(&listener)?;
        workload.converse(&mut child, spec, go)?;
        Ok(workload)
    }

    /// The process id on the host of the command, which is process 1 inside.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// When the command was executed.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The pipes of a workload started with [`Stdio::Piped`]; once.
    pub fn take_output(&mut self) -> Option<(ChildStdout, ChildStderr)> {
        self.output.take()
    }

    /// Sends a signal to the command; one that has ended needs none.
    pub fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(&self.pidfd, signal);
    }

    /// Waits for the end.
    pub fn wait(&self) -> Exit {
        let (end, ended) = &*self.end;
        let mut end = end.lock();
        loop {
            if let Some(exit) = *end {
                return exit;
            }
            ended.wait(&mut end);
        }
    }

    /// Does the command listen to a signal? Process 1 of a namespace does not get those that it has no handler for.
    pub fn handles(&self, signal: Signal) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let mask = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
        mask & (1 << (signal.as_raw() - 1)) != 0
    }

    /// Waits for the first process to connect, or to die before it does.
    fn accept(&self, listener: &UnixListener) -> Result<UnixStream, WorkloadError> {
        loop {
            let mut events = [PollFd::new(listener, PollFlags::IN), PollFd::new(&self.pidfd, PollFlags::IN)];
            let patience = Timespec { tv_sec: 60, tv_nsec: 0 };
            match poll(&mut events, Some(&patience)) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(WorkloadError::os("wait for the first process")(errno)),
                Ok(0) => return Err(WorkloadError::Setup("the first process did not answer".into())),
                Ok(_) => {}
            }
            if events[0].revents().contains(PollFlags::IN) {
                let (stream, _) =
                    listener.accept().map_err(WorkloadError::system("accept the first process"))?;
                return Ok(stream);
            }
            return Err(WorkloadError::Setup(format!(
                "the first process ended with code {}",
                self.wait().code
            )));
        }
    }

    fn converse(
        &mut self,
        child: &mut UnixStream,
        spec: &Spec,
        go: impl FnOnce(u32),
    ) -> Result<(), WorkloadError> {
        let talk = WorkloadError::system;
        let json = serde_json::to_vec(spec).map_err(|error| talk("write the specification")(error.into()))?;
        let length = u32::try_from(json.len()).unwrap_or(u32::MAX);
        child
            .write_all(&length.to_le_bytes())
            .and_then(|()| child.write_all(&json))
            .map_err(talk("write the specification"))?;
        let mut answer = [0];
        match child.read(&mut answer).map_err(talk("read the first process"))? {
            1 if answer == [READY] => {}
            1 if answer == [SETUP_FAILED] => return Err(WorkloadError::Setup(rest(child))),
            _ => {
                return Err(WorkloadError::Setup(format!(
                    "the first process ended with code {}",
                    self.wait().code
                )));
            }
        }
        go(self.pid());
        self.started = Instant::now();
        child.write_all(&[GO]).map_err(talk("start the command"))?;
        // The socket closes when the command is executed.
        match child.read(&mut answer).map_err(talk("read the first process"))? {
            0 => Ok(()),
            _ if answer == [EXEC_FAILED] => {
                let mut code = [126];
                let _ = child.read_exact(&mut code);
                Err(WorkloadError::Exec { message: rest(child), code: code[0] })
            }
            _ => Err(WorkloadError::Setup("the first process answered something else".into())),
        }
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // a panic of that thread has been reported by itself
        }
    }
}

/// The message that follows a failure.
fn rest(child: &mut UnixStream) -> String {
    let mut message = Vec::new();
    let _ = child.take(64 << 10).read_to_end(&mut message);
    String::from_utf8_lossy(&message).into_owned()
}

fn receive_birth(born: &Receiver<Born>) -> Born {
    born.recv().unwrap_or_else(|_| Err(WorkloadError::Setup("the owning thread ended".into())))
}

/// The life of a child, on its own thread.
fn own(
    mut command: Command,
    spec: &Spec,
    born: &Sender<Born>,
    end: &(Mutex<Option<Exit>>, Condvar),
    on_exit: impl FnOnce(Exit),
) {
    let contained = spec.isolation == Isolation::Container;
    let birth = if contained { leave(&[Namespace::PidOfChildren]) } else { Ok(()) }
        .map_err(WorkloadError::system("make a pid namespace"))
        .and_then(|()| spawn(&mut command));
    let mut child = match birth {
        Ok((mut child, pid, pidfd)) => {
            let output = child.stdout.take().zip(child.stderr.take());
            let _ = born.send(Ok((pid, pidfd, output)));
            child
        }
        Err(error) => {
            let _ = born.send(Err(error));
            return;
        }
    };
    // The wait of a child of ours fails only when somebody else has taken its status.
    let exit = child.wait().map_or(Exit { code: 255, at: Instant::now() }, Exit::new);
    if let Some(cgroup) = spec.cgroup.as_deref().filter(|_| !contained)
        && let Err(error) = cgroup::kill(cgroup)
    {
        tracing::warn!(%error, "cannot end what the command has left running");
    }
    *end.0.lock() = Some(exit);
    end.1.notify_all();
    on_exit(exit);
}

fn spawn(command: &mut Command) -> Result<(Child, Pid, OwnedFd), WorkloadError> {
    let program = command.get_program().to_owned();
    let fail = |source: io::Error| WorkloadError::Spawn { program: program.clone(), source };
    let mut child = command.spawn().map_err(&fail)?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| fail(io::Error::other("process id out of range")))?;
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => Ok((child, pid, pidfd)),
        Err(errno) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(fail(errno.into()))
        }
    }
}
