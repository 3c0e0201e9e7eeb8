//! `[storage]`, ours: when the disk that layers took is given back.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// When disk is given back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Storage {
    /// Seconds for which the bytes of a layer stay after its last snapshot is gone. Below 0: for ever.
    pub keep_unused_sec: i64,
}

impl Default for Storage {
    /// Long enough for an image that is removed and pulled again.
    fn default() -> Self {
        Self { keep_unused_sec: 60 }
    }
}

impl Storage {
    /// How long the bytes of a layer stay after its last snapshot is gone; `None`: for ever.
    pub fn keep_unused(&self) -> Option<Duration> {
        u64::try_from(self.keep_unused_sec).ok().map(Duration::from_secs)
    }
}
