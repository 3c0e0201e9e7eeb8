//! Whether a layer is the one that its request describes: newer containerds say its diff id.
//!
//! No state. What cannot be found out now is no reason to refuse: the bytes that are served are checked by the index.

use soci_core::digest::Digest;
use tokio::time::{Instant, timeout_at};

use super::Snapshotter;
use super::prepare::LayerJob;
use super::whole::position;
use crate::image::ImageContext;

/// The request is for another layer than the one that it names.
#[derive(Debug, thiserror::Error)]
#[error("the request says diff id {told}, the image's configuration says {found}")]
pub(super) struct DifferentLayer {
    told: Digest,
    found: Digest,
}

impl Snapshotter {
    /// Compares the diff id that the request says, if it does, with that of the image's configuration, if that comes in time.
    pub(super) async fn must_have_diff_id(
        &self,
        image: &ImageContext,
        job: &LayerJob,
        deadline: Instant,
    ) -> Result<(), DifferentLayer> {
        let Some(told) = job.layer.diff_id else { return Ok(()) };
        let Ok(Ok(described)) = timeout_at(deadline, image.manifest()).await else { return Ok(()) };
        let at = position(&described.manifest.layers, job);
        match at.and_then(|at| described.config.diff_ids.get(at)) {
            Some(found) if *found != told => Err(DifferentLayer { told, found: *found }),
            _ => Ok(()),
        }
    }
}
