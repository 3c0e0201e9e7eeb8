//! A record as those who look at it see it: names and units here are promises (docs/operations.md). Plain data.

use std::time::SystemTime;

use serde::Serialize;
use soci_core::digest::Digest;

/// How a layer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// Its bytes come as they are read.
    Lazy,
    /// The snapshotter has pulled it.
    Whole,
    /// The container runtime was to pull it.
    Runtime,
}

/// How far a start has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The image was pulled; no container was started yet.
    Pulled,
    /// A container was asked for, and reads.
    Starting,
    /// Nothing was read for five seconds.
    Quiet,
    /// Another start of the image has begun, or ten minutes are over: the numbers do not change any more.
    Over,
}

/// One start. Times are milliseconds after [`StartReport::asked`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StartReport {
    /// Name of the image.
    pub image: String,
    /// Digest of its manifest.
    pub digest: Digest,
    /// Number of the record in this process.
    pub number: u64,
    /// How far it is.
    pub phase: Phase,
    /// containerd's namespace; empty when it was not told.
    pub namespace: String,
    /// Key of the container's snapshot.
    pub container: Option<String>,
    /// When the image was first asked for, or the container, if the image was there: UTC, RFC 3339.
    pub asked: String,
    /// When the container was asked for.
    pub container_asked_ms: Option<u64>,
    /// When its mounts were given.
    pub mounted_ms: Option<u64>,
    /// When the first read has reached the snapshotter. What the kernel has already it does not ask for.
    pub first_byte_ms: Option<u64>,
    /// When all of its pack was here.
    pub pack_done_ms: Option<u64>,
    /// The last read, when it was followed by five seconds without any.
    pub quiet_ms: Option<u64>,
    /// Packs that were brought for the image; that of the start first.
    pub packs: Vec<PackReport>,
    /// The layers that were asked for, and why each came as it did.
    pub layers: Vec<LayerReport>,
    /// Bytes of the link.
    pub bytes: Bytes,
    /// Requests to registries.
    pub requests: u64,
    /// Waits of readers.
    pub waits: Waits,
    /// Reads that reached the snapshotter.
    pub reads: u64,
    /// Bytes that they got.
    pub read_bytes: u64,
    /// A remark about the image.
    pub note: Option<String>,
}

/// A pack of the image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PackReport {
    /// Digest of its manifest.
    pub digest: Digest,
    /// The workload that it is for; empty: none in particular.
    pub workload: String,
    /// `label`, `rule N`, `chooser`, `pack.workload`, `recorded` (before a restart) or `default`.
    pub chosen_by: String,
    /// Bytes, as the registry has it.
    pub size: u64,
    /// When it was begun.
    pub begun_ms: u64,
    /// When it was here, or had failed.
    pub done_ms: Option<u64>,
    /// `coming`, `here` or `failed`.
    pub state: &'static str,
    /// Why it failed.
    pub failure: Option<String>,
}

/// A layer of the image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LayerReport {
    /// Its digest.
    pub digest: Digest,
    /// How it came.
    pub way: Way,
    /// Why it did.
    pub reason: String,
    /// What to change so that it is lazy; empty: nothing.
    pub advice: String,
}

/// Bytes that the link has carried, by what became of them. `hit`, `late`, `wasted`, `missed`, `background`, `whole` and `overhead`
/// add up to `link`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Bytes {
    /// All.
    pub link: u64,
    /// Fetched ahead, and there when they were read, or given to the kernel before.
    pub hit: u64,
    /// Of those, given to the kernel before it asked: whether they were read is not known.
    pub handed: u64,
    /// Fetched ahead, but a reader waited for them.
    pub late: u64,
    /// Fetched ahead, and not read yet.
    pub wasted: u64,
    /// Fetched because a reader waited.
    pub missed: u64,
    /// Fetched to complete the layers while nothing else was to be done.
    pub background: u64,
    /// Layers that were pulled whole.
    pub whole: u64,
    /// Manifests, lists, tables, heads of packs, windows, and what was asked for twice.
    pub overhead: u64,
}

impl Bytes {
    /// What all parts add up to.
    pub const fn sum(&self) -> u64 {
        self.hit + self.late + self.wasted + self.missed + self.background + self.whole + self.overhead
    }
}

/// How long readers waited, all of them added up: several may wait at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Waits {
    /// For bytes that were coming ahead of them, milliseconds.
    pub late_ms: u64,
    /// For bytes that were fetched for them, milliseconds.
    pub missed_ms: u64,
}

/// A moment in UTC, to the millisecond, as RFC 3339 has it.
pub(super) fn calendar(at: SystemTime) -> String {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    let time = prost_types::Timestamp { seconds, nanos: (since.subsec_millis() * 1_000_000) as i32 };
    time.to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_moment_is_written_as_the_calendar_has_it() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_125);
        assert_eq!(calendar(at), "2023-11-14T22:13:20.125Z");
    }
}
