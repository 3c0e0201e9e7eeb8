//! Fine indexes: small spans, their windows apart from the table, in a blob of their own.
//!
//! [`Windows`] owns where each window lies. Invariant: places follow each other in the order of spans without a gap and
//! fill the blob, so that a run of spans has one range of windows. docs/formats.md has the bytes.

mod bundle;
mod packed;
mod table;
mod window;
mod writer;

pub use bundle::{Bundle, BundleError, MAX_BUNDLE};
pub use window::{Window, WindowError};
pub use writer::{BuiltFine, DEFAULT_FINE_SPAN_SIZE, FineOptions};

pub(super) use table::open;
pub(super) use writer::{FineWriter, Layer};

use crate::digest::Digest;
use crate::units::{ByteRange, SpanId};

/// The windows of one layer: a blob, and where in it each span's window lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Windows {
    digest: Digest,
    size: u64,
    /// By span number.
    places: Vec<Option<WindowPlace>>,
}

/// Where a window lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowPlace {
    /// Its bytes in the blob of windows.
    pub range: ByteRange,
    /// Digest of these bytes.
    pub digest: Digest,
}

impl Windows {
    /// Digest of the blob.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Length of the blob in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Where the window of `span` lies; `None` when the span needs none, or is unknown.
    pub fn of(&self, span: SpanId) -> Option<WindowPlace> {
        self.places.get(span.0 as usize).copied().flatten()
    }
}
