//! How much memory and time a registry or a configuration may take, each with its reason. They are enforced where the bytes
//! are parsed, or where the memory is taken.
//!
//! Those of single decoders are beside them (`soci_core::budget`). No state lives here.

/// Longest span, compressed bytes: it is fetched and checked in memory. Tools make spans of 4 MiB; a span may be a whole
/// layer that cannot be divided.
pub const SPAN_BYTES: u64 = 256 << 20;

/// Longest layer that is lazy, plain bytes: its cache has two bits for each page, on disk and in memory (32 MiB for this).
/// The largest images have layers of some tens of gigabytes.
pub const PLAIN_BYTES: u64 = 1 << 40;

/// Bytes of whole layers that are on their way in the whole node: what requests at once, chunks and layers would multiply
/// to with the values that are usual for other snapshotters is 4 GiB.
pub const WHOLE_LAYER_BYTES: u64 = 256 << 20;

/// Compressed bytes of a layer that the background fetches at a time: as much as a span of upstream's tools, also when
/// spans are smaller.
pub const BACKGROUND_BYTES: u64 = 4 << 20;

/// How often the background goes through a layer whose spans fail.
pub const BACKGROUND_ROUNDS: u32 = 3;
