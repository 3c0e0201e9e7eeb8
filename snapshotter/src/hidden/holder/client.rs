//! The server's side of the holder.
//!
//! A [`Holder`] owns the connection to the holder process; the end of that connection is how the holder sees that this
//! process has died. So it must not be inherited by a child, and must stay open as long as this process serves.

use std::io::{self, BufRead, BufReader};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::message::{Answer, Request};
use crate::hidden::channel;
use crate::hidden::keeper::{KeepError, Keeper, Kept};

/// How often a holder that another process has just started is looked for.
const TRIES: usize = 100;
const BETWEEN_TRIES: Duration = Duration::from_millis(20);

/// A connection to the holder.
#[derive(Debug)]
pub struct Holder(OwnedFd);

impl Holder {
    /// Connects to a holder that runs. `None`: none does.
    pub fn connect(socket: &Path) -> Result<Option<Self>, KeepError> {
        match channel::connect_to(socket) {
            Ok(connection) => Ok(Some(Self(connection))),
            Err(Errno::NOENT | Errno::CONNREFUSED) => Ok(None),
            Err(errno) => Err(KeepError::Connection(errno.into())),
        }
    }

    /// Connects to the holder, which is started if none runs. `command` is a program that calls [`super::run`] with the same
    /// socket and writes a line when it is ready.
    pub fn connect_or_start(socket: &Path, command: &mut Command) -> Result<Self, KeepError> {
        if let Some(holder) = Self::connect(socket)? {
            return Ok(holder);
        }
        start(command)?;
        for _ in 0..TRIES {
            if let Some(holder) = Self::connect(socket)? {
                return Ok(holder);
            }
            // Another process has started one at the same time, and ours has ended.
            thread::sleep(BETWEEN_TRIES);
        }
        Err(KeepError::Connection(io::ErrorKind::NotFound.into()))
    }

    fn ask(&self, request: &Request, with: &[BorrowedFd<'_>]) -> Result<(Answer, Vec<OwnedFd>), KeepError> {
        let failed = |errno: Errno| KeepError::Connection(errno.into());
        channel::send(&self.0, &request.encode(), with).map_err(failed)?;
        let gone = || KeepError::Connection(io::ErrorKind::ConnectionReset.into());
        let (bytes, descriptors) = channel::receive(&self.0).map_err(failed)?.ok_or_else(gone)?;
        match Answer::parse(&bytes) {
            Some(Answer::Refused(why)) => Err(KeepError::Refused(why)),
            Some(answer) => Ok((answer, descriptors)),
            None => Err(KeepError::Answer(String::from_utf8_lossy(&bytes).into_owned())),
        }
    }

    fn done(&self, request: &Request, with: &[BorrowedFd<'_>]) -> Result<(), KeepError> {
        match self.ask(request, with)? {
            (Answer::Done, _) => Ok(()),
            (other, _) => Err(KeepError::Answer(other.name().to_owned())),
        }
    }
}

/// Starts a holder, and waits until it is ready or has ended.
fn start(command: &mut Command) -> Result<(), KeepError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |source| KeepError::Start { program: program.clone(), source };
    command.stdin(Stdio::null()).stdout(Stdio::piped()).current_dir("/");
    let mut child = command.spawn().map_err(failed)?;
    let stdout = child.stdout.take().expect("stdout is a pipe");
    BufReader::new(stdout).read_line(&mut String::new()).map_err(failed)?;
    // It outlives this process. While this process is there, it wants to know how its child ends.
    let waiting = thread::Builder::new().name("holder-end".to_owned()).spawn(move || match child.wait() {
        Ok(status) => tracing::warn!(%status, "the holder has ended"),
        Err(error) => tracing::warn!(%error, "the holder cannot be waited for"),
    });
    waiting.map(drop).map_err(failed)
}

impl Keeper for Holder {
    fn acquire(&mut self, patience: Duration) -> Result<Kept, KeepError> {
        match self.ask(&Request::Lease { patience }, &[])? {
            (Answer::Granted { forced, names }, descriptors) if names.len() == descriptors.len() => {
                Ok(Kept::new(forced, names.into_iter().zip(descriptors).collect()))
            }
            (other, _) => Err(KeepError::Answer(other.name().to_owned())),
        }
    }

    fn keep(&mut self, descriptors: &[(&str, BorrowedFd<'_>)]) -> Result<(), KeepError> {
        let names = descriptors.iter().map(|(name, _)| (*name).to_owned()).collect();
        let descriptors: Vec<_> = descriptors.iter().map(|(_, descriptor)| *descriptor).collect();
        self.done(&Request::Keep { names }, &descriptors)
    }

    fn give_up(&mut self) -> Result<(), KeepError> {
        self.done(&Request::GiveUp, &[])
    }

    fn is_there(&self) -> bool {
        // It says nothing without being asked, so whatever is to be read now is its end.
        let mut polled = [PollFd::new(&self.0, PollFlags::IN)];
        poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) == Ok(0)
    }
}
