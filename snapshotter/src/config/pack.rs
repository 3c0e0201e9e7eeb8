//! `[pack]`, ours: fine indexes and working-set packs beside an image.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use soci_core::digest::Digest;

use super::{ConfigError, default_if_zero, size};

/// Which of an image's companions are used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pack {
    /// Use packs.
    pub enable: bool,
    /// Use fine indexes, with or without a pack.
    pub fine: bool,
    /// Bytes, as the registry has them, above which a pack is not used.
    #[serde(deserialize_with = "size::bytes")]
    pub max_bytes: i64,
    /// Use only the companions in [`Pack::verified`].
    pub require_verified: bool,
    /// Digests of the manifests of companions that somebody has looked at.
    pub verified: BTreeSet<Digest>,
    /// Name of the pack that is preferred when an image has several.
    pub workload: String,
    /// Give the kernel what a pack brings before it asks.
    pub page_cache: bool,
    /// What this node is, for packs with selectors.
    pub attributes: BTreeMap<String, String>,
}

impl Default for Pack {
    /// On: where an image has a companion, its publisher wants it used. The limit is far above what starts need (pages
    /// of the largest images measured: 70 MB) and far below what a disk holds.
    fn default() -> Self {
        Self {
            enable: true,
            fine: true,
            max_bytes: 1 << 30,
            require_verified: false,
            verified: BTreeSet::new(),
            workload: String::new(),
            page_cache: true,
            attributes: BTreeMap::new(),
        }
    }
}

impl Pack {
    pub(super) fn fill(&mut self) -> Result<(), ConfigError> {
        default_if_zero(&mut self.max_bytes, Self::default().max_bytes);
        if self.max_bytes < 0 {
            return Err(ConfigError::value("pack.max_bytes", "must not be negative"));
        }
        Ok(())
    }

    /// Bytes above which a pack is not used.
    pub fn limit(&self) -> u64 {
        self.max_bytes.unsigned_abs()
    }
}
