//! Which caches are on disk, and taking unused ones away.
//!
//! Stateless: the directory is the state, and the time of a cache's page map is when it was opened or closed last. Whoever
//! calls makes sure that no one opens the cache meanwhile; the file lock guards against one that is still closing.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use soci_core::digest::Digest;

/// One cache on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Digest of the layer.
    pub layer: Digest,
    /// Digest of its zTOC.
    pub ztoc: Digest,
    /// Bytes that it takes on disk.
    pub bytes: u64,
    /// When it was opened or closed last.
    pub used: SystemTime,
    directory: PathBuf,
}

/// All caches below `root`, the longest unused first. What is not a cache is passed over.
pub fn stored(root: &Path) -> io::Result<Vec<Stored>> {
    let mut found = Vec::new();
    for layer in fs::read_dir(root)? {
        let layer = layer?;
        let Some(layer_digest) = digest_of(&layer.file_name().to_string_lossy()) else { continue };
        for ztoc in fs::read_dir(layer.path())? {
            let ztoc = ztoc?;
            let Some(ztoc_digest) = digest_of(&ztoc.file_name().to_string_lossy()) else { continue };
            let directory = ztoc.path();
            let bytes =
                fs::metadata(directory.join("data")).map_or(0, |data| data.blocks().saturating_mul(512));
            let used = fs::metadata(directory.join("pages")).and_then(|pages| pages.modified());
            let used = used.unwrap_or(SystemTime::UNIX_EPOCH);
            found.push(Stored { layer: layer_digest, ztoc: ztoc_digest, bytes, used, directory });
        }
    }
    found.sort_by_key(|cache| cache.used);
    Ok(found)
}

impl Stored {
    /// Takes the cache away; `false` when somebody has it open.
    pub fn remove(&self) -> io::Result<bool> {
        match File::open(self.directory.join("data")) {
            Ok(data) => match data.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(false),
                Err(TryLockError::Error(error)) => return Err(error),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        fs::remove_dir_all(&self.directory)?;
        if let Some(layer) = self.directory.parent() {
            // Fails while another zTOC of the layer has a cache there: as it should.
            let _ = fs::remove_dir(layer);
        }
        Ok(true)
    }
}

fn digest_of(hex: &str) -> Option<Digest> {
    format!("sha256:{hex}").parse().ok()
}
