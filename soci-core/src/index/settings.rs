//! What an index build is asked for, what it tells on the way, and how it ends. Holds no state.

use std::{error::Error, fmt::Write as _};

use super::{Companion, IndexVersion, LayerBuildError, SkipReason, SociIndex, fine::fine_tables};
use crate::{
    digest::Digest,
    image::Descriptor,
    pack::{InParts, PackReport},
    prefetch::{Chosen, Plan, Selection},
    store::StoreError,
};

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
}

/// Something worth telling while it happens. Layers are worked on in parallel: the order is that of completion.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// Bytes of a blob were read, or a whole one was taken over without being read. A layer may be read more than once.
    Read {
        /// The blob.
        blob: &'a Descriptor,
        /// How many, since the last time.
        bytes: u64,
    },
    /// A layer has its zTOC.
    Ztoc {
        /// The layer.
        layer: &'a Descriptor,
        /// The zTOC.
        ztoc: Digest,
        /// It was known before.
        existed: bool,
    },
    /// A layer has none.
    Skipped {
        /// The layer.
        layer: &'a Descriptor,
        /// Why.
        reason: &'a SkipReason,
    },
    /// A layer has a prefetch artifact.
    Prefetch {
        /// The layer.
        layer: Digest,
        /// The artifact.
        artifact: Digest,
    },
    /// A layer has no fine table, though fine indexes were asked for.
    NoFineTable {
        /// The layer.
        layer: &'a Descriptor,
        /// Why.
        reason: &'a SkipReason,
    },
    /// The image has fine indexes.
    FineIndex(&'a Descriptor),
    /// What a line of the prefetch list stands for.
    Chosen(&'a Chosen),
    /// By upstream's rule: a path of the prefetch list is in no layer with a zTOC.
    FileNotFound(&'a str),
    /// Paths of the trace that are no regular files of the image.
    PathsNotFound {
        /// How many.
        count: usize,
        /// The first of them.
        first: &'a [u8],
    },
    /// A layer whose files cannot be listed: what it hides or holds is unknown to the plan.
    LayerUnread(&'a Descriptor),
    /// Bytes of the trace that lie in layers without a zTOC; such layers are fetched whole at start.
    OutsideSpans(u64),
    /// A working-set pack was made.
    Pack(&'a PackReport),
}

/// What was built.
#[derive(Clone, Debug)]
pub struct BuildReport {
    /// The index.
    pub index: SociIndex,
    /// Its descriptor, with artifact type.
    pub descriptor: Descriptor,
    /// The companion with the fine indexes, if they were asked for. Its blobs are stored; so is it itself if the index is
    /// of version 1, while that of a version 2 index awaits its subject, the manifest that names the index.
    pub fine: Option<Companion>,
}

impl BuildReport {
    /// Which layers of the image are served in parts.
    pub fn in_parts(&self) -> InParts<'_> {
        let blobs = self.fine.iter().flat_map(|fine| &fine.layers);
        InParts { index: &self.index, fine_tables: fine_tables(blobs) }
    }
}

/// Why no index was built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Nothing to index.
    #[error("no ztocs created, all layers either skipped or produced errors")]
    NoZtocs,
    /// Layers failed; all of them are named.
    #[error("errors encountered while building soci layers{}", texts(.0))]
    Layers(Vec<(Digest, LayerBuildError)>),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn texts(failures: &[(Digest, LayerBuildError)]) -> String {
    failures.iter().fold(String::new(), |mut text, (layer, error)| {
        let _ = write!(text, "; layer {layer}: {error}");
        let mut cause = error.source();
        while let Some(error) = cause {
            let _ = write!(text, ": {error}");
            cause = error.source();
        }
        text
    })
}
