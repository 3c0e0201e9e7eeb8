//! The cache of one layer: a sparse file that is the layer's uncompressed tar, and what is there of it.
//!
//! State: `<root>/cache/<layer digest>/<zTOC digest>/{data,pages,packed,edges}`, owned by the one live [`crate::span::SpanManager`] of
//! that layer and zTOC, and the partly filled pages (`edges`). A byte is *checked* (inflated from a span that has
//! its digest; map `pages`), or only *packed* (a working-set pack has brought it; map `packed`), or absent. A page that is
//! whole only with bytes of both kinds is in `packed`.
//!
//! What must always hold: bytes are written before they are marked. Checked bytes never change. One writer at a time looks
//! what is there, writes and marks; readers never wait for it. Space is taken as bytes arrive, so a full disk is an error of
//! the write and marks nothing. Bytes that are forgotten stay in the file, since a reader may be about to take them; those that
//! are given back ([`holes`]) do not, and who reads must find that out.

#![deny(clippy::disallowed_methods)]

pub mod bitmap;
mod edges;
mod edges_file;
mod holes;
pub mod stored;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use soci_core::digest::Digest;
use soci_core::units::ByteRange;

use crate::boot::BootId;
#[cfg(test)]
use crate::doors::staged;
use bitmap::{Identity, PAGE, PageMap};
use edges::{Edges, Page, page_range};
pub use holes::Released;

/// Pages between two that are recorded by one write, at most: as many as a page of the map has bits.
const NEAR: u64 = 8 * PAGE;

/// How a byte is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// It is not.
    Absent,
    /// Only a pack has brought it.
    Packed,
    /// It was inflated from a span that has its digest.
    Checked,
}

