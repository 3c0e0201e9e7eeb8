//! The cache of one layer: a sparse file that is the layer's uncompressed tar, and the map of the pages it holds.
//!
//! State: `<root>/cache/<layer digest>/<zTOC digest>/{data,pages}`, owned by the one live [`super::SpanManager`] of that
//! layer and zTOC. The bytes of a page are written before its bit; a page's bit is set only when the whole page is
//! there. Space is taken as spans arrive, so a full disk is an error of the write and sets no bit.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use soci_core::units::ByteRange;

use super::bitmap::{BootId, Identity, PAGE, PageMap};

/// Sparse file and page map of one layer.
#[derive(Debug)]
pub struct SpanCache {
    data: File,
    pages: PageMap,
    size: u64,
}

impl SpanCache {
    /// The directory of a layer's cache below `root`.
    pub fn directory(root: &Path, identity: &Identity) -> PathBuf {
        root.join(identity.layer.hex()).join(identity.ztoc.hex())
    }

    /// Opens or creates the cache of `identity` below `root`. Pages of an earlier process are kept when they can be
    /// trusted ([`PageMap::open`]). Blocks while another owner has it open.
    pub fn open(root: &Path, identity: Identity, boot: BootId) -> io::Result<Self> {
        let directory = Self::directory(root, &identity);
        fs::create_dir_all(&directory)?;
        let data = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(directory.join("data"))?;
        // An earlier owner in this process may still be closing: its map must not be written after ours is read.
        data.lock()?;
        let whole = data.metadata()?.len() == identity.size;
        if !whole {
            // Not the file that the page map speaks of: nothing of it is believed.
            data.set_len(0)?;
            data.set_len(identity.size)?;
            match fs::remove_file(directory.join("pages")) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        let (pages, kept) = PageMap::open(&directory.join("pages"), identity, boot)?;
        if whole && !kept {
            data.set_len(0)?;
            data.set_len(identity.size)?;
        }
        Ok(Self { data, pages, size: identity.size })
    }

    /// Size of the plain tar in bytes.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Whether every page that overlaps `range` is present.
    pub fn holds(&self, range: ByteRange) -> bool {
        self.pages.covers(range.start, range.end.min(self.size))
    }

    /// Reads bytes that are known to be present.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.data.read_exact_at(into, offset)
    }

    /// Writes plain bytes. They count as present only after [`SpanCache::mark`].
    pub fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > self.size) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "write past the end of the layer"));
        }
        self.data.write_all_at(bytes, offset)
    }

    /// Sets the bits of the pages that lie wholly in `range`; the layer's end also ends its last page.
    pub fn mark(&self, range: ByteRange) -> io::Result<()> {
        let end = if range.end >= self.size { self.size.div_ceil(PAGE) } else { range.end / PAGE };
        self.pages.set(range.start.div_ceil(PAGE), end)
    }

    /// Bytes present, in whole pages.
    pub fn bytes_present(&self) -> u64 {
        (self.pages.count() * PAGE).min(self.size)
    }

    /// Brings everything to disk and marks the cache as closed cleanly, so that a later boot trusts it too.
    pub fn close(&self) -> io::Result<()> {
        self.data.sync_data()?;
        self.pages.close()
    }
}

impl Drop for SpanCache {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::warn!(%error, "span cache was not closed cleanly; it is dropped if the machine restarts");
        }
    }
}
