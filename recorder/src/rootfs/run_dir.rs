//! The directory of one run below a state directory: mount points, what the workload writes, files bound into it.
//!
//! Owns the directory and a lock on it, and removes it when dropped. What a killed process left behind has no lock any
//! more and is removed by the next one that makes a run directory.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

use super::RootfsError;

const PREFIX: &str = "run-";
const LOCK: &str = "lock";

/// A directory for one run.
#[derive(Debug)]
pub struct RunDir {
    dir: TempDir,
    _lock: File,
}

impl RunDir {
    /// Makes one below `state`, which exists, and removes those of processes that are gone.
    pub fn new(state: &Path) -> Result<Self, RootfsError> {
        // Only one process at a time makes and removes directories here: none is ever seen without its lock.
        let _guard = lock(&state.join("runs.lock"), FlockOperation::LockExclusive)?;
        for entry in fs::read_dir(state).map_err(RootfsError::state("read", state))? {
            let entry = entry.map_err(RootfsError::state("read", state))?;
            let path = entry.path();
            let ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
            if ours && lock(&path.join(LOCK), FlockOperation::NonBlockingLockExclusive).is_ok() {
                fs::remove_dir_all(&path).map_err(RootfsError::state("remove", &path))?;
            }
        }
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(state);
        let dir = dir.map_err(RootfsError::state("make a directory in", state))?;
        let lock = lock(&dir.path().join(LOCK), FlockOperation::LockExclusive)?;
        Ok(Self { dir, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Takes a part of it out, to stay below the state directory; gives its new place.
    pub fn keep(&self, part: &str) -> Result<PathBuf, RootfsError> {
        let name = self.path().file_name().unwrap_or_default().to_string_lossy();
        let to = self.path().with_file_name(name.replacen(PREFIX, "kept-", 1));
        fs::rename(self.path().join(part), &to).map_err(RootfsError::state("rename to", &to))?;
        Ok(to)
    }
}

fn lock(path: &Path, operation: FlockOperation) -> Result<File, RootfsError> {
    let file =
        File::options().create(true).append(true).open(path).map_err(RootfsError::state("open", path))?;
    flock(&file, operation).map_err(|errno| RootfsError::state("lock", path)(errno.into()))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_without_an_owner_are_removed() {
        let state = tempfile::tempdir().unwrap();
        let alive = RunDir::new(state.path()).unwrap();
        let dead = RunDir::new(state.path()).unwrap();
        let left = dead.path().to_path_buf();
        fs::write(left.join("written"), "x").unwrap();
        let RunDir { dir, _lock: lock } = dead;
        let _ = dir.keep();
        drop(lock); // as the kernel does for a process that was killed
        let next = RunDir::new(state.path()).unwrap();
        assert!(!left.exists() && alive.path().exists() && next.path().exists());
        fs::create_dir(next.path().join("upper")).unwrap();
        let (path, kept) = (next.path().to_path_buf(), next.keep("upper").unwrap());
        drop(next);
        assert!(!path.exists() && kept.is_dir());
    }
}
