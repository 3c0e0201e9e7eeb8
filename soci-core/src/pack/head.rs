//! The head of a pack: which bytes of which layers are in which block, and where the blocks are.
//!
//! [`PackHead`] owns the decoded table. What must always hold: everything that its accessors give was checked; blocks are
//! without gaps from the end of the head to the end of the blob.
//!
//! ```text
//!   0  8 bytes "SOCIPACK"       12  u32 stored bytes of the table     72  u32 extents
//!   8  u16 version (1)          16  u32 plain bytes of the table      76  u32 blocks to be had first
//!  10  u16 flags (0)            20  u32 layers                        80  digests of the layers, 32 bytes each
//!                               24  u64 bytes of the blob                 digests of the blocks, 32 bytes each
//!                               32  digest of the image manifest          the table, a zstd frame
//!                               64  u32 blocks, 68 u32 zero
//! ```
//!
//! The table has for each block its stored bytes and the number of its extents, and for each of those the layer, how far
//! it starts behind the end of the layer's extent before it (folded difference), and its length.

use std::ops::Range;

use super::{
    MAX_BLOCK, MAX_BLOCKS, MAX_EXTENTS, MAX_HEAD, MAX_LAYERS, MAX_PLAIN, MAX_STORED, MAX_TABLE, PackError,
    table::Numbers,
};
use crate::{
    digest::Digest,
    units::ByteRange,
    varint::{put_varint, unzigzag, zigzag},
};

const MAGIC: &[u8; 8] = b"SOCIPACK";
const VERSION: u16 = 1;
pub(super) const DIGEST: usize = 32;
/// Bytes before the digests of the layers.
pub(super) const HEADER: usize = 80;
/// Offsets in a layer stay below this, so that differences fit.
const MAX_OFFSET: u64 = i64::MAX as u64;

/// Consecutive plain bytes of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Extent {
    /// Index in [`PackHead::layers`].
    pub layer: u16,
    /// Plain bytes of the layer's tar; never empty.
    pub range: ByteRange,
}

/// One block of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Its place in the blob.
    pub stored: ByteRange,
    /// Digest of the stored bytes.
    pub digest: Digest,
    /// Its extents in the table of all.
    pub(super) extents: Range<usize>,
    /// Sum of their lengths.
    pub(super) plain: u64,
}

impl Block {
    /// Plain bytes of the block.
    pub const fn plain_len(&self) -> u64 {
        self.plain
    }
}

/// A verified head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackHead {
    image: Digest,
    layers: Vec<Digest>,
    blocks: Vec<Block>,
    extents: Vec<Extent>,
    must_have: usize,
    size: u64,
}

impl PackHead {
    /// Opens a head; `bytes` are exactly its bytes. That they have the digest that the descriptor of the blob pins is the
    /// caller's duty.
    ///
    /// # Errors
    /// See [`PackError`]: limits, lengths and all places are checked.
    pub fn open(bytes: &[u8]) -> Result<Self, PackError> {
        let actual = bytes.len() as u64;
        if actual > MAX_HEAD {
            return Err(PackError::HeadTooLarge(actual));
        }
        let short = |expected: usize| PackError::HeadShort { expected: expected as u64, actual };
        let (header, rest) = bytes.split_first_chunk::<HEADER>().ok_or_else(|| short(HEADER))?;
        let header = Header::read(header)?;
        let digests = (header.layers + header.blocks) * DIGEST;
        let expected = HEADER + digests + header.table_stored;
        match rest.len().cmp(&(digests + header.table_stored)) {
            std::cmp::Ordering::Less => return Err(short(expected)),
            std::cmp::Ordering::Greater => {
                return Err(PackError::HeadTrailing(actual - expected as u64));
            }
            std::cmp::Ordering::Equal => {}
        }
        let (digests, stored) = rest.split_at(digests);
        let mut digests = digests.as_chunks::<DIGEST>().0.iter().map(|bytes| Digest::from_bytes(*bytes));
        let layers: Vec<Digest> = digests.by_ref().take(header.layers).collect();
        let plain = zstd::bulk::decompress(stored, header.table_plain).map_err(PackError::Table)?;
        if plain.len() != header.table_plain {
            let (expected, actual) = (header.table_plain as u64, plain.len() as u64);
            return Err(PackError::TableLength { expected, actual });
        }
        let mut head = Self {
            image: header.image,
            layers,
            blocks: Vec::with_capacity(header.blocks),
            extents: Vec::with_capacity(header.extents.min(plain.len())),
            must_have: header.must_have,
            size: header.size,
        };
        head.read_table(&plain, digests, header.extents, actual)?;
        drop(plain);
        head.check_layers_once()?;
        head.check_overlaps()?;
        Ok(head)
    }

