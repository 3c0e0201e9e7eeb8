//! What is known of one snapshot, in containerd's terms, and its form in the database.
//!
//! Plain data; [`super::Metadata`] owns every stored copy.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// Labels of a snapshot. A label with an empty value does not exist.
pub type Labels = BTreeMap<String, String>;

/// Identifies a snapshot's directory. Never used twice in the life of a root directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SnapshotId(pub u64);

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The state of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Read only, for looking at a committed snapshot.
    View,
    /// Writable; becomes committed.
    Active,
    /// Immutable; may be a parent.
    Committed,
}

impl Kind {
    /// The name that filters use.
    pub fn name(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Active => "active",
            Self::Committed => "committed",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Disk usage of a snapshot alone, without its parents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Allocated bytes.
    pub size: u64,
    /// Inodes, hard links counted once.
    pub inodes: u64,
}

/// One snapshot as its users see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Key (active, view) or name (committed): one name space.
    pub name: String,
    /// Name of the committed parent.
    pub parent: Option<String>,
    /// State.
    pub kind: Kind,
    /// Labels.
    pub labels: Labels,
    /// When it was made, or committed.
    pub created: SystemTime,
    /// When its labels changed last.
    pub updated: SystemTime,
}

/// One snapshot as its mounts need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Own directory.
    pub id: SnapshotId,
    /// State.
    pub kind: Kind,
    /// Directories of the ancestors, nearest first.
    pub parents: Vec<SnapshotId>,
}

/// The value of the table of snapshots, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) id: SnapshotId,
    pub(super) kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) parent: Option<String>,
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub(super) labels: Labels,
    pub(super) created: SystemTime,
    pub(super) updated: SystemTime,
    #[serde(default)]
    pub(super) usage: Usage,
}

impl Record {
    pub(super) fn into_info(self, name: &str) -> Info {
        Info {
            name: name.to_owned(),
            parent: self.parent,
            kind: self.kind,
            labels: self.labels,
            created: self.created,
            updated: self.updated,
        }
    }
}