/// Sparse file, page maps and parts of pages of one layer.
#[derive(Debug)]
pub struct SpanCache {
    data: File,
    pages: PageMap,
    packed: PageMap,
    edges: Mutex<Edges>,
    /// Where those are kept until the next start.
    edges_file: PathBuf,
    writer: Mutex<()>,
    closed: AtomicBool,
    /// Whether a pack has ever brought something: spares readers of other layers the look.
    any_packed: AtomicBool,
    /// How often bytes were taken out of the file.
    holes: AtomicU64,
    /// The file system cannot take bytes out of a file.
    no_holes: AtomicBool,
    identity: Identity,
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
        // An earlier owner in this process may still be closing: its maps must not be written after ours are read.
        data.lock()?;
        let (pages, packed) = (directory.join("pages"), directory.join("packed"));
        let edges_file = directory.join("edges");
        let mut edges = edges_file::take(&edges_file, identity.size)?;
        let whole = data.metadata()?.len() == identity.size;
        if !whole {
            // Not the file that the maps speak of: nothing of it is believed. They go first, so that a kill in between
            // leaves none that speaks of emptied data.
            remove(&pages)?;
            remove(&packed)?;
            data.set_len(0)?;
            data.set_len(identity.size)?;
        }
        let (pages, kept) = PageMap::open(&pages, identity, boot)?;
        if !(whole && kept) {
            edges = Edges::default();
        }
        if whole && !kept {
            remove(&packed)?;
            data.set_len(0)?;
            data.set_len(identity.size)?;
        }
        let (packed, kept) = PageMap::open(&packed, identity, boot)?;
        if !kept {
            // The parts and the map are from one time.
            edges = Edges::default();
        }
        let some_packed = !packed.misses(0, identity.size.div_ceil(PAGE)) || edges.parts().any(|part| part.1);
        Ok(Self {
            data,
            pages,
            packed,
            edges: Mutex::new(edges),
            edges_file,
            writer: Mutex::default(),
            closed: AtomicBool::default(),
            any_packed: AtomicBool::new(some_packed),
            holes: AtomicU64::default(),
            no_holes: AtomicBool::default(),
            identity,
        })
    }

    /// Size of the plain tar in bytes.
    pub const fn size(&self) -> u64 {
        self.identity.size
    }

    /// Bytes that the cache's file system has left; 0 when it does not say.
    pub fn space(&self) -> u64 {
        rustix::fs::fstatvfs(&self.data).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Digest of the compressed layer.
    pub const fn layer(&self) -> Digest {
        self.identity.layer
    }

    /// Whether every byte of `range` is there, checked or packed.
    pub fn holds(&self, range: ByteRange) -> bool {
        // A page that becomes checked leaves `packed` after it has come into `pages`.
        self.all(
            range,
            |first, end| self.packed.covers_with(&self.pages, first, end),
            |held| held != Held::Absent,
        )
    }

    /// Whether every byte of `range` is there and checked.
    pub fn checked(&self, range: ByteRange) -> bool {
        self.all(range, |first, end| self.pages.covers(first, end), |held| held == Held::Checked)
    }

    /// Whether every byte of `range` is there, and only from a pack.
    pub fn only_packed(&self, range: ByteRange) -> bool {
        let covers =
            |first, end| self.packed.covers(first, end) && !self.edges.lock().any_checked(first, end);
        self.all(range, covers, |held| held == Held::Packed)
    }

    /// Whether a byte of `range` is there only from a pack.
    pub fn any_packed(&self, range: ByteRange) -> bool {
        self.any_packed.load(Ordering::Acquire)
            && self.parts(range).iter().any(|(_, held)| *held == Held::Packed)
    }

    /// The parts of `range` that are absent.
    pub fn absent(&self, range: ByteRange) -> Vec<ByteRange> {
        let parts = self.parts(range).into_iter();
        parts.filter(|(_, held)| *held == Held::Absent).map(|(part, _)| part).collect()
    }

    /// Whether all of `range` is as `good` says; `covers` asks the maps, which know all whole pages.
    fn all(&self, range: ByteRange, covers: impl Fn(u64, u64) -> bool, good: impl Fn(Held) -> bool) -> bool {
        let range = self.clip(range);
        if range.is_empty() || covers(range.start / PAGE, range.end.div_ceil(PAGE)) {
            return true;
        }
        let (first, end) = self.whole_pages(range);
        if first >= end {
            return self.parts(range).iter().all(|(_, held)| good(*held));
        }
        let head = ByteRange::new(range.start, first * PAGE);
        let tail = ByteRange::new((end * PAGE).min(range.end), range.end);
        covers(first, end)
            && [head, tail].iter().all(|part| self.parts(*part).iter().all(|(_, held)| good(*held)))
    }

    /// `range`, cut where bytes are there in different ways.
    fn parts(&self, range: ByteRange) -> Vec<(ByteRange, Held)> {
        let range = self.clip(range);
        let mut parts = Vec::new();
        let edges = self.edges.lock();
        for page in range.start / PAGE..range.end.div_ceil(PAGE) {
            let Some(here) = range.intersect(&page_range(page, self.size())) else { continue };
            if self.pages.covers(page, page + 1) {
                push(&mut parts, here, Held::Checked);
                continue;
            }
            let rest = if self.packed.covers(page, page + 1) { Held::Packed } else { Held::Absent };
            let Some(known) = edges.get(page) else {
                push(&mut parts, here, rest);
                continue;
            };
            let checked = known.checked.ranges().map(|part| (part, Held::Checked));
            let mut known: Vec<_> =
                checked.chain(known.packed.ranges().map(|part| (part, Held::Packed))).collect();
            known.sort_unstable_by_key(|(part, _)| part.start);
            let mut at = here.start;
            for (part, held) in known {
                let Some(part) = part.intersect(&here) else { continue };
                push(&mut parts, ByteRange::new(at, part.start), rest);
                push(&mut parts, part, held);
                at = part.end;
            }
            push(&mut parts, ByteRange::new(at, here.end), rest);
        }
        parts
    }

    /// Reads bytes that are known to be there; whether they still were there is said by [`SpanCache::holes`].
    pub fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.data.read_exact_at(into, offset)
    }

    /// Stores plain bytes of a span that has its digest. Where a pack had brought other bytes, the span's win and
    /// `differs` gets the first offset.
    pub fn store(&self, offset: u64, bytes: &[u8], differs: &mut dyn FnMut(u64)) -> io::Result<()> {
        let range = self.range(offset, bytes)?;
        let _one_writer = self.writer.lock();
        let parts = self.parts(range);
        #[cfg(test)]
        if staged::planted(staged::Planted::MarkedFirst) {
            self.mark(range, Held::Checked, &mut Touched::default());
        }
        for (part, held) in parts {
            let new = slice(bytes, offset, part);
            let write = match held {
                Held::Checked => false,
                Held::Absent => true,
                Held::Packed => {
                    let mut old = vec![0; new.len()];
                    self.data.read_exact_at(&mut old, part.start)?;
                    let same = old.iter().zip(new).take_while(|(old, new)| old == new).count();
                    if same < new.len() {
                        differs(part.start + same as u64);
                    }
                    same < new.len()
                }
            };
            if write {
                self.write(new, part.start)?;
            }
        }
        let mut touched = Touched::default();
        self.mark(range, Held::Checked, &mut touched);
        self.save(&touched);
        Ok(())
    }

    /// Stores plain bytes that a pack has brought, each with its offset, where nothing is there yet. On an error, what was written
    /// before stays. Whether nothing was there: then the bytes in the cache are these.
    pub fn store_packed(&self, parts: &[(u64, &[u8])]) -> io::Result<bool> {
        let _one_writer = self.writer.lock();
        let (mut touched, mut all) = (Touched::default(), true);
        let stored = parts.iter().try_for_each(|&(offset, bytes)| {
            let range = self.range(offset, bytes)?;
            let mut written = 0;
            for part in self.absent(range) {
                self.write(slice(bytes, offset, part), part.start)?;
                self.mark(part, Held::Packed, &mut touched);
                written += part.len();
            }
            all &= written == range.len();
            Ok(())
        });
        self.save(&touched);
        stored.map(|()| all)
    }

    /// Makes all bytes absent that only a pack has brought.
    pub fn forget_packed(&self) -> io::Result<()> {
        let _one_writer = self.writer.lock();
        let mut edges = self.edges.lock();
        edges.forget_packed();
        let pages = self.size().div_ceil(PAGE);
        self.packed.put(0, pages, false);
        self.any_packed.store(false, Ordering::Release);
        drop(edges);
        self.packed.save(0, pages)
    }

    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        #[cfg(test)]
        let bytes = match staged::write(self.layer(), bytes) {
            Ok(bytes) => bytes,
            Err(part) => {
                self.data.write_all_at(part, at)?;
                return staged::refused();
            }
        };
        self.data.write_all_at(bytes, at)
    }

    /// Marks written bytes in memory; packed ones were absent before.
    fn mark(&self, range: ByteRange, held: Held, touched: &mut Touched) {
        let (first, end) = self.whole_pages(range);
        let mut edges = self.edges.lock();
        self.put(first, end, held, touched);
        if held == Held::Checked {
            edges.drop_pages(first, end);
        }
        let (head, tail) = (range.start / PAGE, range.end.div_ceil(PAGE).saturating_sub(1));
        let ends = [Some(head), (tail != head).then_some(tail)];
        for page in ends.into_iter().flatten().filter(|page| !(first..end).contains(page)) {
            let whole = page_range(page, self.size());
            let Some(part) = range.intersect(&whole) else { continue };
            let bit = self.packed.covers(page, page + 1);
            let state = match held {
                _ if self.pages.covers(page, page + 1) => continue,
                Held::Checked => edges.checked(page, whole, part, bit),
                Held::Packed | Held::Absent => edges.packed(page, whole, part),
            };
            match state {
                Page::Partial => {}
                Page::Packed => self.put(page, page + 1, Held::Packed, touched),
                Page::Checked => self.put(page, page + 1, Held::Checked, touched),
            }
        }
        if held == Held::Packed {
            self.any_packed.store(true, Ordering::Release);
        }
    }

    /// Records what has changed. A map that cannot be written costs its pages after a restart only.
    fn save(&self, touched: &Touched) {
        // `pages` first: a page in both maps is checked, one in neither would be lost.
        for (map, pages) in [(&self.pages, &touched.pages), (&self.packed, &touched.packed)] {
            for &(first, end) in pages {
                if let Err(error) = map.save(first, end) {
                    tracing::warn!(%error, first, end, "pages could not be recorded; they are fetched again after a restart");
                }
            }
        }
    }

    fn put(&self, first: u64, end: u64, held: Held, touched: &mut Touched) {
        if held == Held::Checked && self.pages.put(first, end, true) {
            add(&mut touched.pages, first, end);
        }
        if self.packed.put(first, end, held == Held::Packed) {
            add(&mut touched.packed, first, end);
        }
    }

    /// The pages that lie wholly in `range`, half-open; the layer's end also ends its last page.
    fn whole_pages(&self, range: ByteRange) -> (u64, u64) {
        let end = if range.end >= self.size() { self.size().div_ceil(PAGE) } else { range.end / PAGE };
        (range.start.div_ceil(PAGE), end)
    }

    fn clip(&self, range: ByteRange) -> ByteRange {
        ByteRange::new(range.start, range.end.min(self.size()))
    }

    fn range(&self, offset: u64, bytes: &[u8]) -> io::Result<ByteRange> {
        match offset.checked_add(bytes.len() as u64) {
            Some(end) if end <= self.size() => Ok(ByteRange::new(offset, end)),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "write past the end of the layer")),
        }
    }

    /// Makes writes of data fail; gives what [`SpanCache::mend_data`] takes back.
    #[cfg(test)]
    pub(crate) fn break_data(&mut self, by: File) -> File {
        std::mem::replace(&mut self.data, by)
    }

    #[cfg(test)]
    pub(crate) fn mend_data(&mut self, data: File) {
        self.data = data;
    }

    /// Makes writes of both maps fail.
    #[cfg(test)]
    pub(crate) fn break_maps(&mut self) {
        self.pages.break_file();
        self.packed.break_file();
    }

    /// Bytes in whole pages that are there, checked or packed.
    pub fn bytes_present(&self) -> u64 {
        (self.pages.count_with(&self.packed) * PAGE).min(self.size())
    }

    /// Brings everything to disk and marks the cache as closed cleanly, so that a later boot trusts it too. What is stored
    /// afterwards is served, and forgotten with this process.
    pub fn close(&self) -> io::Result<()> {
        let _one_writer = self.writer.lock();
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.data.sync_data()?;
        edges_file::write(&self.edges_file, &self.edges.lock())?;
        self.pages.close()?;
        self.packed.close()
    }
}

