//! gzip with random access, by checkpoints between deflate blocks (the method of zlib's `zran` example).
//!
//! Owns no state. Invariant: only `inflate.rs` holds `unsafe` code.

mod checkpoint;
mod extract;
mod inflate;
mod members;
mod scan;
mod zinfo;

pub(crate) use checkpoint::{Checkpoint, WINDOW};
pub(crate) use extract::{Extractor, Stop};
pub use inflate::InflateError;
pub(crate) use members::Members;
pub use scan::GzipError;
pub(crate) use scan::{Event, Scanner};
pub(crate) use zinfo::{Zinfo, ZinfoWriter};
