//! Layers unpacked to directories, each once, kept by chain id.
//!
//! Owns `layers/` below the state directory: `<hex of the chain id>/fs` is a complete layer in overlayfs form and
//! `<hex>/bytes` the number of content bytes in it. A layer is unpacked beside its place and renamed, so a directory
//! that is there is whole; one process unpacks at a time (lock file), and what a killed one left behind goes then.
//! The key is the chain id, not the diff id, because a directory that an archive only implies takes its attributes
//! from the layers below.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use soci_core::digest::Digest;
use soci_core::unpack::{ApplyOptions, LayerFormat, Whiteouts, unpack_layer};

use super::RootfsError;

/// Prefix of directories that are not complete.
const UNFINISHED: &str = "new-";

/// A layer on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnpackedLayer {
    /// Its content in overlayfs form.
    pub dir: PathBuf,
    /// Bytes of file content in it.
    pub bytes: u64,
}

/// The unpacked layers of a state directory. Holds the lock while it lives.
#[derive(Debug)]
pub struct LayerCache {
    root: PathBuf,
    _lock: File,
}

impl LayerCache {
    /// Opens (or makes) the cache below `state`, waiting for another process that is unpacking.
    pub fn open(state: &Path) -> Result<Self, RootfsError> {
        let root = state.join("layers");
        fs::create_dir_all(&root).map_err(RootfsError::state("make", &root))?;
        let path = state.join("layers.lock");
        let lock = File::options().create(true).append(true).open(&path);
        let lock = lock.map_err(RootfsError::state("open", &path))?;
        flock(&lock, FlockOperation::LockExclusive)
            .map_err(|errno| RootfsError::state("lock", &path)(errno.into()))?;
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
        let bytes = fs::read_to_string(home.join("bytes")).ok()?.trim().parse().ok()?;
        Some(UnpackedLayer { dir: home.join("fs"), bytes })
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
        let bytes = new.path().join("bytes");
        fs::write(&bytes, unpacked.applied.bytes.to_string()).map_err(RootfsError::state("write", &bytes))?;
        let home = self.root.join(chain_id.hex());
        fs::rename(new.path(), &home).map_err(RootfsError::state("rename to", &home))?;
        let _ = new.keep(); // renamed: nothing is left to remove
        Ok(UnpackedLayer { dir: home.join("fs"), bytes: unpacked.applied.bytes })
    }
}
