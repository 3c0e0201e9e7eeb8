//! Why a pack is not used, or not any more.

use soci_core::digest::Digest;
use soci_core::pack::PackError;
use soci_core::registry::FetchError;

use crate::span::SpanError;

/// Why a pack was dropped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PackFailure {
    /// The registry did not give the bytes.
    #[error("fetch of the pack failed")]
    Fetch(#[from] FetchError),
    /// The registry gave less than it said.
    #[error("the pack ended early")]
    Short,
    /// The head or a block is not valid.
    #[error("pack is not valid")]
    Pack(#[from] PackError),
    /// It was made for another image.
    #[error("pack is for image manifest {0}")]
    OtherImage(Digest),
    /// Its size is another than its manifest says.
    #[error("pack says that it has {found} bytes, its manifest says {wanted}")]
    Size {
        /// In the head.
        found: u64,
        /// In the manifest.
        wanted: u64,
    },
    /// A cache could not be written.
    #[error("pages of the pack could not be stored")]
    Store(#[source] SpanError),
    /// A span has shown that its bytes are not the layer's.
    #[error("the pack's bytes are not those of the layers")]
    Wrong,
    /// The image has no index, or none of its layers can be lazy.
    #[error("no layer of the image is served lazily")]
    NothingLazy,
    /// Nobody uses the layers any more, or the process ends.
    #[error("the pack is not needed any more")]
    Over,
}
