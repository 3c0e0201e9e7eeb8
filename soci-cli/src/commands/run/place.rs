//! The directory of one `soci run`: the user's, or a temporary one.
//!
//! [`Place`] owns a lock on it, because two snapshotters on one directory would break each other, and removes a temporary
//! one when it is dropped. What a killed run left behind has no lock any more, and is removed by the next run.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use tempfile::TempDir;

/// What the names of temporary directories begin with.
const PREFIX: &str = "soci-run-";
/// Other directories of ours, which live for a moment and have no lock.
const BRIEF: [&str; 2] = ["soci-init-", "soci-notify-"];
/// Name of the lock in it.
const LOCK: &str = "lock";
/// Marks a directory that the user keeps.
const KEPT: &str = "kept";
/// A directory without a lock is left alone for this long: its owner may be about to make one.
const YOUNG: Duration = Duration::from_mins(1);

/// A directory for one run.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    _temporary: Option<TempDir>,
    _lock: File,
}

impl Place {
    /// The directory that the user names, or a temporary one; `keep`: which stays, and is named.
    pub(super) fn new(named: Option<&Path>, keep: bool) -> Result<Self> {
        let (path, temporary) = if let Some(root) = named {
            fs::create_dir_all(root).with_context(|| format!("cannot make {}", root.display()))?;
            (root.canonicalize().with_context(|| format!("cannot find {}", root.display()))?, None)
        } else {
            remove_leftovers(&std::env::temp_dir());
            let dir = tempfile::Builder::new().prefix(PREFIX).tempdir();
            let dir = dir.context("cannot make a temporary directory")?;
            (dir.path().to_path_buf(), Some(dir))
        };
        let lock = occupy(&path)?;
        let temporary = if keep && temporary.is_some() {
            say!("root: {}", path.display());
            let mark = path.join(KEPT);
            fs::write(&mark, "").with_context(|| format!("cannot write {}", mark.display()))?;
            temporary.map(TempDir::keep);
            None
        } else {
            temporary
        };
        Ok(Self { path, _temporary: temporary, _lock: lock })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Takes the directory for this process.
fn occupy(root: &Path) -> Result<File> {
    let path = root.join(LOCK);
    let lock = File::options().create(true).append(true).open(&path);
    let lock = lock.with_context(|| format!("cannot open {}", path.display()))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => bail!("{} is in use by another soci run", root.display()),
        locked => locked.context("cannot lock the directory").map(|()| lock),
    }
}

/// Removes what killed runs have left in `dir`. A directory that somebody keeps has a mark; one of another user stays.
fn remove_leftovers(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let (whole, brief) = (name.starts_with(PREFIX), BRIEF.iter().any(|prefix| name.starts_with(prefix)));
        let path = entry.path();
        if (whole || brief)
            && is_leftover(&path)
            && let Err(error) = fs::remove_dir_all(&path)
        {
            tracing::debug!(path = %path.display(), %error, "cannot remove what an earlier run has left");
        }
    }
}

fn is_leftover(path: &Path) -> bool {
    let Ok(meta) = path.symlink_metadata() else { return false };
    if !meta.is_dir() || meta.uid() != rustix::process::geteuid().as_raw() || path.join(KEPT).exists() {
        return false;
    }
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    match File::options().read(true).custom_flags(flags.bits() as i32).open(path.join(LOCK)) {
        Ok(lock) => flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok(),
        Err(_) => meta.modified().is_ok_and(|at| at.elapsed().is_ok_and(|age| age > YOUNG)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_holds_or_keeps_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let made = |name: &str| {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let (alive, dead, kept, young, other) =
            (made("soci-run-a"), made("soci-run-b"), made("soci-run-c"), made("soci-run-d"), made("else"));
        let _held = occupy(&alive).unwrap();
        for path in [&dead, &kept] {
            drop(occupy(path).unwrap()); // as the kernel does for a process that was killed
            fs::write(path.join("file"), "x").unwrap();
        }
        fs::write(kept.join(KEPT), "").unwrap();
        remove_leftovers(dir.path());
        assert!(alive.exists() && kept.exists() && young.exists() && other.exists() && !dead.exists());
        assert!(occupy(&alive).is_err());
    }
}
