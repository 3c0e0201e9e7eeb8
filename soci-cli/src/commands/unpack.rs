//! The layers of an image on disk, for `soci record`. Holds no state; the cache of the recorder keeps the layers.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use recorder::rootfs::{LayerCache, UnpackedLayer, chain_ids};
use soci_core::image::{Descriptor, Image};
use soci_core::media_type::{LayerKind, layer_compression};
use soci_core::unpack::LayerFormat;
use tokio::runtime::Handle;

use crate::output::progress::{Progress, short};

/// Unpacks the layers that are not here yet.
pub(super) fn unpack(
    state: &Path,
    image: &Image,
    runtime: &Handle,
    progress: &Progress,
) -> Result<Vec<UnpackedLayer>> {
    let diff_ids = &image.config.diff_ids;
    if diff_ids.len() != image.layers().len() {
        bail!("the image has {} layers, its configuration names {}", image.layers().len(), diff_ids.len());
    }
    let cache = LayerCache::open(state)?;
    let mut unpacked: Vec<UnpackedLayer> = Vec::new();
    for ((layer, diff_id), chain_id) in image.layers().iter().zip(diff_ids).zip(chain_ids(diff_ids)) {
        let below: Vec<PathBuf> = unpacked.iter().rev().map(|layer| layer.dir.clone()).collect();
        let open = || {
            let bytes = runtime.block_on(image.open_layer(layer))?;
            Ok(progress.bytes(&format!("unpack {}", short(&layer.digest)), layer.size).wrap_read(bytes))
        };
        unpacked.push(cache.add(&chain_id, *diff_id, format(layer)?, &below, open)?);
    }
    Ok(unpacked)
}

fn format(layer: &Descriptor) -> Result<LayerFormat> {
    match layer_compression(&layer.media_type) {
        LayerKind::Gzip => Ok(LayerFormat::Gzip),
        LayerKind::Tar | LayerKind::Unknown => Ok(LayerFormat::Tar),
        LayerKind::Zstd => Ok(LayerFormat::Zstd),
        _ => {
            bail!("layer {} has media type {}, which cannot be unpacked here", layer.digest, layer.media_type)
        }
    }
}
