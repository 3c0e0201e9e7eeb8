//! A persisted map of 4 KiB pages of a layer's cache file.
//!
//! State: one file beside the data file, a header page and then one bit for each page (little-endian 64-bit words). It is
//! owned by the [`super::SpanCache`] that opened it; one process only writes it. The bits in memory are those that
//! count; a file that cannot be written costs pages after a restart, nothing else.
//!
//! What must always hold: a file that says "closed cleanly" is not changed any more. A bit is set only after the page's bytes were written to the data file. After `kill -9` both
//! files are as they were left (the kernel keeps their pages). After a crash of the machine the order of write-back is
//! unknown, so a map whose boot id is not this boot's and which was not closed cleanly is dropped.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use soci_core::digest::Digest;

use crate::boot::BootId;

/// Size of a page of the map, in bytes.
pub const PAGE: u64 = 4096;

const MAGIC: &[u8; 8] = b"SOCIPAGE";
const VERSION: u32 = 1;
const FLAG_CLEAN: u32 = 1;
const HEADER: u64 = PAGE;
const HEADER_USED: usize = 104;

/// What a cache belongs to. A zTOC is not bound to its layer by any digest, so two publishers' zTOCs of one layer never
/// share bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Digest of the compressed layer.
    pub layer: Digest,
    /// Digest of the zTOC whose span digests the cached bytes were checked against.
    pub ztoc: Digest,
    /// Size of the plain tar in bytes.
    pub size: u64,
}

/// A set of pages, in memory and in its file.
#[derive(Debug)]
pub struct PageMap {
    /// Opened for each write, and not kept open: a node has hundreds of layers.
    path: PathBuf,
    identity: Identity,
    boot: BootId,
    words: Box<[AtomicU64]>,
    /// Locked while the file is written; true when it has been closed, and is not written any more.
    closed: Mutex<bool>,
}

