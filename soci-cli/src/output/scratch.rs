//! Directories that are gone when the command is over, however it ends: by itself, by a signal, by `--timeout`.
//!
//! A [`Scratch`] owns one. What must always hold: one that a killed command has left is removed by the next that works beside
//! it, and none of a command that runs.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once, PoisonError};
use std::thread;

use rustix::fs::{FlockOperation, flock};
use tempfile::{Builder, TempDir};
use tokio::signal::unix::{SignalKind, signal};

/// How their names begin.
const PREFIX: &str = ".soci-oci-";

/// Those of this process.
static ALL: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A directory.
#[derive(Debug)]
pub(crate) struct Scratch {
    dir: TempDir,
    /// Locked, so that it is known to be used.
    _lock: File,
}

impl Scratch {
    /// Makes one in a directory, and removes there what killed commands have left.
    pub(crate) fn new_in(parent: &Path) -> io::Result<Self> {
        remove_left(parent);
        let dir = Builder::new().prefix(PREFIX).tempdir_in(parent)?;
        let lock = File::open(dir.path())?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        ALL.lock().unwrap_or_else(PoisonError::into_inner).push(dir.path().to_owned());
        end_with_signals();
        Ok(Self { dir, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Removes all of this process: it is about to end.
pub(crate) fn remove_all() {
    for path in ALL.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        let _ = fs::remove_dir_all(path); // the next one tries again
    }
}

fn remove_left(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_one = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let Some(lock) = is_one.then(|| File::open(entry.path()).ok()).flatten() else { continue };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = fs::remove_dir_all(entry.path()); // somebody else's
        }
    }
}

/// From now on a signal that ends the process removes them first. The exit code is that of a shell.
fn end_with_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let listen = || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
                return;
            };
            runtime.block_on(async {
                let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
                let [Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)] = kinds.map(signal) else {
                    return;
                };
                let number = tokio::select! {
                    _ = interrupt.recv() => SignalKind::interrupt(),
                    _ = terminate.recv() => SignalKind::terminate(),
                    _ = hangup.recv() => SignalKind::hangup(),
                };
                remove_all();
                std::process::exit(128 + number.as_raw_value());
            });
        };
        // Without it, what stays is removed by the next command.
        let _ = thread::Builder::new().name("signals".to_owned()).spawn(listen);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_goes_and_what_is_used_stays() {
        let dir = tempfile::tempdir().unwrap();
        let left = dir.path().join(".soci-oci-left");
        fs::create_dir_all(left.join("layout")).unwrap();
        let used = Scratch::new_in(dir.path()).unwrap();
        assert!(!left.exists());
        let other = Scratch::new_in(dir.path()).unwrap();
        assert!(used.path().exists() && other.path().exists());
        drop((used, other));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
