//! One daemon for each root directory.
//!
//! A [`RootLock`] owns the lock file's descriptor; the lock ends with the process, whatever ends it. A process that was killed
//! and waits in the kernel for an answer that only its successor can give still has the lock: the successor is told, and
//! begins to answer first.

use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::hidden::is_dying;

/// Name of the file.
const NAME: &str = "daemon.lock";
/// How often it is tried.
const AGAIN: Duration = Duration::from_millis(10);

/// The right to use a root directory.
#[derive(Debug)]
pub struct RootLock(#[expect(dead_code, reason = "held")] File);

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The file cannot be used.
    #[error("cannot lock {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// Another one serves.
    #[error("process {pid} serves this root directory: stop it first")]
    Held {
        /// The process, by its own word.
        pid: u32,
    },
}

/// What trying gives.
#[derive(Debug)]
pub enum Tried {
    /// It is ours.
    Ours(RootLock),
    /// The process that has it is dying.
    OfDying,
}

impl RootLock {
    /// Takes the lock, and waits at most for `patience` while a process that lives has it. Blocking.
    ///
    /// # Errors
    /// When it cannot be had, or another process has it for longer.
    pub fn take(root: &Path, patience: Duration) -> Result<Tried, LockError> {
        Self::attempt(root, patience, true)
    }

    /// Waits for the end of a process that is dying. Blocking.
    ///
    /// # Errors
    /// When it does not end within `patience`.
    pub fn take_from_dying(root: &Path, patience: Duration) -> Result<Self, LockError> {
        match Self::attempt(root, patience, false)? {
            Tried::Ours(lock) => Ok(lock),
            Tried::OfDying => Err(LockError::Held { pid: holder(&root.join(NAME)) }),
        }
    }

    fn attempt(root: &Path, patience: Duration, tell_of_dying: bool) -> Result<Tried, LockError> {
        let path = root.join(NAME);
        let failed = |source| LockError::File { path: path.clone(), source };
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(failed)?;
        let begun = Instant::now();
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK | Errno::INTR) => {}
                Err(errno) => return Err(failed(errno.into())),
            }
            let pid = holder(&path);
            if tell_of_dying && is_dying(pid) {
                return Ok(Tried::OfDying);
            }
            if begun.elapsed() >= patience {
                return Err(LockError::Held { pid });
            }
            sleep(AGAIN);
        }
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            write!(file, "{}", std::process::id())
        };
        // Without room for a number, the lock is all the same ours.
        if let Err(error) = write(&mut file) {
            tracing::warn!(%error, "the lock file does not say who has it");
        }
        Ok(Tried::Ours(Self(file)))
    }
}

/// Who has the lock, by its own word; 0 if it says none.
fn holder(path: &Path) -> u32 {
    fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_directory_has_one_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let Ok(Tried::Ours(first)) = RootLock::take(dir.path(), Duration::ZERO) else { panic!("it is free") };
        let us = std::process::id();
        let second = RootLock::take(dir.path(), Duration::ZERO);
        assert!(matches!(second, Err(LockError::Held { pid }) if pid == us), "{second:?}");
        drop(first);
        assert!(matches!(RootLock::take(dir.path(), Duration::ZERO), Ok(Tried::Ours(_))));
    }
}
