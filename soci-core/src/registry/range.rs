//! Reading parts of a known blob.
//!
//! A [`RangeFetcher`] owns nothing but a blob's size and where it is ([`BlobSource`]); a [`RangeBody`] owns one transfer.

use std::sync::Arc;

use super::body::RangeBody;
use super::error::{FetchError, RegistryError};
use super::partial::Want;
use super::source::{ASKED_FOR_PART, BlobSource, MAX_SKIP};
use super::traffic::RequestKind;
use crate::digest::Digest;
use crate::units::ByteRange;

/// Bytes in front of a range that are read and thrown away on a server that does not give the part when asked again: what it
/// costs is better than an error in a container.
const MAX_READ_OVER: u64 = 4 << 30;

/// Reads ranges of one blob. Clones share the redirect target.
#[derive(Debug, Clone)]
pub struct RangeFetcher {
    source: Arc<BlobSource>,
    size: u64,
}

impl RangeFetcher {
    pub(super) fn new(source: BlobSource, size: u64) -> Self {
        Self { source: Arc::new(source), size }
    }

    /// Digest of the blob.
    pub fn digest(&self) -> Digest {
        self.source.digest
    }

    /// Size of the blob in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether parts of the blob can be had, as far as requests of this blob, or of others of its server, have told.
    pub fn gives_parts(&self) -> Option<bool> {
        self.source.gives_parts()
    }

    /// The same, asking for the last byte if it is not known. Of a small blob it does not matter: it is read whole at once.
    ///
    /// # Errors
    /// When the registry does not say.
    pub async fn find_out_parts(&self) -> Result<bool, FetchError> {
        if self.size <= MAX_SKIP || self.gives_parts() == Some(true) {
            return Ok(true);
        }
        let (kind, start, end) = (RequestKind::Range, self.size - 1, Some(self.size));
        let want = Want { kind, start, end, size: Some(self.size), max_skip: u64::MAX };
        for _ in 0..ASKED_FOR_PART {
            // The rest of a whole blob is not waited for.
            let (_, accepted, _) = self.source.request(want).await?;
            if accepted.as_part == Some(true) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Starts to read `range`, which must lie within the blob. Returns when the first response header that
    /// fits is there; an empty range needs no request.
    ///
    /// # Errors
    /// Those of [`RegistryError`]; transient ones only after the retry budget is used up.
    pub async fn fetch(&self, range: ByteRange) -> Result<RangeBody, FetchError> {
        if range.end > self.size {
            let url = self.source.name();
            return Err(RegistryError::RangeNotSatisfiable { url, range });
        }
        let want = Want {
            kind: RequestKind::Range,
            start: range.start,
            end: Some(range.end),
            size: Some(self.size),
            max_skip: MAX_READ_OVER,
        };
        RangeBody::open(Arc::clone(&self.source), want).await
    }
}
