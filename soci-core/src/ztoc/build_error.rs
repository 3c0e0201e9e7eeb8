//! Why a layer has no zTOC. Holds no state.

use std::io;

use super::MAX_ZTOC;
use crate::compression::{gzip::GzipError, zstd::ZstdError};
use crate::tar::TarError;

/// Why a layer has no zTOC.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The layer could not be read.
    #[error("layer could not be read")]
    Read(#[source] io::Error),
    /// The layer is not a gzip file from its first to its last byte.
    #[error("layer is not valid gzip")]
    Gzip(#[from] GzipError),
    /// The layer is not zstd, or cannot be read in parts.
    #[error("zstd layer cannot be read in parts")]
    Zstd(#[from] ZstdError),
    /// The layer's tar cannot be described.
    #[error("layer's tar cannot be indexed")]
    Tar(#[from] TarError),
    /// A fine index's tables or windows could not be compressed: memory is exhausted.
    #[error("fine index cannot be compressed")]
    Press(#[source] io::Error),
    /// 0 for a plain tar or a fine index, or more than 2^63 - 1.
    #[error("span size {0} is not possible")]
    SpanSize(u64),
    /// The zTOC would pass what its readers take: too many spans or entries.
    #[error("zTOC would be larger than {} MiB; a larger span size may help", MAX_ZTOC >> 20)]
    TooLarge,
}
