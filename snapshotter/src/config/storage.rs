//! `[storage]`, ours: when the disk that layers took is given back.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ConfigError;

/// When disk is given back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Storage {
    /// Seconds for which the bytes of a layer stay after its last snapshot is gone. Below 0: for ever.
    pub keep_unused_sec: i64,
    /// Percent of the cache's file system that are to stay free: what nobody has read for a minute goes for it. 0: none.
    pub min_free_percent: i64,
}

impl Default for Storage {
    /// Long enough for an image that is removed and pulled again; a tenth for what containers write.
    fn default() -> Self {
        Self { keep_unused_sec: 60, min_free_percent: 10 }
    }
}

impl Storage {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if !(0..=90).contains(&self.min_free_percent) {
            return Err(ConfigError::value("storage.min_free_percent", "must be 0 to 90"));
        }
        Ok(())
    }

    /// Percent of the cache's file system that are to stay free.
    pub fn min_free(&self) -> u8 {
        u8::try_from(self.min_free_percent).unwrap_or(0)
    }

    /// How long the bytes of a layer stay after its last snapshot is gone; `None`: for ever.
    pub fn keep_unused(&self) -> Option<Duration> {
        u64::try_from(self.keep_unused_sec).ok().map(Duration::from_secs)
    }
}
