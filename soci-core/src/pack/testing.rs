//! Packs for tests: the writer's own of tars in memory, and forged ones with any blocks at all.
//!
//! Only built with the feature `testing`. Holds no state. A forged head has the right lengths and, unless told otherwise, the
//! right digests of its blocks; nothing else of it has to be true.

use super::{
    Extent, PackBuildError, PackHead,
    collect::Collected,
    head::{Written, encode},
    scratch::Scratch,
    write::{Bytes, lay_out, round, write},
};
use crate::{coverage::Coverage, digest::Digest, image::Descriptor, media_type, units::ByteRange};

/// A pack's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackBytes {
    /// The whole blob.
    pub blob: Vec<u8>,
    /// Its head.
    pub head: PackHead,
    /// Plain bytes of needed ranges that the budget cut.
    pub cut: u64,
    /// How many of them were needed or mapped before the workload was ready.
    pub cut_must_have: u64,
}

/// The pack that the writer makes of these needs, of layers with these digests and plain tars. The first `must_have` needs
/// are to be had first.
///
/// # Errors
/// What the writer says.
///
/// # Panics
/// When a tar cannot be read.
pub fn packed(
    image: &Digest,
    layers: &[(Digest, &[u8])],
    needs: &[(usize, ByteRange)],
    must_have: usize,
    budget: Option<u64>,
) -> Result<PackBytes, PackBuildError> {
    let scratch = || Scratch::new(tempfile::tempfile().expect("a temporary file can be made"));
    let mut plain = scratch();
    let collect = |(number, (_, tar)): (usize, &(Digest, &[u8]))| {
        let mut wanted = Coverage::default();
        for need in needs.iter().filter(|need| need.0 == number) {
            wanted.add(round(need.1, u64::MAX));
        }
        let wanted: Vec<ByteRange> = wanted.ranges().collect();
        let layer = Descriptor::new(media_type::OCI_LAYER, Digest::of(tar), tar.len() as u64);
        Some(Collected::read(&layer, *tar, &wanted, &mut plain).expect("a tar in memory can be read"))
    };
    let collected: Vec<_> = layers.iter().enumerate().map(collect).collect();
    let digests: Vec<_> = layers.iter().map(|(digest, _)| *digest).collect();
    let size = |layer: usize| layers.get(layer).map(|(_, tar)| tar.len() as u64);
    let (drafts, first) = lay_out(needs, [must_have; 2], size)?;
    let bytes = Bytes { layers: &collected, scratch: &plain };
    let packed = write(image, &digests, &drafts, first, &bytes, budget, scratch())?;
    let mut blob = packed.head_bytes;
    let blocks = ByteRange::new(0, packed.head.size() - blob.len() as u64);
    packed.blocks.read(blocks, &mut blob).map_err(PackBuildError::Scratch)?;
    Ok(PackBytes { blob, head: packed.head, cut: packed.cut, cut_must_have: packed.cut_must_have })
}

/// A block of a forged pack.
#[derive(Debug, Clone)]
pub struct ForgedBlock {
    /// Its extents by the head.
    pub extents: Vec<Extent>,
    /// Its stored bytes.
    pub stored: Vec<u8>,
    /// Its digest by the head; `None`: the right one.
    pub digest: Option<Digest>,
}

impl ForgedBlock {
    /// A block of these plain bytes, whatever its extents are.
    ///
    /// # Panics
    /// When memory is exhausted.
    pub fn of_plain(extents: &[Extent], plain: &[u8]) -> Self {
        let stored = zstd::bulk::compress(plain, 1).expect("bytes in memory can be compressed");
        Self { extents: extents.to_vec(), stored, digest: None }
    }
}

/// The blob of a forged pack, and the length of its head.
///
/// # Panics
/// When memory is exhausted, or an extent is of a layer that is not listed.
pub fn forged(image: &Digest, layers: &[Digest], blocks: &[ForgedBlock]) -> (Vec<u8>, u64) {
    let written = blocks.iter().map(|block| Written {
        stored: block.stored.len() as u64,
        digest: block.digest.unwrap_or_else(|| Digest::of(&block.stored)),
        extents: block.extents.clone(),
    });
    let written: Vec<_> = written.collect();
    let mut blob = encode(image, layers, &written, blocks.len(), 1).expect("a table can be compressed");
    let head = blob.len() as u64;
    blob.extend(blocks.iter().flat_map(|block| &block.stored));
    (blob, head)
}
