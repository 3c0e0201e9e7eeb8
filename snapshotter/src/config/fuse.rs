//! `[fuse]`: the file system of lazy layers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ConfigError, default_if_zero};

/// What the kernel may remember of a lazy layer, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fuse {
    /// Seconds for attributes.
    pub attr_timeout: i64,
    /// Seconds for names.
    pub entry_timeout: i64,
    /// Seconds for names that do not exist.
    pub negative_timeout: i64,
    /// Whether the kernel answers for names and attributes by itself, where it can. (Ours.)
    pub erofs: bool,
}

impl Default for Fuse {
    /// A layer never changes: what the kernel learned once stays true. (Upstream: 1 second each.)
    fn default() -> Self {
        const DAY: i64 = 24 * 60 * 60;
        Self { attr_timeout: DAY, entry_timeout: DAY, negative_timeout: DAY, erofs: true }
    }
}

impl Fuse {
    pub(super) fn fill(&mut self) -> Result<(), ConfigError> {
        let default = Self::default();
        for (key, value, default) in [
            ("fuse.attr_timeout", &mut self.attr_timeout, default.attr_timeout),
            ("fuse.entry_timeout", &mut self.entry_timeout, default.entry_timeout),
            ("fuse.negative_timeout", &mut self.negative_timeout, default.negative_timeout),
        ] {
            default_if_zero(value, default);
            if *value < 0 {
                return Err(ConfigError::value(key, "must not be negative"));
            }
        }
        Ok(())
    }

    /// For attributes.
    pub fn attr_ttl(&self) -> Duration {
        Duration::from_secs(self.attr_timeout.unsigned_abs())
    }

    /// For names.
    pub fn entry_ttl(&self) -> Duration {
        Duration::from_secs(self.entry_timeout.unsigned_abs())
    }

    /// For names that do not exist.
    pub fn negative_ttl(&self) -> Duration {
        Duration::from_secs(self.negative_timeout.unsigned_abs())
    }
}
