//! Giving disk back while the layer is in use: pages are taken out of the maps first, then out of the file.
//!
//! It owns nothing; it is a part of [`SpanCache`]. What must always hold: the maps on disk never speak of a page that is not in the
//! file. A reader who has looked at the maps before pages were taken out finds that [`SpanCache::holes`] has changed after it has
//! read.

use std::io;
use std::sync::atomic::Ordering;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use soci_core::units::ByteRange;

use super::{Edges, PAGE, SpanCache};

/// What was taken out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// Bytes, in whole pages.
    pub bytes: u64,
    /// Some of them only a pack had brought: they will not be compared with their spans any more.
    pub packed: bool,
}

impl SpanCache {
    /// How often bytes were taken out of the file. Who reads asks before it looks what is there and again after it has read: if
    /// the numbers differ, it may have read zeros.
    pub fn holes(&self) -> u64 {
        self.holes.load(Ordering::SeqCst)
    }

    /// Bytes of the pages that lie wholly in `range` and have something.
    pub fn present_in(&self, range: ByteRange) -> u64 {
        let (first, end) = self.whole_pages(self.clip(range));
        self.pages_with_some(&self.edges.lock(), first, end) * PAGE
    }

    fn pages_with_some(&self, edges: &Edges, first: u64, end: u64) -> u64 {
        self.pages.count_with_in(&self.packed, first, end)
            + edges.partial_pages(first, end, |page| self.packed.covers(page, page + 1))
    }

    /// Makes the pages absent that lie wholly in `range`, and gives their disk back. The caller has seen to it that no span with
    /// bytes in `range` is being filled. Blocking.
    ///
    /// # Errors
    /// When the maps cannot be written, or the file system cannot make holes ([`io::ErrorKind::Unsupported`], from then on without a
    /// change). The disk may stay taken then; what was absent before or has become so is never believed.
    pub fn release(&self, range: ByteRange) -> io::Result<Released> {
        let _one_writer = self.writer.lock();
        let (first, end) = self.whole_pages(self.clip(range));
        if self.closed.load(Ordering::Acquire) || first >= end {
            // What has been closed says on disk what is in the file.
            return Ok(Released::default());
        }
        if self.no_holes.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let mut edges = self.edges.lock();
        let bytes = self.pages_with_some(&edges, first, end) * PAGE;
        let packed = !self.packed.misses(first, end) || edges.any_packed(first, end);
        edges.drop_pages(first, end);
        self.pages.put(first, end, false);
        self.packed.put(first, end, false);
        drop(edges);
        self.holes.fetch_add(1, Ordering::SeqCst);
        #[cfg(test)]
        crate::doors::staged::between_maps_and_file();
        self.packed.save(first, end)?;
        self.pages.save(first, end)?;
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&self.data, hole, first * PAGE, (end - first) * PAGE) {
            Ok(()) => Ok(Released { bytes, packed }),
            Err(Errno::OPNOTSUPP) => {
                self.no_holes.store(true, Ordering::Relaxed);
                Err(io::ErrorKind::Unsupported.into())
            }
            Err(error) => Err(error.into()),
        }
    }
}
