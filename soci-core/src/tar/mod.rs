//! Tar archives as Go's `archive/tar` reads them: the tables of upstream's zTOCs are made with that reader,
//! so names, offsets and errors must agree with it.
//!
//! Owns no state of its own. Invariant: whatever the chunking of the input, the same entries come out.

mod entry;
mod error;
mod header;
mod parser;
mod pax;

pub use entry::{Entry, EntryKind, Mtime, XATTR_PREFIX};
pub use error::TarError;
pub use parser::Parser;

/// Receiver of what [`Parser`] finds, in archive order.
pub trait Sink {
    /// A complete entry; its content, if any, follows through [`Sink::data`].
    fn entry(&mut self, entry: Entry) -> Result<(), TarError>;

    /// The next bytes of content of the last entry.
    fn data(&mut self, bytes: &[u8]) -> Result<(), TarError>;
}

/// End of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TarEnd {
    /// Bytes consumed when the end was recognised: padding after the second zero block is not counted.
    pub uncompressed_archive_size: u64,
}
