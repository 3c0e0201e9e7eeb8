//! Writes one image layer to a directory in the form overlayfs wants: whiteouts as character devices 0:0, opaque
//! directories by extended attribute, everything else as the archive says.
//!
//! [`Applier`] is a sink of [`crate::tar::Parser`]; [`unpack_layer`] is the whole pipeline (decompress, hash, walk,
//! write). What an entry does is decided by [`crate::tree`]. The caller owns the destination directory; nothing here ever
//! touches a path outside it, whatever the archive says: every path is resolved by the kernel with the destination as its root.

mod applier;
mod below;
mod layer;
mod metadata;
mod place;
#[cfg(test)]
mod tests;
mod whiteouts;

use std::io;
use std::path::PathBuf;

pub use applier::{Applier, inherit};
pub use below::{Below, DirectoryAttributes};
pub use layer::{Unpacked, unpack_layer};
pub use whiteouts::Whiteouts;

pub use crate::compression::format::{LayerFormat, SNIFF, is_readable_layer};

use crate::digest::Digest;
use crate::tar::TarError;
use crate::tree::Reason;

/// How a layer is written.
#[derive(Debug, Clone, Default)]
pub struct ApplyOptions {
    /// What becomes of whiteouts.
    pub whiteouts: Whiteouts,
    /// Directories of the layers below, the nearest first. A directory which the archive implies but does not list
    /// takes owner, mode, times and extended attributes from there; without one it is 0755 and root's.
    pub parents: Vec<PathBuf>,
}

/// What was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Entries of the archive, whiteouts included.
    pub entries: u64,
    /// Bytes of file content.
    pub bytes: u64,
    /// Directories that the archive implied and that did not get their attributes from [`ApplyOptions::parents`], the higher
    /// ones first, for [`inherit`] once the layers below are known.
    pub implied: Vec<Vec<u8>>,
}

/// Why a layer could not be written.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The file system refused.
    #[error("{action} {path:?}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// The name in the archive.
        path: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The layer has an entry that no layer can have.
    #[error("bad entry {path:?}: {reason}")]
    Entry {
        /// The name in the archive.
        path: String,
        /// What is wrong with it.
        reason: Reason,
    },
    /// The archive is broken, or has an entry of a kind that containers are not run from.
    #[error("broken archive")]
    Tar(#[from] TarError),
    /// The compressed stream is broken or could not be read.
    #[error("cannot read layer")]
    Read(#[source] io::Error),
    /// The plain bytes are not those which the image configuration names.
    #[error("layer content is {actual}, expected {expected}")]
    DiffId {
        /// `rootfs.diff_ids` of the image configuration.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
}

impl UnpackError {
    fn io(action: &'static str, path: &[u8], source: impl Into<io::Error>) -> Self {
        Self::Io { action, path: String::from_utf8_lossy(path).into_owned(), source: source.into() }
    }
}
