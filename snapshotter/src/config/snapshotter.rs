//! `[snapshotter]`: snapshots.

use serde::{Deserialize, Serialize};

use super::size;

/// Rules for snapshots.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SnapshotterSection {
    /// Layers with fewer compressed bytes than this are pulled as a whole. Not positive: none.
    #[serde(deserialize_with = "size::bytes")]
    pub min_layer_size: i64,
    /// Accepted: a lazy layer that cannot be restored never stops the daemon here.
    pub allow_invalid_mounts_on_restart: bool,
    /// Ours: whether containerd leaves the ids of user namespaces to this snapshotter, which its configuration says by the capability
    /// `remap-ids`. If not, containerd copies the image for each map of ids.
    pub remap_ids: bool,
}

impl SnapshotterSection {
    /// Layers with fewer compressed bytes are pulled as a whole.
    pub fn min_layer_size(&self) -> u64 {
        u64::try_from(self.min_layer_size).unwrap_or(0)
    }
}
