//! What an index build is asked for. Holds no state.

use std::{fmt, sync::Arc};

use super::{FileDigest, IndexVersion};
use crate::pack::Budget;
use crate::prefetch::{Plan, Selection};

/// Compressed bytes below which a layer gets no zTOC unless somebody wants it; upstream's.
pub const DEFAULT_MIN_LAYER_SIZE: u64 = 10 << 20;

/// What to build.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How the index is bound to the image.
    pub version: IndexVersion,
    /// Uncompressed bytes of a span.
    pub span_size: u64,
    /// Layers smaller than this (compressed bytes) get no zTOC.
    pub min_layer_size: u64,
    /// Build zTOCs anew even if they are known.
    pub force: bool,
    /// Mark layers that have neither extended attributes nor opaque directories.
    pub mark_no_xattrs: bool,
    /// Paths to prefetch.
    pub prefetch_files: Vec<String>,
    /// How they are looked up.
    pub selection: Selection,
    /// A recorded plan to prefetch; used when there are no `prefetch_files`.
    pub trace: Option<TraceSettings>,
    /// Also make fine indexes, with spans of so many uncompressed bytes.
    pub fine: Option<u64>,
    /// Say in the index that a full pull of the image is faster than what it describes.
    pub advised_whole: bool,
}

/// A plan, and what it may change.
#[derive(Clone, Debug)]
pub struct TraceSettings {
    /// What the workload needs.
    pub plan: PlanSource,
    /// Place checkpoints at the edges of what is needed; needed ranges closer than this many bytes count as one.
    /// `None`: upstream's placement.
    pub span_gap: Option<u64>,
    /// Most compressed bytes of the spans that prefetch artifacts name: what is needed last is left out.
    pub budget: Option<Budget>,
}

/// Where a plan comes from.
#[derive(Clone)]
pub enum PlanSource {
    /// It is there.
    Known(Plan),
    /// It depends on what the files of the image contain; the build finds that out in the pass that it makes over the layers.
    OfFiles(Arc<PlanOfFiles>),
}

/// Makes a plan for an image with these files.
pub type PlanOfFiles = dyn Fn(Vec<FileDigest>) -> Plan + Send + Sync;

impl Default for PlanSource {
    fn default() -> Self {
        Self::Known(Plan::default())
    }
}

impl fmt::Debug for PlanSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(plan) => f.debug_tuple("Known").field(plan).finish(),
            Self::OfFiles(_) => f.write_str("OfFiles"),
        }
    }
}
