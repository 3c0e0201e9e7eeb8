//! Compressed layers as sequences of spans that can be decompressed alone.
//!
//! Owns no state. Invariant: the checkpoint blobs made here are upstream's, byte for byte, for the same layer
//! and span size.

pub(crate) mod gzip;
pub(crate) mod uncompressed;
