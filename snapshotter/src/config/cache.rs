//! `[cache]`, ours: the cache of layer bytes.

use serde::{Deserialize, Serialize};

use super::ConfigError;

/// Limits of the cache.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cache {
    /// Bytes on disk above which unused layers are evicted, least recently used first. 0: no limit.
    pub max_bytes: i64,
}

impl Cache {
    pub(super) fn fill(&mut self) -> Result<(), ConfigError> {
        if self.max_bytes < 0 {
            return Err(ConfigError::value("cache.max_bytes", "must not be negative"));
        }
        Ok(())
    }

    /// Bytes on disk above which unused layers are evicted; 0: no limit.
    pub fn limit(&self) -> u64 {
        self.max_bytes.unsigned_abs()
    }
}