    fn read_table(
        &mut self,
        plain: &[u8],
        digests: impl Iterator<Item = Digest>,
        extents: usize,
        head: u64,
    ) -> Result<(), PackError> {
        let mut numbers = Numbers::new(plain);
        let mut ends = vec![0u64; self.layers.len()];
        let (mut at, mut total) = (head, 0u64);
        for (block, digest) in digests.enumerate() {
            let stored = number(&mut numbers)?;
            if stored == 0 || stored > MAX_STORED {
                return Err(PackError::StoredLength { block, stored });
            }
            let first = self.extents.len();
            let count = number(&mut numbers)?;
            if count == 0 {
                return Err(PackError::EmptyBlock(block));
            }
            let end = usize::try_from(count).unwrap_or(usize::MAX).saturating_add(first);
            if end > extents {
                return Err(PackError::ExtentCount { expected: extents, actual: end });
            }
            let mut length = 0u64;
            for _ in first..end {
                let extent = extent(&mut numbers, &mut ends, block)?;
                length = length.saturating_add(extent.range.len());
                self.extents.push(extent);
            }
            if length > MAX_BLOCK {
                return Err(PackError::BlockTooLarge(block));
            }
            total += length;
            if total > MAX_PLAIN {
                return Err(PackError::TooLarge);
            }
            let stored = ByteRange::new(at, at + stored);
            at = stored.end;
            self.blocks.push(Block { stored, digest, extents: first..end, plain: length });
        }
        if self.extents.len() != extents {
            return Err(PackError::ExtentCount { expected: extents, actual: self.extents.len() });
        }
        if numbers.rest() != 0 {
            return Err(PackError::TableTrailing(numbers.rest()));
        }
        if at != self.size {
            return Err(PackError::Size { size: self.size, parts: at });
        }
        Ok(())
    }

    fn check_layers_once(&self) -> Result<(), PackError> {
        let mut sorted = self.layers.clone();
        sorted.sort_unstable();
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(PackError::DuplicateLayer(pair[0]));
        }
        let mut used = vec![false; self.layers.len()];
        for extent in &self.extents {
            used[usize::from(extent.layer)] = true;
        }
        match used.iter().position(|used| !used) {
            Some(layer) => Err(PackError::UnusedLayer(self.layers[layer])),
            None => Ok(()),
        }
    }

    fn check_overlaps(&self) -> Result<(), PackError> {
        let mut sorted = self.extents.clone();
        sorted.sort_unstable();
        let twice = sorted.windows(2).find_map(|pair| {
            let both = pair[0].range.intersect(&pair[1].range)?;
            (pair[0].layer == pair[1].layer).then_some((pair[0].layer, both))
        });
        match twice {
            Some((layer, range)) => Err(PackError::Overlap { layer: self.layers[usize::from(layer)], range }),
            None => Ok(()),
        }
    }

    /// The image manifest that it was made for.
    pub const fn image(&self) -> Digest {
        self.image
    }

    /// The layers that extents speak of.
    pub fn layers(&self) -> &[Digest] {
        &self.layers
    }

    /// The blocks, first need first.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// The extents of a block, whose bytes follow one another in it; none if there is no such block.
    pub fn extents(&self, block: usize) -> &[Extent] {
        self.blocks.get(block).map_or(&[], |block| &self.extents[block.extents.clone()])
    }

    /// All extents, those of the first block first.
    pub fn all_extents(&self) -> &[Extent] {
        &self.extents
    }

    /// Bytes of the whole blob.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of the head: the first block follows it.
    pub fn head_size(&self) -> u64 {
        self.blocks.first().map_or(self.size, |block| block.stored.start)
    }

    /// Plain bytes of all blocks.
    pub fn plain_size(&self) -> u64 {
        self.blocks.iter().map(Block::plain_len).sum()
    }

    /// So many blocks at the front hold what is needed before the workload is ready; the rest is the tail.
    pub const fn must_have(&self) -> usize {
        self.must_have
    }

    /// Checks that every extent lies in its layer. `plain_size` gives the length of a layer's tar, `None` when the layer is
    /// not one of the image.
    ///
    /// # Errors
    /// For a layer without length, and for the first extent that ends behind its layer.
    pub fn check_layers(&self, plain_size: impl Fn(&Digest) -> Option<u64>) -> Result<(), PackError> {
        let sizes: Vec<u64> = self
            .layers
            .iter()
            .map(|layer| plain_size(layer).ok_or(PackError::ForeignLayer(*layer)))
            .collect::<Result<_, _>>()?;
        for extent in &self.extents {
            let layer = usize::from(extent.layer);
            if extent.range.end > sizes[layer] {
                let (layer, range, size) = (self.layers[layer], extent.range, sizes[layer]);
                return Err(PackError::OutsideLayer { layer, range, size });
            }
        }
        Ok(())
    }
}

fn number(numbers: &mut Numbers<'_>) -> Result<u64, PackError> {
    let at = numbers.at();
    numbers.next().ok_or(PackError::TableMalformed(at))
}