/// Pages of the maps that were changed in memory, half-open.
#[derive(Debug, Default)]
struct Touched {
    pages: Vec<(u64, u64)>,
    packed: Vec<(u64, u64)>,
}

/// Adds pages; what is so near to the last ones that it is written with them is one with them.
fn add(pages: &mut Vec<(u64, u64)>, first: u64, end: u64) {
    match pages.last_mut() {
        Some(last) if first <= last.1 + NEAR && last.0 <= end + NEAR => {
            *last = (last.0.min(first), last.1.max(end));
        }
        _ => pages.push((first, end)),
    }
}

/// Adds a part that follows the last one.
fn push(parts: &mut Vec<(ByteRange, Held)>, part: ByteRange, held: Held) {
    match parts.last_mut() {
        _ if part.is_empty() => {}
        Some((last, known)) if *known == held => last.end = part.end,
        _ => parts.push((part, held)),
    }
}

/// The bytes of `part`, which lies in `bytes` at `offset`.
fn slice(bytes: &[u8], offset: u64, part: ByteRange) -> &[u8] {
    &bytes[(part.start - offset) as usize..(part.end - offset) as usize]
}

/// Whether a write failed for want of space.
pub(crate) fn is_for_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Drop for SpanCache {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::warn!(%error, "span cache was not closed cleanly; it is dropped if the machine restarts");
        }
    }
}
