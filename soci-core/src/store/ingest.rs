//! Temporary files that become blobs or records by a rename, and leave nothing behind after a crash.
//!
//! Each open file owns a lock on itself. What must always hold: a file here whose lock can be taken belongs to nobody,
//! and is removed by [`sweep`]; on a file system without locks, one that nobody has written to for a day. After
//! [`Ingest::publish`] neither the file nor its name is lost when the power is.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use super::{
    StoreError,
    lock::{Tried, try_lock},
};

/// Where nothing tells whether a writer lives: one that has written nothing for so long does not.
const ABANDONED: Duration = Duration::from_hours(24);
/// Times that a sweeper, which holds a file's lock for an instant, may take away what was just made.
const ATTEMPTS: usize = 100;

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A new, empty, locked file in `dir`. Removed on drop unless it was renamed by [`Ingest::publish`].
#[derive(Debug)]
pub(super) struct Ingest {
    pub(super) file: File,
    path: Option<PathBuf>,
}

impl Ingest {
    pub(super) fn create(dir: &Path) -> Result<Self, StoreError> {
        // Two machines may have the same numbers of processes on one NFS.
        let process = std::process::id();
        let start = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        for _ in 0..ATTEMPTS {
            let name = format!("{process}.{start}.{}", NEXT.fetch_add(1, Ordering::Relaxed));
            let path = dir.join(name);
            let file = match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
                Ok(file) => file,
                Err(e) if e.kind() == ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(StoreError::io("create", path)(e)),
            };
            let it = Self { file, path: Some(path.clone()) };
            match try_lock(&it.file).map_err(StoreError::io("lock", &path))? {
                // A sweeper may have taken the file between its creation and the lock: then make another one.
                Tried::Taken | Tried::Unknown if it.file.metadata().is_ok_and(|m| m.nlink() > 0) => {
                    return Ok(it);
                }
                Tried::Busy | Tried::Taken | Tried::Unknown => {}
            }
        }
        Err(StoreError::io("create a file in", dir)(ErrorKind::AlreadyExists.into()))
    }

    /// Syncs the file and renames it to `target`, replacing what is there, and syncs the directory.
    pub(super) fn publish(self, target: &Path) -> Result<(), StoreError> {
        self.file.sync_all().map_err(StoreError::io("write", target))?;
        self.rename(target)?;
        target.parent().map_or(Ok(()), sync_dir)
    }

    /// Renames the file to `target`, replacing what is there. When the machine goes down, the file may be lost, or its bytes.
    pub(super) fn rename(mut self, target: &Path) -> Result<(), StoreError> {
        let path = self.path.take().expect("published once, by value");
        let result = fs::rename(&path, target);
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

/// Makes renames and removals in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    match synced {
        // Some file systems (of FUSE, and of old NFS servers) cannot; they keep no names back either.
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        synced => synced.map_err(StoreError::io("sync", dir)),
    }
}

/// Removes the files of writers that died.
pub(super) fn sweep(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        // A lock on NFS needs a descriptor that can write.
        let Ok(file) = OpenOptions::new().read(true).write(true).open(&path) else { continue };
        let abandoned = match try_lock(&file) {
            Ok(Tried::Taken) => true,
            Ok(Tried::Unknown) => file
                .metadata()
                .and_then(|data| data.modified())
                .is_ok_and(|last| last.elapsed().is_ok_and(|idle| idle > ABANDONED)),
            Ok(Tried::Busy) | Err(_) => false,
        };
        if abandoned {
            let _ = fs::remove_file(&path);
        }
    }
    Ok(())
}
