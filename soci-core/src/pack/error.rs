//! Why a pack cannot be used. Never a reason to fail a mount: a reader goes on without the pack.

use std::io;

use super::{MAX_BLOCK, MAX_BLOCKS, MAX_EXTENTS, MAX_HEAD, MAX_LAYERS, MAX_PLAIN, MAX_STORED, MAX_TABLE};
use crate::{digest::Digest, units::ByteRange};

/// Why a pack cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// Over [`MAX_HEAD`].
    #[error("pack head of {0} bytes is longer than {MAX_HEAD}")]
    HeadTooLarge(u64),
    /// Other bytes than the descriptor of the blob pins.
    #[error("pack head has digest {actual}, its descriptor says {expected}")]
    HeadDigest {
        /// By the descriptor.
        expected: Digest,
        /// Of the bytes.
        actual: Digest,
    },
    /// The head ends inside of what it announces.
    #[error("pack head ends early: it is {actual} bytes long and announces {expected}")]
    HeadShort {
        /// What the head should have at least.
        expected: u64,
        /// What it has.
        actual: u64,
    },
    /// Bytes behind what the head announces.
    #[error("pack head has {0} bytes behind its table")]
    HeadTrailing(u64),
    /// Not a pack.
    #[error("this is not a pack: its first bytes are others")]
    Magic,
    /// A version that is not read.
    #[error("pack version {0} is not supported")]
    Version(u16),
    /// A flag that is not known.
    #[error("pack has unknown flags {0:#x}")]
    Flags(u16),
    /// No layer, no block, or fewer extents than blocks.
    #[error("pack has {layers} layers, {blocks} blocks and {extents} extents")]
    Empty {
        /// Layers announced.
        layers: usize,
        /// Blocks announced.
        blocks: usize,
        /// Extents announced.
        extents: usize,
    },
    /// Over [`MAX_LAYERS`].
    #[error("pack names {0} layers, more than {MAX_LAYERS}")]
    TooManyLayers(usize),
    /// Over [`MAX_BLOCKS`].
    #[error("pack has {0} blocks, more than {MAX_BLOCKS}")]
    TooManyBlocks(usize),
    /// Over [`MAX_EXTENTS`].
    #[error("pack has {0} extents, more than {MAX_EXTENTS}")]
    TooManyExtents(usize),
    /// Over [`MAX_TABLE`].
    #[error("table of the pack is {0} bytes long, more than {MAX_TABLE}")]
    TableTooLarge(u64),
    /// More blocks in front than there are.
    #[error("pack has {blocks} blocks, of which {must_have} are to be had first")]
    MustHave {
        /// How many are to be had first.
        must_have: usize,
        /// How many there are.
        blocks: usize,
    },
    /// The table does not decompress.
    #[error("table of the pack cannot be decompressed")]
    Table(#[source] io::Error),
    /// The table has another length than the header says.
    #[error("table of the pack has {actual} bytes, the header says {expected}")]
    TableLength {
        /// What the header says.
        expected: u64,
        /// What the table has.
        actual: u64,
    },
    /// The table ends inside of a record, or has a number that is no number.
    #[error("table of the pack is malformed at byte {0}")]
    TableMalformed(usize),
    /// Bytes behind the last record.
    #[error("table of the pack has {0} bytes behind its last record")]
    TableTrailing(usize),
    /// A layer that is listed twice.
    #[error("pack lists layer {0} twice")]
    DuplicateLayer(Digest),
    /// A layer without extents.
    #[error("pack lists layer {0} but holds nothing of it")]
    UnusedLayer(Digest),
    /// Stored bytes of a block: none, or over [`MAX_STORED`].
    #[error("block {block} is stored in {stored} bytes, not in 1 to {MAX_STORED}")]
    StoredLength {
        /// The block.
        block: usize,
        /// Its stored bytes.
        stored: u64,
    },
    /// A block without extents.
    #[error("block {0} has no extents")]
    EmptyBlock(usize),
    /// A block over [`MAX_BLOCK`].
    #[error("block {0} holds more than {MAX_BLOCK} plain bytes")]
    BlockTooLarge(usize),
    /// All blocks together are over [`MAX_PLAIN`].
    #[error("pack holds more than {MAX_PLAIN} plain bytes")]
    TooLarge,
    /// Blocks have more or fewer extents than the header says.
    #[error("blocks have {actual} extents, the header says {expected}")]
    ExtentCount {
        /// What the header says.
        expected: usize,
        /// What the blocks have, as far as they were read.
        actual: usize,
    },
    /// An extent of a layer that is not listed.
    #[error("an extent of block {block} is of layer number {layer}, which there is not")]
    ExtentLayer {
        /// The block.
        block: usize,
        /// Number of the layer.
        layer: u64,
    },
    /// An extent without bytes.
    #[error("an extent of block {0} is empty")]
    EmptyExtent(usize),
    /// An extent that starts before the layer or ends where no layer does.
    #[error("an extent of block {0} lies outside of any layer")]
    ExtentRange(usize),
    /// Bytes that are in two extents.
    #[error("bytes {range} of layer {layer} are in the pack twice")]
    Overlap {
        /// The layer.
        layer: Digest,
        /// The bytes, or the first of them.
        range: ByteRange,
    },
    /// The blob is not as long as its parts.
    #[error("pack is {size} bytes long by its header, its parts are {parts}")]
    Size {
        /// By the header.
        size: u64,
        /// Head and blocks together.
        parts: u64,
    },
    /// A layer that the image does not have, or whose length is not known.
    #[error("pack is of another image: it names layer {0}")]
    ForeignLayer(Digest),
    /// An extent that ends behind its layer.
    #[error("pack names bytes {range} of layer {layer}, which has {size}")]
    OutsideLayer {
        /// The layer.
        layer: Digest,
        /// The extent.
        range: ByteRange,
        /// Plain bytes of the layer.
        size: u64,
    },
    /// There is no such block.
    #[error("pack has no block {0}")]
    NoBlock(usize),
    /// Not as many bytes as the block has.
    #[error("block {block} is stored in {expected} bytes, got {actual}")]
    BlockLength {
        /// The block.
        block: usize,
        /// By the head.
        expected: u64,
        /// Given.
        actual: u64,
    },
    /// Other bytes than the head pins.
    #[error("block {block} has digest {actual}, the head says {expected}")]
    BlockDigest {
        /// The block.
        block: usize,
        /// By the head.
        expected: Digest,
        /// Of the bytes.
        actual: Digest,
    },
    /// The block does not decompress, or to more than its extents.
    #[error("block {block} cannot be decompressed to the {plain} bytes of its extents")]
    BlockDamaged {
        /// The block.
        block: usize,
        /// Sum of its extents.
        plain: u64,
        /// What the library said.
        source: io::Error,
    },
    /// The block holds less than its extents.
    #[error("block {block} holds {actual} bytes, its extents are {plain}")]
    BlockShort {
        /// The block.
        block: usize,
        /// Sum of its extents.
        plain: u64,
        /// What it holds.
        actual: u64,
    },
}
