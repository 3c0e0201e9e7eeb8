//! The standard streams of a workload that is not root: it may write to them, but without owning them it cannot open
//! `/dev/stdout` or `/proc/self/fd/1`. Runtimes give them to its user, and so do we.
//!
//! [`give_to`] runs in the workload's first process. [`Lent`] stays with whoever started it: streams that are not made
//! for the workload have their owner back when it is dropped.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Gid, Stat, Uid, fchown, fstat};
use rustix::io::Errno;

/// Makes a user the owner of the standard streams: pipes, files and terminals. The null device stays everybody's.
pub(super) fn give_to(uid: u32) -> rustix::io::Result<()> {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    for stream in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()] {
        let Ok(stat) = fstat(stream) else { continue }; // closed
        if stat.st_uid == uid || !can_be_given(stream, &stat) {
            continue;
        }
        match fchown(stream, Some(Uid::from_raw(uid)), None::<Gid>) {
            // Of a read-only file system, or of one that knows no owners: it can be used as it is.
            Ok(()) | Err(Errno::ROFS | Errno::PERM | Errno::INVAL | Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn can_be_given(stream: BorrowedFd<'_>, stat: &Stat) -> bool {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Fifo | FileType::RegularFile => true,
        FileType::CharacterDevice => stream.is_terminal(),
        _ => false,
    }
}

/// Streams of ours that a workload uses, with their owners.
#[derive(Debug)]
pub(super) struct Lent(Vec<(OwnedFd, u32)>);

impl Lent {
    /// Standard input, and with `all` output and error, too.
    pub(super) fn note(all: bool) -> Self {
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        let streams = [Some(stdin.as_fd()), all.then(|| stdout.as_fd()), all.then(|| stderr.as_fd())];
        let noted = streams.into_iter().flatten().filter_map(|stream| {
            let stat = fstat(stream).ok().filter(|stat| can_be_given(stream, stat))?;
            Some((stream.try_clone_to_owned().ok()?, stat.st_uid))
        });
        Self(noted.collect())
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        for (stream, uid) in &self.0 {
            if fstat(stream).is_ok_and(|stat| stat.st_uid != *uid) {
                let _ = fchown(stream, Some(Uid::from_raw(*uid)), None::<Gid>); // its file system may have changed
            }
        }
    }
}
