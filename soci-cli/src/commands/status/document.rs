//! The snapshotter's document, as far as it is shown to people. What is missing in it is empty: it may be an older snapshotter's.

use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Document {
    pub(super) release: String,
    pub(super) up_s: u64,
    pub(super) healthy: bool,
    pub(super) problems: Vec<String>,
    pub(super) layers: Layers,
    pub(super) cache_bytes: u64,
    pub(super) disk_free_bytes: u64,
    pub(super) came: Came,
    pub(super) unlabelled: Vec<Unlabelled>,
    pub(super) starts: Vec<Start>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Layers {
    pub(super) mounted: usize,
    pub(super) waiting: usize,
    pub(super) absent: usize,
    pub(super) dead: usize,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Came {
    pub(super) lazy: u64,
    pub(super) whole: u64,
    pub(super) runtime: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Unlabelled {
    pub(super) client: String,
    pub(super) layers: u64,
    pub(super) advice: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Start {
    pub(super) image: String,
    pub(super) digest: String,
    pub(super) phase: String,
    pub(super) namespace: String,
    pub(super) container: Option<String>,
    pub(super) asked: String,
    pub(super) container_asked_ms: Option<u64>,
    pub(super) mounted_ms: Option<u64>,
    pub(super) first_byte_ms: Option<u64>,
    pub(super) pack_done_ms: Option<u64>,
    pub(super) quiet_ms: Option<u64>,
    pub(super) packs: Vec<Pack>,
    pub(super) layers: Vec<Layer>,
    pub(super) bytes: Bytes,
    pub(super) requests: u64,
    pub(super) waits: Waits,
    pub(super) reads: u64,
    pub(super) read_bytes: u64,
    pub(super) note: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pack {
    pub(super) digest: String,
    pub(super) workload: String,
    pub(super) chosen_by: String,
    pub(super) size: u64,
    pub(super) state: String,
    pub(super) failure: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Layer {
    pub(super) digest: String,
    pub(super) way: String,
    pub(super) reason: String,
    pub(super) advice: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Bytes {
    pub(super) link: u64,
    pub(super) hit: u64,
    pub(super) handed: u64,
    pub(super) late: u64,
    pub(super) wasted: u64,
    pub(super) missed: u64,
    pub(super) background: u64,
    pub(super) whole: u64,
    pub(super) overhead: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Waits {
    pub(super) late_ms: u64,
    pub(super) missed_ms: u64,
}
