//! A pack against the layers that it is of: every byte of every block.
//!
//! Owns nothing. What must always hold: a pack that passes gives each reader the bytes that the image's layers have. Layers are
//! streamed, and of each extent only the digest is kept: memory does not grow with the bytes of the pack.

use tokio::runtime::Handle;

use super::{Extent, PackError, PackHead, block::BlockOpener, collect::each_part};
use crate::{
    digest::{Digest, Hasher},
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
    let layers = truth(head, image, runtime, tell)?;
    let place = |digest: &Digest| head.layers().iter().position(|layer| layer == digest);
    head.check_layers(|digest| Some(layers.get(place(digest)?)?.plain_size))?;
    let mut opener = BlockOpener::default();
    for (block, it) in head.blocks().iter().enumerate() {
        let stored = read(it.stored).map_err(|source| VerifyError::Read { block, source })?;
        let plain =
            opener.open(head, block, &stored).map_err(|source| VerifyError::Block { block, source })?;
        let mut rest = &plain[..];
        for extent in head.extents(block) {
            let Some((part, after)) = rest.split_at_checked(extent.range.len() as usize) else { break };
            rest = after;
            if layers[usize::from(extent.layer)].digest_of(extent.range) != Some(Digest::of(part)) {
                let layer = head.layers()[usize::from(extent.layer)];
                let at = differs(part, extent.range, layer, image, runtime)?;
                return Err(VerifyError::Differs { block, layer, at });
            }
        }
    }
    Ok(())
}

/// Where the first byte of the layer is that an extent has another one for. The layer is read again.
fn differs(
    part: &[u8],
    extent: ByteRange,
    layer: Digest,
    image: &Image,
    runtime: &Handle,
) -> Result<u64, VerifyError> {
    let descriptor = image.layers().iter().find(|known| known.digest == layer);
    let descriptor = descriptor.ok_or(PackError::ForeignLayer(layer))?;
    let mut first = None;
    let read = planned::open(image, descriptor, None, runtime).and_then(|bytes| {
        each_part(descriptor, bytes, &[extent], &mut |_, range, truth| {
            let pairs = truth.iter().zip(part.iter().skip((range.start - extent.start) as usize));
            let here = pairs.into_iter().position(|(one, other)| one != other);
            first = first.or(here.map(|at| range.start + at as u64));
            Ok(())
        })
    });
    read.map_err(|error| VerifyError::Layer(layer, Box::new(error)))?;
    Ok(first.unwrap_or(extent.start))
}

/// What a layer has where the pack has its extents.
struct Truth {
    /// Ascending and disjoint.
    extents: Vec<(ByteRange, Digest)>,
    /// Plain bytes of the whole layer.
    plain_size: u64,
}

impl Truth {
    fn digest_of(&self, extent: ByteRange) -> Option<Digest> {
        let at = self.extents.binary_search_by_key(&extent.start, |(range, _)| range.start).ok()?;
        let (range, digest) = self.extents[at];
        (range == extent).then_some(digest)
    }
}

/// The digests of all extents, by layer of the head.
fn truth(
    head: &PackHead,
    image: &Image,
    runtime: &Handle,
    tell: &(dyn Fn(Event<'_>) + Sync),
) -> Result<Vec<Truth>, VerifyError> {
    let mut wanted = vec![Vec::new(); head.layers().len()];
    for Extent { layer, range } in head.all_extents() {
        wanted[usize::from(*layer)].push(*range);
    }
    let layers = head.layers().iter().zip(wanted).map(|(digest, mut wanted)| {
        let layer = image.layers().iter().find(|layer| layer.digest == *digest);
        let layer = layer.ok_or(PackError::ForeignLayer(*digest))?;
        wanted.sort_unstable();
        let (mut extents, mut hasher) = (Vec::with_capacity(wanted.len()), Hasher::new());
        let read = planned::open(image, layer, None, runtime).and_then(|inner| {
            each_part(layer, Told { inner, blob: layer, tell }, &wanted, &mut |range, part, plain| {
                hasher.update(plain);
                if part.end == range.end {
                    extents.push((range, std::mem::take(&mut hasher).finish()));
                }
                Ok(())
            })
        });
        let plain_size = read.map_err(|error| VerifyError::Layer(*digest, Box::new(error)))?;
        Ok(Truth { extents, plain_size })
    });
    layers.collect()
}
