//! Why an image or a layer cannot be served lazily: one error for everything from its manifest to its mount.

use std::sync::Arc;

use soci_core::digest::{Digest, DigestError};
use soci_core::image::{ConfigError, ManifestError};
use soci_core::prefetch::ArtifactError;
use soci_core::registry::RegistryError;
use soci_core::store::StoreError;
use soci_core::tree::Reason;
use soci_core::ztoc::ZtocError;

/// Why an image or layer cannot be served lazily now.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The registry did not give a manifest or blob.
    #[error("{what} {digest} could not be fetched")]
    Registry {
        /// What was asked for.
        what: &'static str,
        /// Its digest.
        digest: Digest,
        /// The registry client's error.
        #[source]
        source: Box<RegistryError>,
    },
    /// The store of small blobs failed.
    #[error("content store failed")]
    Store(#[from] StoreError),
    /// A manifest cannot be used.
    #[error("manifest {digest} is not valid")]
    Manifest {
        /// The manifest.
        digest: Digest,
        /// What is wrong.
        #[source]
        source: ManifestError,
    },
    /// The image's configuration cannot be used.
    #[error("image configuration is not valid")]
    Config(#[source] ConfigError),
    /// A manifest is no SOCI index.
    #[error("manifest {digest} with config type {config:?} is not a SOCI index")]
    NotAnIndex {
        /// The manifest.
        digest: Digest,
        /// Its config's media type.
        config: String,
    },
    /// An annotation that should hold a digest does not.
    #[error("annotation {key} holds no digest")]
    Annotation {
        /// The annotation.
        key: &'static str,
        /// What is wrong.
        #[source]
        source: DigestError,
    },
    /// A zTOC cannot be used.
    #[error("zTOC {digest} is not valid")]
    Ztoc {
        /// The zTOC.
        digest: Digest,
        /// What is wrong.
        #[source]
        source: ZtocError,
    },
    /// A zTOC speaks of another layer.
    #[error("zTOC is for a layer of {found} bytes, the image's layer has {wanted}")]
    Size {
        /// The size in the zTOC.
        found: u64,
        /// The size in the manifest.
        wanted: u64,
    },
    /// A span is too long to be fetched and checked in memory.
    #[error("the index has a span of {length} bytes; the limit `span-bytes` is {limit}")]
    LongSpan {
        /// Compressed bytes of the longest span.
        length: u64,
        /// The limit.
        limit: u64,
    },
    /// The layer would be too long once it is plain.
    #[error("the index gives the layer {length} plain bytes; the limit `plain-bytes` is {limit}")]
    LongLayer {
        /// Plain bytes.
        length: u64,
        /// The limit.
        limit: u64,
    },
    /// The index has no zTOC for the layer, and its fine index cannot be used.
    #[error("the layer has no zTOC, and its fine index cannot be used")]
    NoTable,
    /// A prefetch artifact cannot be used.
    #[error("prefetch artifact {digest} is not valid")]
    Artifact {
        /// The artifact.
        digest: Digest,
        /// What is wrong.
        #[source]
        source: ArtifactError,
    },
    /// The layer has entries that no layer can have. No unpacker takes them either.
    #[error("layer has {count} entries that cannot be shown, the first is {name:?}: {reason}")]
    Entries {
        /// How many.
        count: usize,
        /// Name of the first.
        name: String,
        /// What is wrong with it.
        reason: Reason,
    },
    /// The cache directory failed.
    #[error("span cache could not be opened")]
    Cache(#[source] std::io::Error),
    /// A blob is larger than its descriptor or than what is sane.
    #[error("{what} {digest} has {size} bytes, the limit is {limit}")]
    TooLarge {
        /// What it is.
        what: &'static str,
        /// Its digest.
        digest: Digest,
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// The registry gives no parts of the layer: it can only be read as a whole.
    #[error("the registry gives no parts of layer {0}: it ignores ranges")]
    NoParts(Digest),
    /// It was looked for a short while ago, and failed.
    #[error(transparent)]
    Shared(Arc<LayerError>),
    /// The process is ending.
    #[error("the work was cut off")]
    CutOff,
}

impl LayerError {
    /// Whether the next attempt will say the same: it is what the bytes say that are named by digest, or the configuration.
    pub fn is_for_good(&self) -> bool {
        match self {
            Self::Manifest { .. }
            | Self::Config(_)
            | Self::NotAnIndex { .. }
            | Self::Annotation { .. }
            | Self::Ztoc { .. }
            | Self::Size { .. }
            | Self::LongSpan { .. }
            | Self::LongLayer { .. }
            | Self::NoTable
            | Self::Artifact { .. }
            | Self::Entries { .. }
            | Self::TooLarge { .. }
            | Self::NoParts(_) => true,
            Self::Shared(error) => error.is_for_good(),
            Self::Registry { .. } | Self::Store(_) | Self::Cache(_) | Self::CutOff => false,
        }
    }

    /// Whether something that it needs is neither here nor at the registry any more, or is damaged here.
    pub fn is_lost(&self) -> bool {
        match self {
            Self::Registry { source, .. } => matches!(**source, RegistryError::NotFound { .. }),
            Self::Store(_) => true,
            Self::Shared(error) => error.is_lost(),
            _ => false,
        }
    }

    pub(crate) fn registry(what: &'static str, digest: Digest, source: RegistryError) -> Self {
        Self::Registry { what, digest, source: Box::new(source) }
    }
}
