//! Temporary files that become blobs or records by a rename, and leave nothing behind after a crash.
//!
//! Each open file owns a lock on itself. What must always hold: a file here whose lock can be taken belongs to nobody,
//! and is removed by [`sweep`].

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::fs::{FlockOperation, flock};

use super::StoreError;

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A new, empty, locked file in `dir`. Removed on drop unless it was renamed by [`Ingest::publish`].
#[derive(Debug)]
pub(super) struct Ingest {
    pub(super) file: File,
    path: Option<PathBuf>,
}

impl Ingest {
    pub(super) fn create(dir: &Path) -> Result<Self, StoreError> {
        loop {
            let name = format!("{}.{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let path = dir.join(name);
            let file = match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
                Ok(file) => file,
                Err(e) if e.kind() == ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(StoreError::io("create", path)(e)),
            };
            let lock = flock(&file, FlockOperation::NonBlockingLockExclusive);
            // A sweeper may have taken the file between its creation and the lock: then make another one.
            if lock.is_ok() && file.metadata().is_ok_and(|m| m.nlink() > 0) {
                return Ok(Self { file, path: Some(path) });
            }
        }
    }

    /// Syncs the file and renames it to `target`, replacing what is there.
    pub(super) fn publish(mut self, target: &Path) -> Result<(), StoreError> {
        let path = self.path.take().expect("published once, by value");
        let result = self.file.sync_all().and_then(|()| fs::rename(&path, target));
        if result.is_err() {
            let _ = fs::remove_file(&path);
        }
        result.map_err(StoreError::io("write", target))
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if let Some(path) = self.path.take() {
            let _ = fs::remove_file(path);
        }
    }
}

/// Removes the files of writers that died.
pub(super) fn sweep(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let Ok(file) = File::open(&path) else { continue };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = fs::remove_file(&path);
        }
    }
    Ok(())
}
