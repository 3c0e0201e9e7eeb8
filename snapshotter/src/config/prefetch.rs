//! `[prefetch]` and `[background_fetch]`: bytes that nobody asked for yet.

use std::num::NonZeroU64;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ConfigError, default_if_zero, milliseconds, size};

/// Use of recorded prefetch artifacts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Prefetch {
    /// Fetch what an image's artifacts list, from its first Prepare on.
    pub enable: bool,
    /// Layers that are prefetched at the same time, in the whole node. Not positive: all of them.
    pub max_concurrency: i64,
    /// Bytes a second that are fetched ahead of readers in the whole node: prefetch, packs, background. 0: any number.
    #[serde(deserialize_with = "size::bytes")]
    pub max_bandwidth: i64,
}

impl Default for Prefetch {
    /// On, unlike upstream: here it runs beside the mount, never in its way, and only images with an artifact have it.
    fn default() -> Self {
        Self { enable: true, max_concurrency: 0, max_bandwidth: 0 }
    }
}

impl Prefetch {
    pub(super) fn fill(&mut self) -> Result<(), ConfigError> {
        self.max_concurrency = self.max_concurrency.max(0);
        if self.max_bandwidth < 0 {
            return Err(ConfigError::value("prefetch.max_bandwidth", "must not be negative"));
        }
        Ok(())
    }

    /// Bytes a second that are fetched ahead; `None`: any number.
    pub fn bandwidth(&self) -> Option<NonZeroU64> {
        NonZeroU64::new(self.max_bandwidth.unsigned_abs())
    }

    /// Layers that are prefetched at the same time; 0: all of them.
    pub fn layers(&self) -> usize {
        usize::try_from(self.max_concurrency).unwrap_or(0)
    }
}

/// The rest of an image, fetched when nothing else is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BackgroundFetch {
    /// Leave the rest where it is until somebody reads it.
    pub disable: bool,
    /// Milliseconds of rest after the first mount of an image.
    pub silence_period_msec: i64,
    /// Milliseconds between fetches.
    pub fetch_period_msec: i64,
    /// Layers waiting. -1: any number.
    pub max_queue_size: i64,
    /// Which layer is given up when the queue is full: `newest` or `oldest`.
    pub drop_policy: String,
    /// Seconds between updates of the queue's metrics.
    pub emit_metric_period_sec: i64,
}

impl Default for BackgroundFetch {
    fn default() -> Self {
        Self {
            disable: false,
            silence_period_msec: 30_000,
            fetch_period_msec: 500,
            max_queue_size: 300,
            drop_policy: "newest".to_owned(),
            emit_metric_period_sec: 10,
        }
    }
}

impl BackgroundFetch {
    /// Rest after the first mount of an image.
    pub fn silence_period(&self) -> Duration {
        milliseconds(self.silence_period_msec)
    }

    /// Time between fetches.
    pub fn fetch_period(&self) -> Duration {
        milliseconds(self.fetch_period_msec)
    }

    pub(super) fn fill(&mut self) -> Result<(), ConfigError> {
        let default = Self::default();
        default_if_zero(&mut self.silence_period_msec, default.silence_period_msec);
        default_if_zero(&mut self.fetch_period_msec, default.fetch_period_msec);
        default_if_zero(&mut self.max_queue_size, default.max_queue_size);
        default_if_zero(&mut self.emit_metric_period_sec, default.emit_metric_period_sec);
        if self.drop_policy.is_empty() {
            self.drop_policy = default.drop_policy;
        }
        if !matches!(self.drop_policy.as_str(), "newest" | "oldest") {
            let reason = format!("must be \"oldest\" or \"newest\", got {:?}", self.drop_policy);
            return Err(ConfigError::value("background_fetch.drop_policy", reason));
        }
        Ok(())
    }
}
