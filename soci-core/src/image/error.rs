//! Why an image cannot be found or read. Holds no state.

use std::{io, path::PathBuf};

use super::{ConfigError, ManifestError, Platform};
use crate::{
    budget::OverLimit,
    digest::Digest,
    registry::{ParseError, RegistryError},
    store::StoreError,
    tar::TarError,
};

/// Why an image cannot be found or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The text is not a registry reference.
    #[error("{text:?} is not an image reference")]
    Reference {
        /// The text.
        text: String,
        /// Why.
        #[source]
        source: ParseError,
    },
    /// Nothing of that name is there.
    #[error("image {0:?}: not found")]
    NotFound(String),
    /// The layout has several images, and no tag was given.
    #[error("{0:?} names several images: add a tag")]
    Ambiguous(String),
    /// The image has no manifest for the platform.
    #[error("image manifest for {0}: not found")]
    NoPlatform(Platform),
    /// A blob that a manifest names is not there.
    #[error("{0}: not found")]
    NoBlob(Digest),
    /// A blob is larger than it may be.
    #[error("{digest} is larger than {limit} bytes")]
    BlobTooLarge {
        /// The blob.
        digest: Digest,
        /// The limit.
        limit: u64,
    },
    /// A blob does not have the size its descriptor gives.
    #[error("{digest} has {actual} bytes, expected {expected}")]
    BlobSize {
        /// The blob.
        digest: Digest,
        /// Size by the descriptor.
        expected: u64,
        /// Real size.
        actual: u64,
    },
    /// A blob does not have the digest that names it.
    #[error("content has digest {actual}, expected {expected}")]
    Mismatch {
        /// The digest that names it.
        expected: Digest,
        /// Its real digest.
        actual: Digest,
    },
    /// Its indexes name more than one image has, or name each other too deeply.
    #[error("image is refused: {0}")]
    OverLimit(#[from] OverLimit),
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is not a tar.
    #[error("{} is not a tar archive", path.display())]
    Archive {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: TarError,
    },
    /// The file is a tar in a compressed form, in which members have no places.
    #[error("{} is compressed with {compression}: decompress it first", path.display())]
    CompressedArchive {
        /// The file.
        path: PathBuf,
        /// The program's name.
        compression: &'static str,
    },
    /// The tar has more members than an image can have.
    #[error("{} has more than {limit} members", path.display())]
    TooManyMembers {
        /// The file.
        path: PathBuf,
        /// The limit.
        limit: usize,
    },
    /// The tar has no `index.json`.
    #[error("{} is not an OCI archive: it has no index.json", .0.display())]
    NoIndex(PathBuf),
    /// The manifest or index is not valid.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The config is not valid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The layout cannot be read.
    #[error(transparent)]
    Store(StoreError),
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}
