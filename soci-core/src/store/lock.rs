//! Locks between processes, on file systems that have them and on those that do not.
//!
//! A [`Lock`] owns the open file that holds it. What must always hold: a file system without locks (Lustre without `-o
//! flock`, NFS without a lock daemon) is no error and no endless loop; there, two processes that change one store at the
//! same time can lose one of two changes, but never damage a file.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

/// A lock, held until it is dropped.
#[derive(Debug)]
pub(super) struct Lock(#[allow(dead_code, reason = "the lock goes with the descriptor")] File);

impl Lock {
    /// Waits for the lock on a file. With `create`, the file is made if it is not there.
    pub(super) fn wait(path: &Path, create: bool) -> io::Result<Self> {
        loop {
            // NFS gives an exclusive lock only to those that may write.
            let writing = OpenOptions::new().read(true).append(true).create(create).open(path);
            let file = writing.or_else(|_| File::open(path))?;
            match retry(|| flock(&file, FlockOperation::LockExclusive)) {
                Ok(()) => {}
                Err(errno) if has_no_locks(errno) => {
                    tracing::debug!(path = %path.display(), %errno, "this file system has no locks");
                }
                Err(errno) => return Err(errno.into()),
            }
            // Meanwhile the file may have been replaced, by a process that makes the same store.
            let (ours, there) = (file.metadata()?, fs::metadata(path)?);
            if (ours.dev(), ours.ino()) == (there.dev(), there.ino()) {
                return Ok(Self(file));
            }
        }
    }
}

/// What came of a lock that is not waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tried {
    /// It is ours.
    Taken,
    /// Somebody else has it.
    Busy,
    /// The file system has no locks.
    Unknown,
}

/// Takes the lock on an open file, if that is possible now.
pub(super) fn try_lock(file: &File) -> io::Result<Tried> {
    tried(retry(|| flock(file, FlockOperation::NonBlockingLockExclusive)))
}

fn tried(answer: Result<(), Errno>) -> io::Result<Tried> {
    match answer {
        Ok(()) => Ok(Tried::Taken),
        Err(Errno::WOULDBLOCK) => Ok(Tried::Busy),
        Err(errno) if has_no_locks(errno) => Ok(Tried::Unknown),
        Err(errno) => Err(errno.into()),
    }
}

fn retry(mut call: impl FnMut() -> Result<(), Errno>) -> Result<(), Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            answer => return answer,
        }
    }
}

/// Whether this is the answer of a file system that has no locks, or none for such a descriptor.
fn has_no_locks(errno: Errno) -> bool {
    matches!(errno, Errno::NOSYS | Errno::NOLCK | Errno::OPNOTSUPP | Errno::INVAL | Errno::BADF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lock_of_somebody_else_is_busy() {
        assert_eq!(tried(Ok(())).unwrap(), Tried::Taken);
        assert_eq!(tried(Err(Errno::WOULDBLOCK)).unwrap(), Tried::Busy);
        for errno in [Errno::NOSYS, Errno::NOLCK, Errno::OPNOTSUPP, Errno::BADF] {
            assert_eq!(tried(Err(errno)).unwrap(), Tried::Unknown, "{errno}");
        }
        assert!(tried(Err(Errno::IO)).is_err());
    }
}
