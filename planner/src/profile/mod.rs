//! A profile: what several runs of one workload needed of its image, and when. It is made of traces, outlives the build that they were
//! recorded on, and is what plans, artifacts and packs are made from.
//!
//! [`Profile`] owns plain data; nothing here does I/O. What must always hold: the same set of runs gives the same bytes, in
//! whatever order and however often they were put together; no path leaves the image; arguments and environment of the
//! workload are not in it.

mod difference;
mod document;
mod error;
mod needs;
mod rebase;
mod run;
mod support;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use soci_core::digest::Digest;
use soci_core::trace::Outcome;
use soci_core::units::ByteRange;

pub use difference::{Change, Difference};
pub use error::ProfileError;
pub use rebase::{Amount, Coverages, Fate, Inventory};
pub use support::{Support, Supported, Threshold};

use crate::plan::Class;

/// Most runs that a profile keeps.
pub const MAX_RUNS: usize = 256;

/// What several runs of a workload needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Name of the workload; empty for the only one of an image.
    pub workload: String,
    /// The image of the latest run, or the one that the profile was rebased to.
    pub image: Source,
    /// By start and identity.
    runs: Vec<Run>,
    /// By path.
    files: BTreeMap<Arc<[u8]>, File>,
}

/// The image that a profile speaks of.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Source {
    /// As the user named it.
    pub reference: String,
    /// Digest of the platform's image manifest; absent when a directory was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Digest>,
    /// Digests of the layers, lowest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Digest>,
}

/// One recording.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Run {
    /// When it was started, RFC 3339 UTC.
    pub started_at: String,
    /// Digest of what it needed, when, and of the other fields.
    pub id: Digest,
    /// The engine that recorded it.
    pub engine: String,
    /// How it ended.
    pub outcome: RunEnd,
    /// Microseconds from the start until the workload was ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_us: Option<u64>,
    /// Microseconds from the start until the recording stopped.
    pub ended_us: u64,
    /// Accesses that were seen and could not be kept.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropped: u64,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunEnd {
    /// It became ready.
    Ready,
    /// The workload ended by itself.
    Exited,
    /// It was not ready in time.
    TimedOut,
    /// The user stopped it.
    Interrupted,
    /// The trace breaks off.
    Torn,
}

impl From<Outcome> for RunEnd {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Ready => Self::Ready,
            Outcome::Exited => Self::Exited,
            Outcome::TimedOut => Self::TimedOut,
            Outcome::Interrupted => Self::Interrupted,
        }
    }
}

/// What is needed of one file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct File {
    /// Size and digest of its content, when the image was at hand.
    pub content: Option<Content>,
    /// In how many of a thousand builds like this one the needs are expected to be true: 1000, but after a rebase onto other content.
    pub trust: Trust,
    /// By range, then by run. A run needs no byte twice.
    pub needs: Vec<Need>,
}

/// Size and digest of a file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Content {
    /// Bytes.
    pub size: u64,
    /// SHA-256 of them.
    pub digest: Digest,
}

/// A share of a thousand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Trust(pub u16);

impl Trust {
    /// What was seen of this content.
    pub const FULL: Self = Self(1000);
}

impl Default for Trust {
    fn default() -> Self {
        Self::FULL
    }
}

/// A range of a file, in one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Need {
    /// First byte.
    pub start: u64,
    /// Behind the last byte: whole pages, so it may be more than the file's size.
    pub end: u64,
    /// Number of the run.
    pub run: u32,
    /// Microseconds since the start of the workload, of the first need.
    pub t_us: u64,
    /// How it was needed.
    pub class: Class,
}

impl Need {
    /// The bytes.
    pub fn range(&self) -> ByteRange {
        ByteRange::new(self.start, self.end)
    }
}

impl Profile {
    /// The recordings, by start.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// What is needed of each file, by path.
    pub fn files(&self) -> impl ExactSizeIterator<Item = (&Arc<[u8]>, &File)> {
        self.files.iter()
    }

    /// Bytes that any run has needed.
    pub fn bytes(&self) -> u64 {
        let of_file = |file: &File| {
            let mut all = crate::plan::Coverage::default();
            for need in &file.needs {
                all.add(need.range());
            }
            all.len()
        };
        self.files.values().map(of_file).sum()
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's form
fn is_zero(value: &u64) -> bool {
    *value == 0
}
