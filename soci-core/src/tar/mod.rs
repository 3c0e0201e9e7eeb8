//! Tar archives as Go's `archive/tar` reads them: the tables of upstream's zTOCs are made with that reader,
//! so names, offsets and errors must agree with it; and containerd unpacks layers with it.
//!
//! The parser reads all that containers are run from. What a zTOC has no words for comes through [`Sink::special`], and
//! each sink decides about it: a zTOC refuses the layer, an unpacker writes the file.
//!
//! Owns no state of its own. Invariant: whatever the chunking of the input, the same entries come out.

mod contents;
mod entry;
mod error;
mod header;
mod parser;
mod pax;
mod sparse;

pub use contents::ContentDigests;
pub(crate) use contents::ContentHasher;
pub use entry::{Entry, EntryKind, Mtime, Special, XATTR_PREFIX};
pub use error::TarError;
pub use parser::Parser;

/// Receiver of what [`Parser`] finds, in archive order.
pub trait Sink {
    /// Why it refuses something.
    type Error: From<TarError>;

    /// A complete entry; its content, if any, follows through [`Sink::data`].
    fn entry(&mut self, entry: Entry) -> Result<(), Self::Error>;

    /// An entry that a zTOC cannot describe. Content, if any, follows through [`Sink::data`] and [`Sink::hole`].
    fn special(&mut self, entry: Entry, special: Special) -> Result<(), Self::Error>;

    /// The next bytes of content of the last entry.
    fn data(&mut self, bytes: &[u8]) -> Result<(), Self::Error>;

    /// The next bytes of the last entry, a sparse file, are zeros that the archive does not store.
    fn hole(&mut self, length: u64) -> Result<(), Self::Error>;
}

/// End of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TarEnd {
    /// Bytes consumed when the end was recognised: padding after the second zero block is not counted.
    pub uncompressed_archive_size: u64,
}
