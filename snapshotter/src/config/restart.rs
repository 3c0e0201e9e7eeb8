//! `[restart]`, ours: what outlives the process.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ConfigError, default_if_zero};

/// What becomes of mounts when the process ends or dies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Restart {
    /// Whether mounts outlive the process: readers wait for the next one. If not, an end unmounts everything.
    pub keep_mounts: bool,
    /// Seconds that readers wait for the next process, before they get errors.
    pub abort_after_sec: i64,
}

impl Default for Restart {
    /// Long enough for an upgrade by hand.
    fn default() -> Self {
        Self { keep_mounts: true, abort_after_sec: 600 }
    }
}

impl Restart {
    pub(super) fn fill(&mut self) -> Result<(), ConfigError> {
        default_if_zero(&mut self.abort_after_sec, Self::default().abort_after_sec);
        if self.abort_after_sec < 0 {
            return Err(ConfigError::value("restart.abort_after_sec", "must not be negative"));
        }
        Ok(())
    }

    /// How long readers wait for the next process.
    pub fn abort_after(&self) -> Duration {
        Duration::from_secs(self.abort_after_sec.unsigned_abs())
    }
}
