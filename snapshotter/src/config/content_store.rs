//! `[content_store]`: where indexes, zTOCs and artifacts are kept.

use serde::{Deserialize, Serialize};

/// Choice of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContentStore {
    /// Which store.
    #[serde(rename = "type")]
    pub kind: StoreType,
    /// containerd's socket, for its store.
    pub containerd_address: String,
}

/// Kinds of stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreType {
    /// An OCI image layout below the root directory.
    Soci,
    /// containerd's own store. Accepted, so that upstream's files load; the daemon keeps to its own store and says so.
    Containerd,
}

impl Default for ContentStore {
    fn default() -> Self {
        Self { kind: StoreType::Soci, containerd_address: "/run/containerd/containerd.sock".to_owned() }
    }
}
