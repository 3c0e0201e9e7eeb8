//! `[pull_modes]`: which ways of getting a layer may be used.

use serde::{Deserialize, Serialize};

use super::size;

/// Ways of getting a layer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PullModes {
    /// Lazy, by an index found through the referrers of the image.
    pub soci_v1: SociV1,
    /// Lazy, by an index that an annotation of the image names.
    pub soci_v2: SociV2,
    /// Whole layers, pulled and unpacked by the snapshotter.
    pub parallel_pull_unpack: ParallelPull,
}

/// `[pull_modes.soci_v1]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SociV1 {
    /// Use it.
    pub enable: bool,
}

impl Default for SociV1 {
    /// Off, as upstream: whoever may push to a repository can attach an index to an image that is already deployed.
    fn default() -> Self {
        Self { enable: false }
    }
}

/// `[pull_modes.soci_v2]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SociV2 {
    /// Use it.
    pub enable: bool,
}

impl Default for SociV2 {
    fn default() -> Self {
        Self { enable: true }
    }
}

/// `[pull_modes.parallel_pull_unpack]`: pulls and unpacks by the snapshotter itself.
///
/// The limits of this table also hold for layers of lazy images that have no zTOC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ParallelPull {
    /// Nothing is lazy: every layer is pulled and unpacked.
    pub enable: bool,
    /// Images without an index are pulled here and not left to the runtime.
    pub experimental_parallel_pull_as_fallback: bool,
    /// Ranged requests in flight for whole layers, in the whole node. Not positive: no limit beyond those of the layers.
    pub max_concurrent_downloads: i64,
    /// Ranged requests in flight for one layer. (Upstream: for one image.)
    pub max_concurrent_downloads_per_image: i64,
    /// Bytes of one ranged request (`8mb`, `512 kb`, …). Empty, 0 or -1: a built-in size. (Upstream: the whole layer.)
    #[serde(deserialize_with = "size::bytes")]
    pub concurrent_download_chunk_size: i64,
    /// Layers pulled and unpacked at once, in the whole node. Not positive: no limit beyond the next one.
    pub max_concurrent_unpacks: i64,
    /// Layers pulled and unpacked at once. Not positive: no limit. One number for the node, since images share disk and link.
    pub max_concurrent_unpacks_per_image: i64,
    /// Compressed layers are not kept. They never are; the key is accepted.
    pub discard_unpacked_layers: bool,
}

impl Default for ParallelPull {
    fn default() -> Self {
        Self {
            enable: false,
            experimental_parallel_pull_as_fallback: false,
            max_concurrent_downloads: -1,
            max_concurrent_downloads_per_image: 3,
            concurrent_download_chunk_size: 0,
            max_concurrent_unpacks: -1,
            max_concurrent_unpacks_per_image: 3,
            discard_unpacked_layers: true,
        }
    }
}

impl ParallelPull {
    /// Layers in work at once: the smallest of the limits.
    pub fn layers_at_once(&self) -> usize {
        let positive = |value: i64| usize::try_from(value).ok().filter(|&value| value > 0);
        [
            self.max_concurrent_unpacks,
            self.max_concurrent_unpacks_per_image,
            self.max_concurrent_downloads_per_image,
        ]
        .into_iter()
        .filter_map(positive)
        .min()
        .unwrap_or(tokio::sync::Semaphore::MAX_PERMITS)
    }

    /// Ranged requests in flight for one layer.
    pub fn requests_per_layer(&self) -> usize {
        usize::try_from(self.max_concurrent_downloads_per_image).unwrap_or(0).clamp(1, 64)
    }

    /// Ranged requests in flight for all layers; `None`: any number.
    pub fn requests_at_once(&self) -> Option<usize> {
        usize::try_from(self.max_concurrent_downloads).ok().filter(|&requests| requests > 0)
    }

    /// Bytes of one ranged request, when told.
    pub fn chunk_size(&self) -> Option<u64> {
        u64::try_from(self.concurrent_download_chunk_size).ok().filter(|&bytes| bytes > 0)
    }
}
