//! The holder: a small process that keeps descriptors, so that it need never be replaced (`soci-snapshotter-grpc hold`).
//!
//! It owns the descriptors that outlive a server, and the lease. A server is a connection to its socket. It does nothing
//! else: no threads, no file systems, no configuration but what [`Options`] says.
//!
//! What must always hold: only root's processes may connect. When the holder ends, or nobody has had the lease for
//! [`Options::abort_after`], the last copies of the descriptors go: the kernel ends the connection, and readers get
//! errors at once. They never wait for ever.

mod client;
mod lease;
mod message;

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, Mode, flock};
use rustix::net::sockopt::socket_peercred;
use rustix::process::{PidfdFlags, Signal, geteuid, pidfd_open, pidfd_send_signal, setsid, umask};

use super::channel::{self, MAX_DESCRIPTORS};
use super::device::resend;
use super::dying::is_dying;
use super::keeper::FUSE;
pub use client::Holder;
use lease::{Action, Leases};
use message::{Answer, Request};

/// Connections at once. A server, its successor, and a few that are dying.
const MAX_CONNECTIONS: usize = 64;
/// How often the owner of a lease that another server waits for is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Longest name of a descriptor.
const MAX_NAME: usize = 32;
/// The kernel's choice of what to end when memory is short: nearly never this.
const OOM_SCORE: &str = "-999";

/// How a holder runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its socket, an absolute path. The directory must be root's alone.
    pub socket: PathBuf,
    /// How long readers wait for a server before they get errors.
    pub abort_after: Duration,
    /// Do without the kernel's means to send requests again, for tests of what kernels before 6.9 need.
    pub without_resend: bool,
}

/// Why a holder does not run.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// Another holder has the socket.
    #[error("another holder runs on {}", .0.display())]
    Running(PathBuf),
    /// The socket cannot be made.
    #[error("cannot listen on {}", .path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The process cannot wait for its connections.
    #[error("cannot wait for servers")]
    Wait(#[source] io::Error),
}

/// A server's connection. Its number is never used again.
#[derive(Debug)]
struct Peer {
    number: u64,
    connection: OwnedFd,
    /// The process, for SIGKILL. A number could be another process's by then.
    process: Option<OwnedFd>,
    /// Its number, while it is there.
    pid: u32,
}

#[derive(Debug)]
struct State {
    kept: Vec<(String, OwnedFd)>,
    peers: Vec<Peer>,
    leases: Leases<u64>,
    next: u64,
    without_resend: bool,
    /// A server has said that nothing is to be kept any more.
    given_up: bool,
}

/// Keeps descriptors until nobody wants them any more. `ready` is called when servers can connect. It makes the process the
/// leader of a session of its own, so that no signal for the server's group reaches it.
pub fn run(options: &Options, ready: impl FnOnce()) -> Result<(), HoldError> {
    // Fails if it is the leader of its group, and then it is nobody's child in a shell's job either.
    let _ = setsid();
    let _ = std::env::set_current_dir("/");
    if let Err(error) = fs::write("/proc/self/oom_score_adj", OOM_SCORE) {
        tracing::warn!(%error, "the holder is not protected when memory is short");
    }
    let failed = |source: io::Error| HoldError::Listen { path: options.socket.clone(), source };
    let lock = File::create(options.socket.with_extension("lock")).map_err(failed)?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Err(HoldError::Running(options.socket.clone()));
    }
    let listener = listen(&options.socket).map_err(failed)?;
    ready();
    let leases = Leases::new(options.abort_after, Instant::now());
    let without_resend = options.without_resend;
    let mut state =
        State { kept: Vec::new(), peers: Vec::new(), leases, next: 0, without_resend, given_up: false };
    while state.act() {
        let mut events = state.wait(&listener).map_err(HoldError::Wait)?;
        if events.pop() == Some(true) {
            state.accept(&listener);
        }
        let talking = state.peers.iter().zip(events).filter(|(_, event)| *event).map(|(peer, _)| peer.number);
        for number in talking.collect::<Vec<_>>() {
            state.listen_to(number);
        }
    }
    if state.kept.is_empty() {
        tracing::info!("the holder ends: no server has wanted it");
    } else {
        tracing::error!(
            seconds = options.abort_after.as_secs(),
            "no server has come back: layers now answer with errors. Start soci-snapshotter-grpc, then restart the containers"
        );
    }
    // A successor's holder makes its own socket. Descriptors are closed by the end of the process.
    let _ = fs::remove_file(&options.socket);
    Ok(())
}

/// Makes the socket, for root alone from its first moment on.
fn listen(path: &Path) -> io::Result<OwnedFd> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let before = umask(Mode::from_raw_mode(0o177));
    let listener = channel::listen_on(path);
    umask(before);
    Ok(listener?)
}

