//! systemd as the keeper: the descriptor store of the unit (`FileDescriptorStoreMax=`).
//!
//! A [`Systemd`] owns the descriptors that systemd gave to this process at its start, until they are acquired. systemd starts a
//! successor only after the old process has ended, which stands for the lease. It never sends requests again for a dead
//! server, so until the successor comes a waiting reader may not be killable.
//!
//! What must always hold: [`Keeper::keep`] returns after systemd has read the message. systemd finds the unit by the sender's
//! process, so the message of a process that has died meanwhile is lost. The unit needs `NotifyAccess=main`, `Restart=always`
//! and no `StartLimitIntervalSec`. `systemctl stop` empties the store; `restart` does not.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::channel;
use super::keeper::{FUSE, JOURNAL, KeepError, Keeper, Kept};

/// How long systemd may take to read a message.
const LIMIT: Duration = Duration::from_secs(30);

/// The descriptor store of this process's unit.
#[derive(Debug)]
pub struct Systemd {
    socket: OsString,
    received: Vec<(String, OwnedFd)>,
}

impl Systemd {
    /// `socket` is the value of `NOTIFY_SOCKET`; `received` are the descriptors of `LISTEN_FDS` with their names, sockets
    /// among them or not. The caller reads the environment.
    pub fn new(socket: &OsStr, mut received: Vec<(String, OwnedFd)>) -> Self {
        received.retain(|(name, _)| [FUSE, JOURNAL].contains(&&**name));
        Self { socket: socket.to_owned(), received }
    }

    /// Sends messages, and waits until systemd has read them.
    fn tell(&self, messages: &[(String, Option<BorrowedFd<'_>>)]) -> io::Result<()> {
        let connection = channel::connect_to_datagrams(self.socket.as_bytes())?;
        let send = |text: &str, with: &[BorrowedFd<'_>]| loop {
            match channel::send(&connection, text.as_bytes(), with) {
                // systemd's queue is full; the kernel says when it is not any more.
                Err(Errno::AGAIN) => wait(&connection, PollFlags::OUT)?,
                other => return other.map_err(io::Error::from),
            }
        };
        for (text, with) in messages {
            send(text, with.as_slice())?;
        }
        let (read, written) = io::pipe()?;
        send("BARRIER=1", &[written.as_fd()])?;
        drop(written);
        // systemd closes its copy when it has come to this message.
        wait(&read, PollFlags::IN)
    }
}

impl Keeper for Systemd {
    fn acquire(&mut self, _patience: Duration) -> Result<Kept, KeepError> {
        Ok(Kept::new(false, std::mem::take(&mut self.received)))
    }

    fn keep(&mut self, descriptors: &[(&str, BorrowedFd<'_>)]) -> Result<(), KeepError> {
        let stores = descriptors.iter().map(|(name, fd)| (format!("FDSTORE=1\nFDNAME={name}"), Some(*fd)));
        self.tell(&stores.collect::<Vec<_>>()).map_err(KeepError::Connection)
    }

    fn give_up(&mut self) -> Result<(), KeepError> {
        let removes = [FUSE, JOURNAL].map(|name| (format!("FDSTOREREMOVE=1\nFDNAME={name}"), None));
        self.tell(&removes).map_err(KeepError::Connection)
    }

    fn is_there(&self) -> bool {
        // systemd is always there.
        true
    }
}

fn wait(on: impl AsFd, event: PollFlags) -> io::Result<()> {
    let mut polled = [PollFd::new(&on, event)];
    let limit = Timespec::try_from(LIMIT).ok();
    match poll(&mut polled, limit.as_ref()) {
        Ok(0) => Err(io::ErrorKind::TimedOut.into()),
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn descriptors_are_stored_before_keep_returns() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let systemd = UnixDatagram::bind(&path).unwrap();
        let mut keeper = Systemd::new(path.as_os_str(), Vec::new());
        let (fuse, journal) = io::pipe().unwrap();
        std::thread::scope(|scope| {
            let kept = scope.spawn(|| keeper.keep(&[(FUSE, fuse.as_fd()), (JOURNAL, journal.as_fd())]));
            let message = || {
                let (bytes, descriptors) = channel::receive(&systemd).unwrap().unwrap();
                (String::from_utf8(bytes).unwrap(), descriptors.len())
            };
            assert_eq!(message(), ("FDSTORE=1\nFDNAME=fuse".to_owned(), 1));
            assert_eq!(message(), ("FDSTORE=1\nFDNAME=journal".to_owned(), 1));
            assert!(!kept.is_finished());
            assert_eq!(message(), ("BARRIER=1".to_owned(), 1));
            kept.join().unwrap().unwrap();
        });
    }

    #[test]
    fn what_systemd_gave_is_acquired_once() {
        let (fuse, other) = io::pipe().unwrap();
        let received = vec![(FUSE.to_owned(), fuse.into()), ("grpc.socket".to_owned(), other.into())];
        let mut keeper = Systemd::new(OsStr::new("/nowhere"), received);
        let mut kept = keeper.acquire(Duration::ZERO).unwrap();
        assert!(kept.take(FUSE).is_some() && kept.take("grpc.socket").is_none());
        assert!(keeper.acquire(Duration::ZERO).unwrap().take(FUSE).is_none());
    }
}