impl PageMap {
    /// Opens or creates the map at `path`. Bits of an earlier process are kept when they can be trusted: same identity,
    /// and same boot or closed cleanly. Returns the map and whether earlier bits were kept.
    pub fn open(path: &Path, identity: Identity, boot: BootId) -> io::Result<(Self, bool)> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let count = usize::try_from(identity.size.div_ceil(PAGE).div_ceil(64)).map_err(io::Error::other)?;
        let length = HEADER + 8 * count as u64;
        let found = file.metadata()?.len();
        let (new, kept) = (found == 0, found == length && trusted(&file, identity, boot)?);
        let mut raw = vec![0u8; count * 8];
        if kept {
            file.read_exact_at(&mut raw, HEADER)?;
        } else {
            // Zeros are really written: setting a bit later then needs no new block, so a full disk cannot stop it.
            file.set_len(0)?;
            file.write_all_at(&raw, HEADER)?;
        }
        let words =
            raw.as_chunks::<8>().0.iter().map(|word| AtomicU64::new(u64::from_le_bytes(*word))).collect();
        let map = Self { path: path.to_owned(), identity, boot, words, closed: Mutex::default() };
        map.write_header(&file, 0)?;
        if !new {
            // The file may say "closed cleanly" on disk: that must be gone before any page changes.
            file.sync_data()?;
        }
        Ok((map, kept))
    }

    /// Whether the pages `[first, end)` are all in the map.
    pub fn covers(&self, first: u64, end: u64) -> bool {
        first >= end || words_of(first, end).all(|(word, mask)| self.word(word) & mask == mask)
    }

    /// Whether each of the pages `[first, end)` is in this map or in `other`. A page that moves from this map to `other`
    /// meanwhile (it is put there first) counts.
    pub fn covers_with(&self, other: &Self, first: u64, end: u64) -> bool {
        first >= end
            || words_of(first, end).all(|(word, mask)| (self.word(word) | other.word(word)) & mask == mask)
    }

    /// Whether no page of `[first, end)` is in the map.
    pub fn misses(&self, first: u64, end: u64) -> bool {
        first >= end || words_of(first, end).all(|(word, mask)| self.word(word) & mask == 0)
    }

    /// Puts the pages `[first, end)` into the map or takes them out, in memory; returns whether that changed anything. The
    /// caller has written the bytes of pages that are put in, and calls [`PageMap::save`].
    pub fn put(&self, first: u64, end: u64, present: bool) -> bool {
        let mut changed = false;
        if first < end {
            for (word, mask) in words_of(first, end) {
                let Some(bits) = self.words.get(word) else { break };
                changed |= if present {
                    bits.fetch_or(mask, Ordering::AcqRel) & mask != mask
                } else {
                    bits.fetch_and(!mask, Ordering::AcqRel) & mask != 0
                };
            }
        }
        changed
    }

    /// Writes the bits of the pages `[first, end)` to the file, unless it has been closed.
    pub fn save(&self, first: u64, end: u64) -> io::Result<()> {
        if first >= end {
            return Ok(());
        }
        let closed = self.closed.lock();
        if *closed {
            return Ok(()); // another boot believes the file as it is
        }
        let mut raw = Vec::new();
        for (word, _) in words_of(first, end) {
            let bits = self.words.get(word).ok_or(io::ErrorKind::InvalidInput)?;
            raw.extend_from_slice(&bits.load(Ordering::Acquire).to_le_bytes());
        }
        self.file()?.write_all_at(&raw, HEADER + first / 64 * 8)
    }

    fn file(&self) -> io::Result<File> {
        File::options().write(true).open(&self.path)
    }

    /// Number of pages that are in this map or in `other`.
    pub fn count_with(&self, other: &Self) -> u64 {
        (0..self.words.len()).map(|word| u64::from((self.word(word) | other.word(word)).count_ones())).sum()
    }

    /// Number of the pages `[first, end)` that are in this map or in `other`.
    pub fn count_with_in(&self, other: &Self, first: u64, end: u64) -> u64 {
        if first >= end {
            return 0;
        }
        let both = |word| self.word(word) | other.word(word);
        words_of(first, end).map(|(word, mask)| u64::from((both(word) & mask).count_ones())).sum()
    }

    /// Makes writes fail.
    #[cfg(test)]
    pub(super) fn break_file(&mut self) {
        self.path = PathBuf::from("/dev/null/pages");
    }

    fn word(&self, word: usize) -> u64 {
        self.words.get(word).map_or(0, |bits| bits.load(Ordering::Acquire))
    }

    /// Marks the map as closed cleanly; its file is not written any more. The caller has synced the data file, and has put in
    /// no page since.
    pub fn close(&self) -> io::Result<()> {
        let mut closed = self.closed.lock();
        if std::mem::replace(&mut *closed, true) {
            return Ok(());
        }
        let file = self.file()?;
        file.sync_data()?;
        self.write_header(&file, FLAG_CLEAN)?;
        file.sync_data()
    }

    fn write_header(&self, file: &File, flags: u32) -> io::Result<()> {
        let mut header = [0; HEADER_USED];
        header[..8].copy_from_slice(MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        header[12..16].copy_from_slice(&flags.to_le_bytes());
        header[16..48].copy_from_slice(self.identity.layer.as_bytes());
        header[48..80].copy_from_slice(self.identity.ztoc.as_bytes());
        header[80..88].copy_from_slice(&self.identity.size.to_le_bytes());
        header[88..104].copy_from_slice(&self.boot.to_bytes());
        file.write_all_at(&header, 0)
    }
}

/// Reads the header and says whether the bits after it can be believed.
fn trusted(file: &File, identity: Identity, boot: BootId) -> io::Result<bool> {
    let mut header = [0; HEADER_USED];
    file.read_exact_at(&mut header, 0)?;
    let flags = u32::from_le_bytes([header[12], header[13], header[14], header[15]]);
    let mut written_in = [0; 16];
    written_in.copy_from_slice(&header[88..104]);
    let same_boot = boot.is_same(BootId::from_bytes(written_in));
    Ok(header[..8] == *MAGIC
        && header[8..12] == VERSION.to_le_bytes()
        && header[16..48] == *identity.layer.as_bytes()
        && header[48..80] == *identity.ztoc.as_bytes()
        && header[80..88] == identity.size.to_le_bytes()
        && (same_boot || flags & FLAG_CLEAN != 0))
}

/// The words, with the mask of their bits, that hold the pages `[first, end)`.
fn words_of(first: u64, end: u64) -> impl Iterator<Item = (usize, u64)> {
    (first / 64..end.div_ceil(64)).map(move |word| {
        let low = first.saturating_sub(word * 64).min(63);
        let high = (end - word * 64).min(64);
        (word as usize, (u64::MAX >> (64 - (high - low))) << low)
    })
}
