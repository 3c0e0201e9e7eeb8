//! What a build tells on the way, of an index or of a pack. Holds no state.

use super::SkipReason;
use crate::{
    digest::Digest,
    image::Descriptor,
    pack::{PackBuildError, PackReport},
    prefetch::{Ahead, Chosen},
};

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
    FineIndex {
        /// Their manifest.
        manifest: &'a Descriptor,
        /// Bytes of the tables that a start downloads.
        tables: u64,
    },
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
    /// What the prefetch artifacts of a trace have the node fetch ahead.
    Ahead {
        /// The image manifest.
        image: Digest,
        /// Spans and bytes.
        ahead: Ahead,
    },
    /// A working-set pack was made.
    Pack(&'a PackReport),
    /// None was made, though one would have been welcome.
    NoPack(&'a PackBuildError),
}
