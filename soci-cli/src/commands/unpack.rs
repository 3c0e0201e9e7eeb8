//! The layers of an image on disk, for `soci record`. Holds no state; the cache of the recorder keeps the layers.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use recorder::rootfs::{LayerCache, UnpackedLayer, chain_ids};
use soci_core::image::Image;
use soci_core::unpack::is_readable_layer;
use tokio::runtime::Handle;

use super::stop::{self, Stop};
use crate::output::progress::{Progress, short};

/// Unpacks the layers that are not here yet.
pub(super) fn unpack(
    state: &Path,
    image: &Image,
    runtime: &Handle,
    stop: &Stop,
    progress: &Progress,
) -> Result<Vec<UnpackedLayer>> {
    let diff_ids = &image.config.diff_ids;
    if diff_ids.len() != image.layers().len() {
        bail!("the image has {} layers, its configuration names {}", image.layers().len(), diff_ids.len());
    }
    let cache = LayerCache::open(state, || stop.check().map_err(io::Error::other))?;
    let mut unpacked: Vec<UnpackedLayer> = Vec::new();
    for ((layer, diff_id), chain_id) in image.layers().iter().zip(diff_ids).zip(chain_ids(diff_ids)) {
        let below: Vec<PathBuf> = unpacked.iter().rev().map(|layer| layer.dir.clone()).collect();
        if !is_readable_layer(&layer.media_type) {
            bail!("layer {} has media type {}, which cannot be unpacked", layer.digest, layer.media_type);
        }
        let open = || {
            let opened = runtime.block_on(stop.or(image.open_layer(layer)));
            let bytes = stop.reading(opened.map_err(stop::boxed)?)?;
            Ok(progress.bytes(&format!("unpack {}", short(&layer.digest)), layer.size).wrap_read(bytes))
        };
        unpacked.push(cache.add(&chain_id, *diff_id, &below, open)?);
    }
    Ok(unpacked)
}
