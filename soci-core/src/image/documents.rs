//! How many manifests, indexes and configurations one look at an image may read: an index can name others without end.
//!
//! [`Documents`] owns what is left. What must always hold: it is asked before a document is read.

use std::collections::HashSet;

use super::Descriptor;
use crate::{
    budget::{Budget, OverLimit},
    digest::Digest,
};

/// What one look at an image may still read.
#[derive(Debug)]
pub(crate) struct Documents {
    count: Budget,
    bytes: Budget,
    entries: Budget,
    seen: HashSet<Digest>,
}

impl Documents {
    /// Limit: documents of one image. The largest indexes have some dozens of platforms.
    const COUNT: &str = "image-documents";
    /// Limit: bytes of all of them.
    const BYTES: &str = "image-document-bytes";
    /// Limit: entries of all its indexes.
    const ENTRIES: &str = "image-entries";

    pub(crate) fn new() -> Self {
        Self {
            count: Budget::new(Self::COUNT, 1024),
            bytes: Budget::new(Self::BYTES, 64 << 20),
            entries: Budget::new(Self::ENTRIES, 10_000),
            seen: HashSet::new(),
        }
    }

    /// Takes a document that is to be read.
    pub(crate) fn read(&mut self, document: &Descriptor) -> Result<(), OverLimit> {
        self.count.spend(1)?;
        self.bytes.spend(document.size)
    }

    /// Takes a document that is to be read, unless it was before. Whether it was not.
    pub(crate) fn read_once(&mut self, document: &Descriptor) -> Result<bool, OverLimit> {
        let is_new = self.seen.insert(document.digest);
        if is_new {
            self.read(document)?;
        }
        Ok(is_new)
    }

    /// Takes entries of an index that was read.
    pub(crate) fn entries(&mut self, count: usize) -> Result<(), OverLimit> {
        self.entries.spend(count as u64)
    }
}
