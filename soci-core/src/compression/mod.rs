//! Compressed layers as sequences of spans that can be decompressed alone.
//!
//! Owns no state. Invariant: the checkpoint blobs of gzip and plain layers are upstream's, byte for byte, for the same
//! layer and span size; upstream has none for zstd.

pub(crate) mod format;
pub(crate) mod gzip;
pub(crate) mod uncompressed;
pub(crate) mod zstd;
