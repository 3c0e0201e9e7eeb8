//! Working-set packs: the bytes that one workload reads of one image, in the order of need.
//!
//! A pack is one blob: a *head* (header, digests, table; [`PackHead`]), then zstd blocks without gaps. Each block holds the
//! plain bytes of its *extents*, one after the other ([`open_block`]). [`make()`] makes one, [`verify()`] compares one with the layers.
//! Nothing here holds state. What must always hold: no byte of a layer is in two extents; a head that opens
//! names only blocks that lie in the blob and hold exactly what its extents say; what a block gives was checked against the
//! digest in the head. Whether those bytes are the layer's is known to none but the signer of the head: a reader compares
//! them with the layer's spans when those arrive.

mod block;
mod build;
mod build_error;
mod collect;
mod error;
mod head;
mod pin;
mod purpose;
mod report;
mod scratch;
mod table;
#[cfg(feature = "testing")]
pub mod testing;
mod verify;
mod write;

pub use block::{BlockOpener, open_block};
pub use build::{Budget, Destination, PackSettings, make, make_beside};
pub use build_error::PackBuildError;
pub use error::PackError;
pub use head::{Block, Extent, PackHead};
pub use pin::{HeadPin, head_pin};
pub use purpose::{Purpose, Selector, UNION};
pub use report::PackReport;
pub use verify::{VerifyError, verify};

/// Most plain bytes of one block: what a reader decompresses, and waits for, to get one byte.
pub const MAX_BLOCK: u64 = 1 << 20;
/// Most stored bytes of one block: what zstd makes of [`MAX_BLOCK`] bytes that do not compress, and room for a header.
pub const MAX_STORED: u64 = MAX_BLOCK + (MAX_BLOCK >> 8) + 64;
/// Most blocks: as many as [`MAX_PLAIN`] makes of 128 KiB, a quarter of what is written.
pub const MAX_BLOCKS: usize = 1 << 16;
/// Most plain bytes of a pack. Who needs more of an image at once is better off with all of it.
pub const MAX_PLAIN: u64 = 8 << 30;
/// Most extents: a working set of 4 GiB in single pages. In memory each takes 24 bytes.
pub const MAX_EXTENTS: usize = 1 << 20;
/// Most layers: overlayfs takes no more.
pub const MAX_LAYERS: usize = 500;
/// Most bytes of the table before compression: 16 for each extent, where 7 are usual.
pub const MAX_TABLE: u64 = 16 << 20;
/// Longest head: the digests of all blocks and layers and a table that did not compress.
pub const MAX_HEAD: u64 = MAX_TABLE + (4 << 20);
/// Most plain bytes of a block as it is written: enough for zstd to find repetitions in and for pages that are read out of
/// order to be neighbours again, and yet there within a hundredth of a second at 100 Mbit/s.
pub const BLOCK: u64 = 512 << 10;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod write_tests;
