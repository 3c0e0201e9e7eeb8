//! `[blob]`: reads of layer bytes. Retries and time-outs of single requests are those of `[http]`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::default_if_zero;

/// How long and how often layer bytes are tried for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Blob {
    /// Seconds after which a read of a lazy file that still waits for its bytes fails.
    pub fetching_timeout_sec: i64,
    /// Fetches again of a span whose digest is wrong. Negative: 3.
    pub max_span_verification_retries: i64,
}

impl Default for Blob {
    fn default() -> Self {
        Self { fetching_timeout_sec: 300, max_span_verification_retries: 0 }
    }
}

impl Blob {
    pub(super) fn fill(&mut self) {
        default_if_zero(&mut self.fetching_timeout_sec, Self::default().fetching_timeout_sec);
        if self.max_span_verification_retries < 0 {
            self.max_span_verification_retries = 3;
        }
    }

    /// How long a read waits.
    pub fn fetching_timeout(&self) -> Duration {
        Duration::from_secs(u64::try_from(self.fetching_timeout_sec).unwrap_or(0))
    }

    /// Fetches again of a span whose digest is wrong.
    pub fn span_verification_retries(&self) -> u32 {
        u32::try_from(self.max_span_verification_retries).unwrap_or(0)
    }
}
