//! Why bytes are not a zTOC that can be trusted to describe a layer.
//!
//! Owns no state. Invariant: an error means that the layer must be fetched and unpacked whole instead.

use crate::budget::OverLimit;

/// Why a zTOC was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ZtocError {
    /// An offset, length or table of the flatbuffer points outside of the bytes.
    #[error("zTOC is damaged: an offset or length is out of bounds")]
    OutOfBounds,
    /// A field that every zTOC has is absent.
    #[error("zTOC has no {0}")]
    Missing(&'static str),
    /// It would take more memory or steps than its length allows: parts of it are claimed many times over.
    #[error("zTOC is refused: {0}")]
    OverLimit(#[from] OverLimit),
    /// A number outside of what its field allows.
    #[error("zTOC has an invalid {what}: {value}")]
    Number {
        /// Which number.
        what: &'static str,
        /// Its value.
        value: i64,
    },
    /// Compression algorithm other than gzip (1), uncompressed (2) and zstd (3).
    #[error("zTOC has unknown compression algorithm {0}")]
    Algorithm(i8),
    /// The checkpoint blob has a length or a field that its kind does not allow.
    #[error("zTOC has invalid checkpoints: {0}")]
    Checkpoints(&'static str),
    /// Number of spans, digests and the largest span id disagree.
    #[error("zTOC has {spans} spans but {digests} digests and largest span id {max_span_id}")]
    SpanCount {
        /// Spans in the checkpoint blob.
        spans: u64,
        /// Entries of the digest list.
        digests: u64,
        /// The recorded largest id.
        max_span_id: i32,
    },
    /// Not a fine table, or one of a version that is not known.
    #[error("fine table is damaged or unknown: {0}")]
    Table(&'static str),
    /// An entry cannot lie where the zTOC says, or has an unknown type, name or time.
    #[error("zTOC entry {index} is invalid: {reason}")]
    Entry {
        /// Index of the entry in tar order.
        index: usize,
        /// What is wrong.
        reason: &'static str,
    },
}
