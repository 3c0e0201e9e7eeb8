//! Why a span could not be had.
//!
//! Stateless. An error is told to all who wait for the span, so it is shared, and then forgotten.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use soci_core::digest::Digest;
use soci_core::registry::FetchError;
use soci_core::units::{ByteRange, SpanId};
use soci_core::ztoc::{ExtractError, WindowError};

/// Why a span could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SpanError {
    /// The registry did not give the bytes.
    #[error("fetch of the layer's bytes failed")]
    Fetch(#[source] FetchError),
    /// The compressed bytes are not those that the zTOC speaks of.
    #[error("span {span} has digest {found}, its zTOC says {wanted}")]
    Digest {
        /// The span.
        span: SpanId,
        /// Digest of the bytes that came.
        found: Digest,
        /// Digest in the zTOC.
        wanted: Digest,
    },
    /// The zTOC has no digest for the span, so nothing of it can be served.
    #[error("the zTOC has no digest for span {0}")]
    NoDigest(SpanId),
    /// The compressed bytes do not inflate as the zTOC says.
    #[error("span cannot be extracted")]
    Extract(#[source] ExtractError),
    /// The window of the span is not the one that its table speaks of.
    #[error("window of span {span} is not usable")]
    Window {
        /// The span.
        span: SpanId,
        /// What is wrong.
        #[source]
        source: WindowError,
    },
    /// The cache file could not be read or written.
    #[error("span cache failed")]
    Cache(#[source] io::Error),
    /// The bytes did not come in time.
    #[error("span did not arrive within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The fetch was cancelled, because the last mount of the layer went away.
    #[error("fetch was abandoned")]
    Abandoned,
    /// The range is not inside the layer.
    #[error("bytes {0} are outside the layer")]
    OutOfRange(ByteRange),
    /// There is nowhere to fetch from.
    #[error("layer has no source")]
    NoSource,
    /// Another reader's fetch failed.
    #[error(transparent)]
    Shared(Arc<SpanError>),
}

impl SpanError {
    /// May it be otherwise in a while? A registry may come back, credentials may be mended, a mirror may be put right, a disk may
    /// have room again. What a table says stays as it is.
    pub(crate) fn may_heal(&self) -> bool {
        match self {
            Self::Fetch(_) | Self::Digest { .. } | Self::Cache(_) => true,
            Self::Window { source, .. } => matches!(source, WindowError::Digest { .. }),
            Self::Shared(error) => error.may_heal(),
            _ => false,
        }
    }

    /// Was it given up by who had asked for it, without an answer?
    pub(crate) fn is_abandoned(&self) -> bool {
        match self {
            Self::Abandoned => true,
            Self::Shared(error) => error.is_abandoned(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_window_may_be_whole_the_next_time_but_a_wrong_table_stays_wrong() {
        let window = |source| SpanError::Window { span: SpanId(1), source };
        let (found, wanted) = (Digest::of(b"came"), Digest::of(b"meant"));
        assert!(window(WindowError::Digest { found, wanted }).may_heal());
        assert!(!window(WindowError::Short(1)).may_heal());
        assert!(!SpanError::NoDigest(SpanId(1)).may_heal());
    }
}
