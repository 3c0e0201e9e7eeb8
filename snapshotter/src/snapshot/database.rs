//! The database file, which is opened anew after the disk has failed it.
//!
//! Owns the open file. redb refuses everything after a write that failed, also when there is room on the disk again: who asks
//! next gets the file opened anew. What must always hold: one open database of the file at a time.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{RwLock, RwLockUpgradableReadGuard};
use redb::Database;

use super::error::{Error, Result};

/// A database that can be used again after the disk has failed it.
#[derive(Debug)]
pub(super) struct Healing {
    path: PathBuf,
    /// Device and number of the file.
    file: (u64, u64),
    /// None while it cannot be opened.
    open: RwLock<Option<Database>>,
    /// The disk has failed it.
    is_broken: AtomicBool,
}

impl Healing {
    /// Opens or makes the file. One process only may have it open.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let open = RwLock::new(Some(Database::create(path)?));
        let file = identity(path)?;
        Ok(Self { path: path.to_path_buf(), file, open, is_broken: AtomicBool::default() })
    }

    /// Whether the file is still there, and the one that was opened.
    pub(super) fn check(&self) -> Result<()> {
        if identity(&self.path)? == self.file {
            return Ok(());
        }
        let replaced = io::Error::other("another file has its name");
        Err(Error::io(format!("look at {}", self.path.display()), replaced))
    }

    /// Works with the database.
    pub(super) fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T>) -> Result<T> {
        if self.is_broken.load(Ordering::Acquire) {
            self.reopen()?;
        }
        let open = self.open.read();
        let database = open.as_ref().ok_or(redb::StorageError::PreviousIo)?;
        let result = work(database);
        if let Err(Error::Database(error)) = &result
            && matches!(**error, redb::Error::Io(_) | redb::Error::PreviousIo)
        {
            self.is_broken.store(true, Ordering::Release);
        }
        result
    }

    fn reopen(&self) -> Result<()> {
        let open = self.open.upgradable_read();
        if !self.is_broken.load(Ordering::Acquire) {
            return Ok(()); // somebody else was here first
        }
        let mut open = RwLockUpgradableReadGuard::upgrade(open);
        *open = None; // it locks the file
        *open = Some(Database::create(&self.path)?);
        self.is_broken.store(false, Ordering::Release);
        tracing::info!(path = %self.path.display(), "the database of snapshots is open again after a failure of the disk");
        Ok(())
    }
}

fn identity(path: &Path) -> Result<(u64, u64)> {
    let found = std::fs::metadata(path);
    let found = found.map_err(|source| Error::io(format!("look at {}", path.display()), source))?;
    Ok((found.dev(), found.ino()))
}
