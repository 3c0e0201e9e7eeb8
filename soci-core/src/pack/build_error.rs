//! Why no pack was made. Holds no state.

use std::io;

use super::{MAX_BLOCKS, MAX_EXTENTS, MAX_LAYERS, MAX_PLAIN, PackError};
use crate::{digest::Digest, index::LayerBuildError, store::StoreError, units::ByteRange};

/// Why no pack was made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackBuildError {
    /// A layer cannot be read.
    #[error("layer {0}")]
    Layer(Digest, #[source] Box<LayerBuildError>),
    /// Nothing is needed of any layer that can be read in parts.
    #[error("nothing of what is needed lies in a layer that is served in parts: there is nothing to pack")]
    Nothing,
    /// Not even the first block fits.
    #[error("the budget of {0} bytes is too small for any block")]
    Budget(u64),
    /// More than a pack can have.
    #[error(
        "{plain} bytes in {extents} extents are needed; a pack has at most {MAX_PLAIN} in {MAX_EXTENTS}, in {MAX_BLOCKS} blocks"
    )]
    TooLarge {
        /// Bytes that are needed.
        plain: u64,
        /// In so many extents.
        extents: usize,
    },
    /// The image has more layers than a pack can name.
    #[error("the image has more than {MAX_LAYERS} layers")]
    TooManyLayers,
    /// Bytes that a layer does not have, though its table says so.
    #[error("bytes {0} of a layer are not there")]
    Missing(ByteRange),
    /// The file for bytes of the pack in the making failed.
    #[error("temporary file beside the records of artifacts")]
    Scratch(#[source] io::Error),
    /// A block cannot be compressed.
    #[error("compress a block")]
    Compress(#[source] io::Error),
    /// The pack that was made is none.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl PackBuildError {
    /// Image and plan give no pack, and nothing went wrong.
    pub(super) const fn is_of_the_image(&self) -> bool {
        matches!(self, Self::Nothing | Self::TooLarge { .. } | Self::TooManyLayers)
    }
}
