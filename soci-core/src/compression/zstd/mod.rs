//! zstd with random access where the encoder allows it: frames can be decompressed alone, so spans are runs of frames.
//!
//! Owns no state. Invariant: a span starts at a frame and needs nothing from before it.

mod frames;
mod scan;

pub(crate) use frames::{Frames, FramesWriter};
pub(crate) use scan::{Progress, Scanner};

use zstd::stream::raw::{DParameter, Decoder};

/// Largest window that is decompressed: 128 MiB, what the zstd program takes without being asked for more.
pub(crate) const WINDOW_LOG: u32 = 27;

/// Most plain bytes of one frame in a layer that is served span by span: whoever reads one byte waits for all of them.
pub const MAX_FRAME: u64 = 64 << 20;

/// Why a zstd layer cannot be read in parts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ZstdError {
    /// The data is not zstd, is damaged, or needs more memory than is given to it.
    #[error("zstd data cannot be decompressed at compressed offset {offset}: {reason}")]
    Damaged {
        /// Compressed bytes consumed before the damage was seen.
        offset: u64,
        /// What the library said.
        reason: String,
    },
    /// The blob ends inside of a frame, or has none.
    #[error("zstd data ends early, at compressed offset {offset}")]
    Truncated {
        /// Length of the blob.
        offset: u64,
    },
    /// No place to start but the first byte.
    #[error("it is one zstd frame, which can only be read as a whole")]
    OneFrame,
    /// A frame over [`MAX_FRAME`].
    #[error("a zstd frame holds more than {MAX_FRAME} bytes, which can only be read as a whole")]
    LargeFrame,
}

/// A decoder at the start of a frame.
pub(crate) fn decoder() -> std::io::Result<Decoder<'static>> {
    let mut decoder = Decoder::new()?;
    decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG))?;
    Ok(decoder)
}
