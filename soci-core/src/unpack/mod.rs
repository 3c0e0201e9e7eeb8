//! Writes one image layer to a directory in the form overlayfs wants: whiteouts as character devices 0:0, opaque
//! directories by extended attribute, everything else as the archive says.
//!
//! [`Applier`] is a sink of [`crate::tar::Parser`]; [`unpack_layer`] is the whole pipeline (decompress, hash, walk,
//! write). The caller owns the destination directory; nothing here ever touches a path outside it, whatever the
//! archive says: every path is resolved by the kernel with the destination as its root.

mod applier;
mod layer;
mod metadata;
mod place;
#[cfg(test)]
mod tests;
mod whiteout;

use std::io;
use std::path::PathBuf;

pub use applier::Applier;
pub use layer::{Unpacked, unpack_layer};
pub use place::inherit;
pub(crate) use place::{normalise, split};
pub use whiteout::{Whiteout, Whiteouts};

pub use crate::compression::format::{LayerFormat, SNIFF, is_readable_layer};

use crate::digest::Digest;
use crate::tar::TarError;

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
    /// Directories that the archive implied and that did not get their attributes from [`ApplyOptions::parents`], for
    /// [`inherit`] once the layers below are known. The layer's root is the empty path.
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
    /// The name of an entry is a whiteout of nothing, or has too many symbolic links on its way.
    #[error("bad entry name {path:?}: {reason}")]
    Name {
        /// The name in the archive.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A number of the entry does not fit in its place (owner, device).
    #[error("entry {path:?}: {field} {value} is out of range")]
    Number {
        /// The name in the archive.
        path: String,
        /// Which field.
        field: &'static str,
        /// Its value.
        value: i64,
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
