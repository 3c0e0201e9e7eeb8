//! Whole layers of an image: which of them will be needed, and one of them into its snapshot.

use std::sync::Arc;

use soci_core::image::Descriptor;

use super::prepare::LayerJob;
use super::record::{Chain, Usage};
use super::{Snapshotter, disk};
use crate::blocking::blocking;
use crate::image::{ImageContext, ManifestAndConfig};
use crate::layer::LayerError;
use crate::unpack::{UnpackedLayer, WholeLayer, WholeLayerError};

impl Snapshotter {
    /// Begins with those layers from that of `job` on that are not going to be lazy, so that they come at the same time and not
    /// one Prepare after the other, and before anything that is fetched ahead takes the link.
    ///
    /// Failures are not told here: whoever prepares the layer meets them again.
    pub(super) async fn start_whole_layers(&self, image: &ImageContext, job: &LayerJob) {
        let Ok(coming) = self.coming_whole(image, job).await else { return };
        if coming.is_empty() {
            return;
        }
        let Ok(described) = image.manifest().await else { return };
        for at in coming {
            if let Some(layer) = describe(image, &described, at) {
                self.unpacker.start(&layer);
            }
        }
    }

    /// Numbers of the layers that are pulled as a whole, from the one of `job` on.
    async fn coming_whole(&self, image: &ImageContext, job: &LayerJob) -> Result<Vec<usize>, LayerError> {
        let layers = image.layers().await?;
        let Some(first) = position(&layers, job) else { return Ok(Vec::new()) };
        let mut coming: Vec<_> = (first..layers.len()).collect();
        if self.policy.always_whole {
            return Ok(coming);
        }
        if let Some(indexed) = image.indexed_layers().await? {
            let is_lazy = |layer: &Descriptor| {
                indexed.contains(&layer.digest) && layer.size >= self.policy.min_layer_size
            };
            coming.retain(|&at| !is_lazy(&layers[at]));
        } else if !self.policy.whole_without_index {
            coming.clear();
        }
        Ok(coming)
    }

    /// Pulls the layer of `job` and unpacks it into its snapshot. On failure the snapshot stays as it was.
    pub(super) async fn unpack_layer(
        self: &Arc<Self>,
        image: &ImageContext,
        job: &LayerJob,
    ) -> Result<Usage, WholeLayerError> {
        let unpacked = self.fetch_layer(image, job).await?;
        let (this, chain) = (Arc::clone(self), job.chain.clone());
        blocking(move || this.place_layer(unpacked, &chain)).await
    }

    /// Pulls the layer of `job` and unpacks it beside the snapshots.
    pub(super) async fn fetch_layer(
        &self,
        image: &ImageContext,
        job: &LayerJob,
    ) -> Result<UnpackedLayer, WholeLayerError> {
        let digest = job.layer.layer_digest;
        let described = image.manifest().await;
        let described = described.map_err(|source| WholeLayerError::Image { digest, source })?;
        let at = position(&described.manifest.layers, job).ok_or(WholeLayerError::NotInImage(digest))?;
        let layer = describe(image, &described, at).ok_or(WholeLayerError::NotInImage(digest))?;
        self.unpacker.take(&layer).await
    }

    /// Moves an unpacked layer into its snapshot, where nothing is yet. Blocking.
    pub(super) fn place_layer(&self, layer: UnpackedLayer, chain: &Chain) -> Result<Usage, WholeLayerError> {
        let destination = self.dirs.fs(chain.id);
        let parents: Vec<_> = chain.parents.iter().map(|id| self.dirs.fs(*id)).collect();
        layer.place(&destination, &parents)?;
        disk::usage(&destination)
            .map_err(|source| WholeLayerError::Io { action: "measure an unpacked layer", source })
    }
}

fn describe(image: &ImageContext, described: &ManifestAndConfig, at: usize) -> Option<WholeLayer> {
    let layer = described.manifest.layers.get(at)?;
    Some(WholeLayer {
        repository: image.whole_repository(),
        digest: layer.digest,
        size: layer.size,
        diff_id: *described.config.diff_ids.get(at)?,
    })
}

/// Which layer of the image is meant. An image may have the same layer twice: then the number of parents tells.
pub(super) fn position(layers: &[Descriptor], job: &LayerJob) -> Option<usize> {
    let is_it = |layer: &Descriptor| layer.digest == job.layer.layer_digest;
    let depth = job.chain.parents.len();
    if layers.get(depth).is_some_and(is_it) { Some(depth) } else { layers.iter().position(is_it) }
}