/// `ends[n]` is where the last extent of layer `n` ended.
fn extent(numbers: &mut Numbers<'_>, ends: &mut [u64], block: usize) -> Result<Extent, PackError> {
    let number_of = number(numbers)?;
    let layer = usize::try_from(number_of).ok().filter(|&layer| layer < ends.len());
    let layer = layer.ok_or(PackError::ExtentLayer { block, layer: number_of })?;
    let difference = unzigzag(number(numbers)?);
    let length = number(numbers)?;
    if length == 0 {
        return Err(PackError::EmptyExtent(block));
    }
    let start = ends[layer].checked_add_signed(difference);
    let end = start.and_then(|start| start.checked_add(length)).filter(|&end| end <= MAX_OFFSET);
    let (Some(start), Some(end)) = (start, end) else { return Err(PackError::ExtentRange(block)) };
    ends[layer] = end;
    // At most MAX_LAYERS layers.
    Ok(Extent { layer: layer as u16, range: ByteRange::new(start, end) })
}

/// The fixed part, its numbers within their limits.
struct Header {
    table_stored: usize,
    table_plain: usize,
    layers: usize,
    size: u64,
    image: Digest,
    blocks: usize,
    extents: usize,
    must_have: usize,
}

impl Header {
    fn read(bytes: &[u8; HEADER]) -> Result<Self, PackError> {
        fn field<const N: usize>(bytes: &[u8; HEADER], at: usize) -> [u8; N] {
            std::array::from_fn(|i| bytes[at + i])
        }
        let word = |at: usize| u32::from_le_bytes(field(bytes, at)) as usize;
        if field::<8>(bytes, 0) != *MAGIC {
            return Err(PackError::Magic);
        }
        match u16::from_le_bytes(field(bytes, 8)) {
            VERSION => {}
            version => return Err(PackError::Version(version)),
        }
        match u16::from_le_bytes(field(bytes, 10)) {
            0 if word(68) == 0 => {}
            flags => return Err(PackError::Flags(flags)),
        }
        let header = Self {
            table_stored: word(12),
            table_plain: word(16),
            layers: word(20),
            size: u64::from_le_bytes(field(bytes, 24)),
            image: Digest::from_bytes(field(bytes, 32)),
            blocks: word(64),
            extents: word(72),
            must_have: word(76),
        };
        let Self { layers, blocks, extents, must_have, .. } = header;
        if layers == 0 || blocks == 0 || extents < blocks {
            return Err(PackError::Empty { layers, blocks, extents });
        }
        if layers > MAX_LAYERS {
            return Err(PackError::TooManyLayers(layers));
        }
        if blocks > MAX_BLOCKS {
            return Err(PackError::TooManyBlocks(blocks));
        }
        if extents > MAX_EXTENTS {
            return Err(PackError::TooManyExtents(extents));
        }
        if must_have > blocks {
            return Err(PackError::MustHave { must_have, blocks });
        }
        match header.table_plain.max(header.table_stored) as u64 {
            table if table > MAX_TABLE => Err(PackError::TableTooLarge(table)),
            _ => Ok(header),
        }
    }
}

/// A block that was written, for [`encode`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) stored: u64,
    pub(super) digest: Digest,
    pub(super) extents: Vec<Extent>,
}

/// The bytes of a head. Limits are checked by who reads it.
pub(super) fn encode(
    image: &Digest,
    layers: &[Digest],
    blocks: &[Written],
    must_have: usize,
    level: i32,
) -> std::io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    let mut ends = vec![0u64; layers.len()];
    for block in blocks {
        put_varint(&mut plain, block.stored);
        put_varint(&mut plain, block.extents.len() as u64);
        for extent in &block.extents {
            let end = &mut ends[usize::from(extent.layer)];
            put_varint(&mut plain, u64::from(extent.layer));
            put_varint(&mut plain, zigzag(extent.range.start.wrapping_sub(*end) as i64));
            put_varint(&mut plain, extent.range.len());
            *end = extent.range.end;
        }
    }
    let stored = zstd::bulk::compress(&plain, level)?;
    let length = HEADER + DIGEST * (layers.len() + blocks.len()) + stored.len();
    let size = length as u64 + blocks.iter().map(|block| block.stored).sum::<u64>();
    let extents: usize = blocks.iter().map(|block| block.extents.len()).sum();
    let word = |number: usize| u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes();
    let mut head = Vec::with_capacity(length);
    head.extend(MAGIC);
    head.extend(VERSION.to_le_bytes());
    head.extend(0u16.to_le_bytes());
    head.extend([stored.len(), plain.len(), layers.len()].into_iter().flat_map(word));
    head.extend(size.to_le_bytes());
    head.extend(image.as_bytes());
    head.extend([blocks.len(), 0, extents, must_have].into_iter().flat_map(word));
    for digest in layers.iter().chain(blocks.iter().map(|block| &block.digest)) {
        head.extend(digest.as_bytes());
    }
    head.extend(stored);
    Ok(head)
}
