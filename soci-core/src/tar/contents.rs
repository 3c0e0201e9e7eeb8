//! Digests of what files contain, taken while an archive goes by.
//!
//! [`ContentHasher`] owns the hash of the file whose content comes. What must always hold: a digest is of all of a file's content; a sparse
//! file has none.

use std::collections::HashMap;

use super::{Entry, EntryKind};
use crate::digest::{Digest, Hasher};

/// SHA-256 of the content of each regular file that is not empty, by where the content begins in the archive.
pub type ContentDigests = HashMap<u64, Digest>;

/// Hashes the content of regular files. Hears the same as a [`super::Sink`].
#[derive(Debug, Default)]
pub(crate) struct ContentHasher {
    digests: ContentDigests,
    /// Where the content of the last entry begins, and the hash of what has come.
    open: Option<(u64, Hasher)>,
}

impl ContentHasher {
    pub(crate) fn entry(&mut self, entry: &Entry) {
        self.close();
        if entry.kind == EntryKind::Reg && entry.size > 0 {
            self.open = Some((entry.content_offset, Hasher::new()));
        }
    }

    /// An entry of which no digest is wanted.
    pub(crate) fn special(&mut self) {
        self.close();
    }

    pub(crate) fn data(&mut self, bytes: &[u8]) {
        if let Some((_, hasher)) = &mut self.open {
            hasher.update(bytes);
        }
    }

    pub(crate) fn finish(mut self) -> ContentDigests {
        self.close();
        self.digests
    }

    fn close(&mut self) {
        if let Some((start, hasher)) = self.open.take() {
            self.digests.insert(start, hasher.finish());
        }
    }
}