impl State {
    /// Does what is due. `false`: the holder ends.
    fn act(&mut self) -> bool {
        let owner = self.leases.contested().and_then(|owner| self.peer(owner));
        if owner.is_some_and(|owner| is_dying(owner.pid)) {
            self.leases.owner_is_dying(Instant::now());
        }
        if self.given_up && self.peers.is_empty() {
            return false;
        }
        while let Some(action) = self.leases.step(Instant::now()) {
            match action {
                Action::Grant { to, forced } => {
                    if forced {
                        tracing::error!("the old server cannot be ended: its successor begins all the same");
                    }
                    let names = self.kept.iter().map(|(name, _)| name.clone()).collect();
                    let descriptors: Vec<_> = self.kept.iter().map(|(_, kept)| kept.as_fd()).collect();
                    self.tell(to, &Answer::Granted { forced, names }, &descriptors);
                }
                Action::Kill(number) => {
                    tracing::error!("the old server hangs: it gets SIGKILL");
                    let process = self.peer(number).and_then(|peer| peer.process.as_ref());
                    let killed = process.map(|process| pidfd_send_signal(process, Signal::KILL));
                    match killed {
                        Some(Ok(())) => {}
                        Some(Err(error)) => tracing::error!(%error, "the old server does not get SIGKILL"),
                        None => tracing::error!("the old server cannot be killed: its process is not known"),
                    }
                }
                Action::Resend => self.resend(),
                Action::End => return false,
            }
        }
        true
    }

    fn resend(&self) {
        if !self.without_resend
            && let Some((_, fuse)) = self.kept.iter().find(|(name, _)| name == FUSE)
            && let Err(error) = resend(fuse.as_fd())
        {
            // Before Linux 6.9 the kernel does not know it.
            tracing::debug!(%error, "the kernel does not send requests again");
        }
    }

    /// Waits for events or the next deadline: for each peer, then for the listener, whether it has something.
    fn wait(&self, listener: &OwnedFd) -> io::Result<Vec<bool>> {
        let limit = self.leases.deadline().map(|end| end.saturating_duration_since(Instant::now()));
        // The death of a server that cannot end is no event.
        let limit =
            if self.leases.contested().is_some() { limit.map(|limit| limit.min(LOOK_AGAIN)) } else { limit };
        // Rounded up, so that the deadline has passed afterwards.
        let limit = limit.and_then(|limit| Timespec::try_from(limit + Duration::from_millis(1)).ok());
        let connections = self.peers.iter().map(|peer| peer.connection.as_fd()).chain([listener.as_fd()]);
        let mut polled: Vec<_> =
            connections.map(|connection| PollFd::from_borrowed_fd(connection, PollFlags::IN)).collect();
        match poll(&mut polled, limit.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(polled.iter().map(|polled| !polled.revents().is_empty()).collect())
    }

    fn accept(&mut self, listener: &OwnedFd) {
        let Ok(connection) = channel::accept(listener) else { return };
        let Ok(credentials) = socket_peercred(&connection) else { return };
        if credentials.uid != geteuid() || self.peers.len() >= MAX_CONNECTIONS {
            tracing::warn!("connection refused");
            return;
        }
        let process = pidfd_open(credentials.pid, PidfdFlags::empty()).ok();
        self.next += 1;
        let pid = credentials.pid.as_raw_nonzero().get().unsigned_abs();
        self.peers.push(Peer { number: self.next, connection, process, pid });
    }

    /// Takes one message of a peer, or its end.
    fn listen_to(&mut self, number: u64) {
        let Some(peer) = self.peer(number) else { return };
        let Ok(Some((bytes, descriptors))) = channel::receive(&peer.connection) else {
            self.peers.retain(|peer| peer.number != number);
            if self.leases.gone(number, Instant::now()) == Some(Action::Resend) {
                self.resend();
            }
            return;
        };
        let answer = match Request::parse(&bytes) {
            Some(Request::Lease { patience }) => {
                return self.leases.request(number, patience, Instant::now());
            }
            Some(Request::Keep { names }) => self.keep(number, names, descriptors),
            Some(Request::GiveUp) => {
                self.kept.clear();
                self.given_up = true;
                Answer::Done
            }
            None => Answer::Refused("the request is not known".to_owned()),
        };
        self.tell(number, &answer, &[]);
    }

    fn keep(&mut self, number: u64, names: Vec<String>, descriptors: Vec<OwnedFd>) -> Answer {
        let refused = |why: &str| Answer::Refused(why.to_owned());
        if !self.leases.is_owner(number) {
            return refused("another server has the lease");
        }
        if names.len() != descriptors.len()
            || names.iter().any(|name| name.is_empty() || name.len() > MAX_NAME)
        {
            return refused("names and descriptors do not match");
        }
        self.given_up = false;
        self.kept.retain(|(kept, _)| !names.contains(kept));
        if self.kept.len() + names.len() > MAX_DESCRIPTORS {
            return refused("too many descriptors");
        }
        self.kept.extend(names.into_iter().zip(descriptors));
        Answer::Done
    }

    fn peer(&self, number: u64) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.number == number)
    }

    /// Sends an answer. The end of a peer that is gone is an event of its own.
    fn tell(&self, number: u64, answer: &Answer, descriptors: &[BorrowedFd<'_>]) {
        if let Some(peer) = self.peer(number)
            && let Err(errno) = channel::send(&peer.connection, &answer.encode(), descriptors)
        {
            tracing::warn!(%errno, "a server does not take its answer");
        }
    }
}
