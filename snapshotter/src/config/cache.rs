//! `[cache]`, ours: the cache of layer bytes.

use serde::{Deserialize, Serialize};

use super::{ConfigError, size};

/// Limits of the cache.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cache {
    /// Bytes on disk above which the longest unused go, of layers in use, too. 0: no limit.
    #[serde(deserialize_with = "size::bytes")]
    pub max_bytes: i64,
}

impl Cache {
    pub(super) fn fill(&mut self) -> Result<(), ConfigError> {
        if self.max_bytes < 0 {
            return Err(ConfigError::value("cache.max_bytes", "must not be negative"));
        }
        Ok(())
    }

    /// Bytes on disk above which the longest unused go.
    pub fn limit(&self) -> Option<u64> {
        (self.max_bytes > 0).then(|| self.max_bytes.unsigned_abs())
    }
}
