//! Layers unpacked to directories, each once, kept by chain id.
//!
//! Owns `layers/` below the state directory: `<hex of the chain id>/fs` is a complete layer in overlayfs form and
//! `<hex>/bytes` the number of content bytes in it. A layer is unpacked beside its place and renamed, so a directory
//! that is there is whole; one process unpacks at a time (lock file), and what a killed one left behind goes then.
//! Whoever uses a layer holds a shared lock on its directory, so that [`LayerCache::prune`] leaves it.
//! The key is the chain id, not the diff id, because a directory that an archive only implies takes its attributes
//! from the layers below.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use soci_core::digest::Digest;
use soci_core::unpack::{ApplyOptions, LayerFormat, Whiteouts, unpack_layer};

use super::RootfsError;

/// Prefix of directories that are not complete.
const UNFINISHED: &str = "new-";
/// How often the lock of another process is tried.
const TRY_EVERY: Duration = Duration::from_millis(50);

/// A layer on disk, which stays there while this lives.
#[derive(Debug, Clone)]
pub struct UnpackedLayer {
    /// Its content in overlayfs form.
    pub dir: PathBuf,
    /// Bytes of file content in it.
    pub bytes: u64,
    /// Locked for use.
    _home: Arc<File>,
}

/// What [`LayerCache::prune`] has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Layers that were removed.
    pub layers: u64,
    /// Bytes of file content in them.
    pub bytes: u64,
    /// Layers that are in use, and stay.
    pub in_use: u64,
}

/// The unpacked layers of a state directory. Holds the lock while it lives.
#[derive(Debug)]
pub struct LayerCache {
    root: PathBuf,
    _lock: File,
}

impl LayerCache {
    /// Opens (or makes) the cache below `state`. While another process is unpacking, `wait` is called again and again; its
    /// error gives up.
    pub fn open(state: &Path, mut wait: impl FnMut() -> io::Result<()>) -> Result<Self, RootfsError> {
        let root = state.join("layers");
        fs::create_dir_all(&root).map_err(RootfsError::state("make", &root))?;
        let path = state.join("layers.lock");
        let lock = File::options().create(true).append(true).open(&path);
        let lock = lock.map_err(RootfsError::state("open", &path))?;
        loop {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) => wait().map_err(RootfsError::state("wait for", &path))?,
                locked => break locked.map_err(|errno| RootfsError::state("lock", &path)(errno.into()))?,
            }
            sleep(TRY_EVERY);
        }
        for entry in fs::read_dir(&root).map_err(RootfsError::state("read", &root))? {
            let entry = entry.map_err(RootfsError::state("read", &root))?;
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                fs::remove_dir_all(entry.path()).map_err(RootfsError::state("remove", entry.path()))?;
            }
        }
        Ok(Self { root, _lock: lock })
    }

    /// A layer that is already here.
    pub fn get(&self, chain_id: &Digest) -> Option<UnpackedLayer> {
        let home = self.root.join(chain_id.hex());
        let bytes = bytes(&home)?;
        let lock = File::open(&home).ok()?;
        flock(&lock, FlockOperation::LockShared).ok()?;
        Some(UnpackedLayer { dir: home.join("fs"), bytes, _home: Arc::new(lock) })
    }

    /// Removes every layer that nobody uses.
    pub fn prune(&self) -> Result<Pruned, RootfsError> {
        let mut pruned = Pruned::default();
        for entry in fs::read_dir(&self.root).map_err(RootfsError::state("read", &self.root))? {
            let entry = entry.map_err(RootfsError::state("read", &self.root))?;
            let home = entry.path();
            let lock = File::open(&home).map_err(RootfsError::state("open", &home))?;
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) => {
                    pruned.in_use += 1;
                    continue;
                }
                locked => locked.map_err(|errno| RootfsError::state("lock", &home)(errno.into()))?,
            }
            pruned.layers += 1;
            pruned.bytes += bytes(&home).unwrap_or(0);
            // Under this name nobody takes half of it for a layer.
            let going = self.root.join(format!("{UNFINISHED}{}", entry.file_name().to_string_lossy()));
            fs::rename(&home, &going).map_err(RootfsError::state("rename", &home))?;
            fs::remove_dir_all(&going).map_err(RootfsError::state("remove", &going))?;
        }
        Ok(pruned)
    }

    /// Unpacks a layer, unless it is here. `below` are the directories of the layers below it, the nearest first.
    pub fn add<R: Read>(
        &self,
        chain_id: &Digest,
        diff_id: Digest,
        below: &[PathBuf],
        open: impl FnOnce() -> Result<R, Box<dyn std::error::Error + Send + Sync>>,
    ) -> Result<UnpackedLayer, RootfsError> {
        if let Some(layer) = self.get(chain_id) {
            return Ok(layer);
        }
        let new = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(&self.root);
        let new = new.map_err(RootfsError::state("make a directory in", &self.root))?;
        let dir = new.path().join("fs");
        fs::create_dir(&dir).map_err(RootfsError::state("make", &dir))?;
        let blob = open().map_err(|source| RootfsError::Open { layer: *chain_id, source })?;
        let (format, blob) = LayerFormat::sniff(blob)
            .map_err(|error| RootfsError::Open { layer: *chain_id, source: error.into() })?;
        let options =
            ApplyOptions { whiteouts: Whiteouts::Overlay { userxattr: false }, parents: below.to_vec() };
        let unpacked = unpack_layer(blob, format, &dir, options, Some(diff_id))
            .map_err(|source| RootfsError::Unpack { layer: *chain_id, source })?;
        let count = new.path().join("bytes");
        fs::write(&count, unpacked.applied.bytes.to_string()).map_err(RootfsError::state("write", &count))?;
        let home = self.root.join(chain_id.hex());
        fs::rename(new.path(), &home).map_err(RootfsError::state("rename to", &home))?;
        let _ = new.keep(); // renamed: nothing is left to remove
        let lost = || RootfsError::state("find", &home)(io::ErrorKind::NotFound.into());
        self.get(chain_id).ok_or_else(lost)
    }
}

/// Bytes of file content in a layer that is whole.
fn bytes(home: &Path) -> Option<u64> {
    fs::read_to_string(home.join("bytes")).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_stays_while_it_is_used_and_goes_when_it_is_not() {
        let state = tempfile::tempdir().unwrap();
        let cache = LayerCache::open(state.path(), || Ok(())).unwrap();
        let (used, unused) = (Digest::of(b"used"), Digest::of(b"unused"));
        for id in [used, unused] {
            let home = state.path().join("layers").join(id.hex());
            fs::create_dir_all(home.join("fs")).unwrap();
            fs::write(home.join("bytes"), "7").unwrap();
        }
        let layer = cache.get(&used).unwrap();
        assert_eq!(cache.prune().unwrap(), Pruned { layers: 1, bytes: 7, in_use: 1 });
        assert!(layer.dir.exists() && cache.get(&unused).is_none());
        drop(layer);
        assert_eq!(cache.prune().unwrap(), Pruned { layers: 1, bytes: 7, in_use: 0 });
        assert!(cache.get(&used).is_none());
    }

    #[test]
    fn who_waits_for_another_process_can_give_up() {
        let state = tempfile::tempdir().unwrap();
        let _other = LayerCache::open(state.path(), || Ok(())).unwrap();
        let mut tries = 0;
        let given_up = LayerCache::open(state.path(), || {
            tries += 1;
            if tries < 3 { Ok(()) } else { Err(io::Error::other("enough")) }
        });
        assert!(matches!(given_up, Err(RootfsError::State { action: "wait for", .. })));
    }
}
