//! `[http]`: the registry client. The keys are CamelCase, as upstream has them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{default_if_zero, milliseconds};

/// Time-outs and retries of registry requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Http {
    /// Milliseconds until a connection must stand.
    pub dial_timeout_msec: i64,
    /// Milliseconds until the response headers must be there.
    pub response_header_timeout_msec: i64,
    /// Milliseconds for a whole attempt.
    pub request_timeout_msec: i64,
    /// Attempts after the first one. Negative: none.
    pub max_retries: i64,
    /// Milliseconds of the first back-off.
    pub min_wait_msec: i64,
    /// Milliseconds of the longest back-off.
    pub max_wait_msec: i64,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            dial_timeout_msec: 3_000,
            response_header_timeout_msec: 3_000,
            request_timeout_msec: 300_000,
            max_retries: 8,
            min_wait_msec: 30,
            max_wait_msec: 300_000,
        }
    }
}

impl Http {
    pub(super) fn fill(&mut self) {
        let default = Self::default();
        default_if_zero(&mut self.dial_timeout_msec, default.dial_timeout_msec);
        default_if_zero(&mut self.response_header_timeout_msec, default.response_header_timeout_msec);
        default_if_zero(&mut self.request_timeout_msec, default.request_timeout_msec);
        default_if_zero(&mut self.max_retries, default.max_retries);
        default_if_zero(&mut self.min_wait_msec, default.min_wait_msec);
        default_if_zero(&mut self.max_wait_msec, default.max_wait_msec);
    }

    /// Until a connection must stand.
    pub fn dial_timeout(&self) -> Duration {
        milliseconds(self.dial_timeout_msec)
    }

    /// Until the response headers must be there.
    pub fn response_header_timeout(&self) -> Duration {
        milliseconds(self.response_header_timeout_msec)
    }

    /// For a whole attempt.
    pub fn request_timeout(&self) -> Duration {
        milliseconds(self.request_timeout_msec)
    }

    /// Attempts after the first one.
    pub fn retries(&self) -> u32 {
        u32::try_from(self.max_retries).unwrap_or(0)
    }

    /// The first back-off.
    pub fn min_wait(&self) -> Duration {
        milliseconds(self.min_wait_msec)
    }

    /// The longest back-off.
    pub fn max_wait(&self) -> Duration {
        milliseconds(self.max_wait_msec)
    }
}
