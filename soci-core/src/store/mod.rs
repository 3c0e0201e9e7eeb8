//! What is kept on this machine: blobs in an OCI image layout or in containerd ([`ContentStore`]), and one small record
//! for each artifact.
//!
//! All can be shared by any number of processes at the same time. What must always hold: a blob or record that can
//! be seen is complete (it was synced, then renamed into place), and a reader checks the digest of what it reads.

mod artifacts;
mod content;
mod ingest;
mod layout;
mod lock;
mod removal;

#[cfg(test)]
mod removal_tests;
#[cfg(test)]
mod tests;

use std::{io, path::PathBuf};

pub use artifacts::{Artifact, ArtifactKind, Artifacts};
pub use content::{
    ContentStore, FINE_INDEX_LABEL, SOCI_INDEX_LABEL, image_index_labels, manifest_labels, soci_index_labels,
};
pub use layout::{BlobWriter, LayoutStore};
pub(crate) use removal::replace;
pub use removal::{Prune, Removed, prune, reclaim, remove, remove_all};

use crate::{containerd::ContainerdError, digest::Digest, image::ManifestError};

/// Why the store cannot do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A file operation failed.
    #[error("cannot {op} {}", path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The blob or record is not there.
    #[error("{0} not found")]
    NotFound(Digest),
    /// The blob is larger than what names it says, or than its kind may be.
    #[error("content {digest} is larger than {limit} bytes, which is what it may have")]
    TooLarge {
        /// The blob.
        digest: Digest,
        /// The most that was to be read.
        limit: u64,
    },
    /// The bytes are not those that were asked for.
    #[error("content has digest {actual}, expected {expected}")]
    Mismatch {
        /// The digest asked for.
        expected: Digest,
        /// The digest of the bytes.
        actual: Digest,
    },
    /// The directory is not an OCI image layout of version 1.
    #[error("{} is not an OCI image layout", .0.display())]
    NotALayout(PathBuf),
    /// `index.json` cannot be read.
    #[error("{} cannot be used", path.display())]
    Index {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: ManifestError,
    },
    /// `index.json` lists so much that its readers would soon refuse it.
    #[error(
        "{} would list {entries} manifests in {bytes} bytes, more than {}: make room with `soci store prune`",
        path.display(),
        layout::MAX_LISTED
    )]
    Full {
        /// The file.
        path: PathBuf,
        /// Manifests that would be in it.
        entries: usize,
        /// The length that it would have.
        bytes: usize,
    },
    /// containerd refused or failed.
    #[error(transparent)]
    Containerd(#[from] ContainerdError),
    /// A record cannot be read.
    #[error("record {} cannot be used", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl StoreError {
    fn io(op: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { op, path, source }
    }
}
