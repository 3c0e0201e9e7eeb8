//! A pack against the layers that it is of: every byte of every block.
//!
//! Owns nothing. What must always hold: a pack that passes gives each reader the bytes that the image's layers have.

use tokio::runtime::Handle;

use super::{Extent, PackError, PackHead, collect::Collected, open_block};
use crate::{
    coverage::Coverage,
    digest::Digest,
    image::Image,
    index::{Event, LayerBuildError, Told, planned},
    store::StoreError,
    units::ByteRange,
};

/// Why a pack is not what it says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// It is of another image.
    #[error("pack is of image manifest {pack}, this one is {image}")]
    Image {
        /// By the head.
        pack: Digest,
        /// That it was compared with.
        image: Digest,
    },
    /// A layer cannot be read.
    #[error("layer {0}")]
    Layer(Digest, #[source] Box<LayerBuildError>),
    /// Head and layers do not fit each other.
    #[error(transparent)]
    Head(#[from] PackError),
    /// A block cannot be read.
    #[error("block {block} cannot be read")]
    Read {
        /// The block.
        block: usize,
        /// Why.
        source: StoreError,
    },
    /// A block that is damaged.
    #[error("block {block} is wrong")]
    Block {
        /// The block.
        block: usize,
        /// Why.
        source: PackError,
    },
    /// A block with other bytes than the layer has.
    #[error("block {block} is wrong: byte {at} of layer {layer} is another one in the layer")]
    Differs {
        /// The block.
        block: usize,
        /// The layer.
        layer: Digest,
        /// Where the first such byte is in the layer's tar.
        at: u64,
    },
}

/// Compares every block with the layers of `image`, and names the first that is wrong. `read` gives stored bytes of the
/// blob. Blocks; not to be called on a thread that runs async tasks.
///
/// # Errors
/// When anything is not as the pack says, or cannot be read.
pub fn verify(
    head: &PackHead,
    image: &Image,
    read: impl Fn(ByteRange) -> Result<bytes::Bytes, StoreError>,
    runtime: &Handle,
    tell: &(dyn Fn(Event<'_>) + Sync),
) -> Result<(), VerifyError> {
    let (pack, is) = (head.image(), image.manifest.digest);
    if pack != is {
        return Err(VerifyError::Image { pack, image: is });
    }
    let layers = collect(head, image, runtime, tell)?;
    let place = |digest: &Digest| head.layers().iter().position(|layer| layer == digest);
    head.check_layers(|digest| Some(layers.get(place(digest)?)?.plain_size))?;
    for (block, it) in head.blocks().iter().enumerate() {
        let stored = read(it.stored).map_err(|source| VerifyError::Read { block, source })?;
        let plain =
            open_block(head, block, &stored).map_err(|source| VerifyError::Block { block, source })?;
        let mut rest = &plain[..];
        for extent in head.extents(block) {
            let Some((part, after)) = rest.split_at_checked(extent.range.len() as usize) else { break };
            rest = after;
            if let Some(at) = differs(part, extent, &layers) {
                let layer = head.layers()[usize::from(extent.layer)];
                return Err(VerifyError::Differs { block, layer, at });
            }
        }
    }
    Ok(())
}

/// Where the first byte of the layer is that an extent has another one for.
fn differs(part: &[u8], extent: &Extent, layers: &[Collected]) -> Option<u64> {
    let layer = layers.get(usize::from(extent.layer)).and_then(|layer| layer.get(extent.range));
    let Some(truth) = layer else { return Some(extent.range.start) };
    let at = part.iter().zip(truth).position(|(one, other)| one != other)?;
    Some(extent.range.start + at as u64)
}

/// The bytes of all extents, by layer of the head.
fn collect(
    head: &PackHead,
    image: &Image,
    runtime: &Handle,
    tell: &(dyn Fn(Event<'_>) + Sync),
) -> Result<Vec<Collected>, VerifyError> {
    let mut wanted = vec![Coverage::default(); head.layers().len()];
    for extent in head.all_extents() {
        wanted[usize::from(extent.layer)].add(extent.range);
    }
    let layers = head.layers().iter().zip(wanted).map(|(digest, wanted)| {
        let layer = image.layers().iter().find(|layer| layer.digest == *digest);
        let layer = layer.ok_or(PackError::ForeignLayer(*digest))?;
        let wanted: Vec<ByteRange> = wanted.ranges().collect();
        let collected = planned::open(image, layer, None, runtime)
            .and_then(|inner| Collected::read(layer, Told { inner, blob: layer, tell }, &wanted));
        collected.map_err(|error| VerifyError::Layer(*digest, Box::new(error)))
    });
    layers.collect()
}
