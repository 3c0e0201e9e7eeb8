//! What an index build is asked for. Holds no state.

use super::IndexVersion;
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
}

/// A plan, and what it may change.
#[derive(Clone, Debug)]
pub struct TraceSettings {
    /// What the workload needs.
    pub plan: Plan,
    /// Place checkpoints at the edges of what is needed; needed ranges closer than this many bytes count as one.
    /// `None`: upstream's placement.
    pub span_gap: Option<u64>,
    /// Most compressed bytes of the spans that prefetch artifacts name: what is needed last is left out.
    pub budget: Option<Budget>,
}
