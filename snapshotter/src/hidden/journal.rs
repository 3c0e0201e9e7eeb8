//! Memory that outlives the server: a memfd that the keeper holds beside the connection's descriptor.
//!
//! It has three parts: the INIT request, from which a successor knows what the kernel offers; the table of slots, which says
//! which layer each node id belongs to; and cells, into which requests are read on kernels that cannot send a request
//! again (before Linux 6.9). The serving process owns the memory; the keeper only holds the descriptor.
//!
//! What must always hold, because the process may be killed between any two instructions:
//! * A slot number is taken before it is used, and is never given out twice.
//! * A record counts from the moment its state is written, which is the last step.
//! * A cell is read into directly. So there is no moment at which the kernel has given a request away and no cell has it.
//! * A cell keeps its request until the answer is written. Answering twice is harmless, because the kernel then knows no
//!   request of this id.
//!
//! This is the module's only `unsafe`: another process may have written the memory, so it is not a Rust object.

#![allow(unsafe_code, reason = "memory that is shared with an earlier process")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use parking_lot::{Condvar, Mutex};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

use super::ids::Slot;

/// First bytes of the memory, and the version of what follows.
const MAGIC: [u8; 8] = *b"sociFUSE";
const VERSION: u32 = 1;

// Places in the first page.
const VERSION_AT: usize = 8;
const NEXT_SLOT_AT: usize = 12;
const INIT_LENGTH_AT: usize = 16;
const PRIMED_AT: usize = 20;
const INIT_AT: usize = 64;
const INIT_MAX: usize = 1024;

const PAGE: usize = 4096;
/// Layers that can be live at once. overlayfs takes 500 layers for a container.
const RECORDS: usize = 4096;
const RECORD: usize = 256;
const RECORD_HEAD: usize = 12;
/// Longest name of a layer.
pub(crate) const NAME_MAX: usize = RECORD - RECORD_HEAD;
const CELLS_AT: usize = PAGE + RECORDS * RECORD;
/// Requests that can be held at once. The kernel has at most `max_background` and one for each waiting thread out.
const CELLS: usize = 2048;
/// Room of a cell. The longest request that is answered with more than an error is a GETXATTR: 48 bytes and a name.
const CELL: usize = 512;
const SIZE: usize = CELLS_AT + CELLS * CELL;

const FREE: u32 = 0;
const LIVE: u32 = 1;

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The memory cannot be had.
    #[error("cannot map the journal of the connection")]
    Memory(#[source] io::Error),
    /// Another program made it, or another version of this one.
    #[error("the journal is not of version {VERSION}: unmount all layers and start again")]
    Version,
    /// The table is full.
    #[error("cannot serve one more layer: {RECORDS} are live")]
    Full,
    /// Every slot number was used.
    #[error("the connection has used all of its slots: unmount all layers and start again")]
    Exhausted,
    /// The name cannot be a file name, or is too long.
    #[error("layer name of {0} bytes is not usable: 1 to {NAME_MAX} bytes without '/' and NUL are")]
    Name(usize),
}

/// The table of slots, as the records have it.
#[derive(Debug, Default)]
struct Table {
    /// Index of the record, and the layer's name.
    live: BTreeMap<Slot, (usize, Vec<u8>)>,
    /// Records that are not used.
    free: Vec<usize>,
}

/// The memory.
#[derive(Debug)]
pub(crate) struct Journal {
    map: MmapRaw,
    file: OwnedFd,
    /// What the records say.
    table: Mutex<Table>,
    /// Cells that hold no request.
    free: Mutex<Vec<usize>>,
    freed: Condvar,
}

impl Journal {
    /// A new one, for a new connection.
    pub(crate) fn create() -> Result<Self, JournalError> {
        let make = || {
            let file = memfd_create("soci-journal", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
            ftruncate(&file, SIZE as u64)?;
            // A shorter file would end the process that touches the memory.
            fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
            Ok(file)
        };
        let journal =
            Self::map(make().map_err(|errno: rustix::io::Errno| JournalError::Memory(errno.into()))?)?;
        journal.write(0, &MAGIC);
        journal.word(NEXT_SLOT_AT).store(1, Ordering::Relaxed);
        journal.word(VERSION_AT).store(VERSION, Ordering::Release);
        Ok(journal)
    }

    /// That of an earlier process.
    pub(crate) fn open(file: OwnedFd) -> Result<Self, JournalError> {
        let length = rustix::fs::fstat(&file).map_err(|errno| JournalError::Memory(errno.into()))?.st_size;
        if length != SIZE as i64 {
            return Err(JournalError::Version);
        }
        let journal = Self::map(file)?;
        let version = journal.word(VERSION_AT).load(Ordering::Acquire);
        if journal.read(0, MAGIC.len()) != MAGIC || version != VERSION {
            return Err(JournalError::Version);
        }
        Ok(journal)
    }

    fn map(file: OwnedFd) -> Result<Self, JournalError> {
        let file = File::from(file);
        let map = MmapOptions::new().len(SIZE).map_raw(&file).map_err(JournalError::Memory)?;
        let (table, free) = (Mutex::default(), Mutex::default());
        let journal = Self { map, file: file.into(), table, free, freed: Condvar::new() };
        journal.read_table();
        Ok(journal)
    }

    fn read_table(&self) {
        let mut table = self.table.lock();
        for index in (0..RECORDS).rev() {
            let at = record_at(index);
            if self.word(at).load(Ordering::Acquire) != LIVE {
                table.free.push(index);
                continue;
            }
            let slot = Slot::new(self.word(at + 4).load(Ordering::Relaxed));
            let length = self.word(at + 8).load(Ordering::Relaxed) as usize;
            table.live.insert(slot, (index, self.read(at + RECORD_HEAD, length.min(NAME_MAX))));
        }
    }

    /// The descriptor, for the keeper.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Keeps the INIT request of the connection.
    pub(crate) fn set_init(&self, request: &[u8]) {
        let length = request.len().min(INIT_MAX);
        self.write(INIT_AT, &request[..length]);
        self.word(INIT_LENGTH_AT).store(length as u32, Ordering::Release);
    }

    /// The INIT request of the connection.
    pub(crate) fn init(&self) -> Vec<u8> {
        let length = self.word(INIT_LENGTH_AT).load(Ordering::Acquire) as usize;
        self.read(INIT_AT, length.min(INIT_MAX))
    }

    /// Whether the kernel knows which operations the connection does not have.
    pub(crate) fn is_primed(&self) -> bool {
        self.word(PRIMED_AT).load(Ordering::Relaxed) != 0
    }

    pub(crate) fn set_primed(&self) {
        self.word(PRIMED_AT).store(1, Ordering::Relaxed);
    }

    /// The slot of the layer with this name: the one that it has, or the next.
    pub(crate) fn claim(&self, name: &[u8]) -> Result<Slot, JournalError> {
        if name.is_empty() || name.len() > NAME_MAX || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
            return Err(JournalError::Name(name.len()));
        }
        let mut table = self.table.lock();
        if let Some((slot, _)) = table.live.iter().find(|(_, (_, live))| live == name) {
            return Ok(*slot);
        }
        let next = self.word(NEXT_SLOT_AT);
        let number = next.load(Ordering::Relaxed);
        let after = number.checked_add(1).ok_or(JournalError::Exhausted)?;
        let index = table.free.pop().ok_or(JournalError::Full)?;
        next.store(after, Ordering::Release);
        let at = record_at(index);
        self.word(at + 4).store(number, Ordering::Relaxed);
        self.word(at + 8).store(name.len() as u32, Ordering::Relaxed);
        self.write(at + RECORD_HEAD, name);
        self.word(at).store(LIVE, Ordering::Release);
        table.live.insert(Slot::new(number), (index, name.to_vec()));
        Ok(Slot::new(number))
    }

    /// Ends a slot. Its number is not used again.
    pub(crate) fn release(&self, slot: Slot) {
        let mut table = self.table.lock();
        if let Some((index, _)) = table.live.remove(&slot) {
            self.word(record_at(index)).store(FREE, Ordering::Release);
            table.free.push(index);
        }
    }

    /// The live slots and the names of their layers.
    pub(crate) fn slots(&self) -> Vec<(Slot, Vec<u8>)> {
        self.table.lock().live.iter().map(|(slot, (_, name))| (*slot, name.clone())).collect()
    }

    /// Makes the cells ready. Gives those that hold a request which an earlier process has not answered.
    pub(crate) fn open_cells(self: &Arc<Self>) -> Vec<Cell> {
        // Resident for good: a page fault on a cell, in a process that is being killed, would end the request with an error.
        if let Err(error) = self.map.lock() {
            tracing::warn!(%error, "the journal of the connection may be swapped out");
        }
        let cells = (0..CELLS).map(|index| Cell { journal: Arc::clone(self), index });
        // Dropping a cell puts it into the list of free ones.
        cells.filter(|cell| cell.length().load(Ordering::Acquire) != 0).collect::<Vec<_>>()
    }

    /// A cell that holds no request. Waits while there is none; the kernel then waits, too.
    pub(crate) fn cell(self: &Arc<Self>) -> Cell {
        let mut free = self.free.lock();
        loop {
            if let Some(index) = free.pop() {
                return Cell { journal: Arc::clone(self), index };
            }
            self.freed.wait(&mut free);
        }
    }

    fn word(&self, at: usize) -> &AtomicU32 {
        assert!(at + 4 <= SIZE && at.is_multiple_of(4));
        // SAFETY: the place is inside the mapping and aligned (the assertion; the mapping begins at a page). The mapping lives
        // as long as `self`. Whoever touches a word does it by this function, so all accesses of this process are atomic.
        unsafe { AtomicU32::from_ptr(self.map.as_mut_ptr().add(at).cast()) }
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= SIZE);
        // SAFETY: the range is inside the mapping (the assertion), and `bytes` is not. No reference into the mapping exists but
        // to words and to cells that are read into, which are at other places.
        unsafe { self.map.as_mut_ptr().add(at).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) }
    }

    fn read(&self, at: usize, length: usize) -> Vec<u8> {
        assert!(at + length <= SIZE);
        let mut bytes = vec![0u8; length];
        // SAFETY: as in `write`, with the directions exchanged.
        unsafe { self.map.as_ptr().add(at).copy_to_nonoverlapping(bytes.as_mut_ptr(), length) };
        bytes
    }
}

const fn record_at(index: usize) -> usize {
    PAGE + index * RECORD
}

/// Room for one request, held by whoever has to answer it. Dropping empties it.
#[derive(Debug)]
pub(crate) struct Cell {
    journal: Arc<Journal>,
    index: usize,
}

impl Cell {
    /// Reads one request. What the cell has no room for goes into `rest`: the kernel wants a large buffer, but a request that
    /// does not fit is a BATCH_FORGET, which has no answer, or has a name that is too long.
    pub(crate) fn receive(&mut self, fuse: BorrowedFd<'_>, rest: &mut [u8]) -> rustix::io::Result<usize> {
        self.length().store(0, Ordering::Release);
        let start = self.start();
        // SAFETY: the range is inside the mapping, which `self.journal` keeps. The cell is this object's alone: `free` gives each
        // index out once, and nobody else has a reference into the cell while `self` is borrowed.
        let cell = unsafe { std::slice::from_raw_parts_mut(self.journal.map.as_mut_ptr().add(start), CELL) };
        rustix::io::readv(fuse, &mut [IoSliceMut::new(cell), IoSliceMut::new(rest)])
    }

    /// The request, up to the room of the cell.
    pub(crate) fn request(&self) -> Vec<u8> {
        let length = self.length().load(Ordering::Acquire) as usize;
        self.journal.read(self.start(), length.min(CELL))
    }

    /// Leaves the request in the cell for a successor.
    pub(crate) fn leave(self) {
        std::mem::forget(self);
    }

    /// A request begins with its length.
    fn length(&self) -> &AtomicU32 {
        self.journal.word(self.start())
    }

    const fn start(&self) -> usize {
        CELLS_AT + self.index * CELL
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        self.length().store(0, Ordering::Release);
        self.journal.free.lock().push(self.index);
        self.journal.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn successor(journal: &Journal) -> Journal {
        Journal::open(journal.file.try_clone().unwrap()).unwrap()
    }

    #[test]
    fn a_successor_finds_what_was_written() {
        let journal = Journal::create().unwrap();
        journal.set_init(b"INIT");
        let a = journal.claim(b"a").unwrap();
        let b = journal.claim(b"b").unwrap();
        let next = successor(&journal);
        assert_eq!(next.init(), b"INIT");
        assert_eq!(next.slots(), [(a, b"a".to_vec()), (b, b"b".to_vec())]);
        assert_eq!(next.claim(b"b").unwrap(), b);
    }

    #[test]
    fn a_slot_is_never_used_twice() {
        let journal = Journal::create().unwrap();
        let first = journal.claim(b"layer").unwrap();
        journal.release(first);
        let next = successor(&journal);
        let second = next.claim(b"layer").unwrap();
        assert_ne!(first, second);
        assert_eq!(next.slots(), [(second, b"layer".to_vec())]);
        // Records are used again, numbers are not.
        assert!((0..3 * RECORDS).all(|_| {
            let slot = next.claim(b"more").unwrap();
            next.release(slot);
            slot > second
        }));
    }

    #[test]
    fn a_full_table_and_bad_names_are_errors() {
        let journal = Journal::create().unwrap();
        for name in [&b""[..], b"a/b", b"a\0", &[b'a'; NAME_MAX + 1]] {
            assert!(matches!(journal.claim(name), Err(JournalError::Name(_))));
        }
        journal.table.lock().free.truncate(1);
        journal.claim(b"last").unwrap();
        assert!(matches!(journal.claim(b"a"), Err(JournalError::Full)));
    }

    #[test]
    fn memory_of_another_kind_is_refused() {
        let journal = Journal::create().unwrap();
        journal.word(VERSION_AT).store(VERSION + 1, Ordering::Release);
        assert!(matches!(Journal::open(journal.file.try_clone().unwrap()), Err(JournalError::Version)));
        let short = memfd_create("short", MemfdFlags::CLOEXEC).unwrap();
        assert!(matches!(Journal::open(short), Err(JournalError::Version)));
    }

    #[test]
    fn a_cell_keeps_its_request_until_it_is_dropped() {
        let journal = Arc::new(Journal::create().unwrap());
        assert!(journal.open_cells().is_empty());
        let (reader, writer) = std::io::pipe().unwrap();
        let request = [&20u32.to_ne_bytes()[..], b"sixteen bytes 16"].concat();
        rustix::io::write(&writer, &request).unwrap();
        let mut cell = journal.cell();
        cell.receive(reader.as_fd(), &mut [0; 64]).unwrap();
        assert_eq!(cell.request(), request);
        // The process dies; its cells are not dropped.
        cell.leave();
        let next = Arc::new(successor(&journal));
        let pending = next.open_cells();
        assert_eq!(pending.iter().map(Cell::request).collect::<Vec<_>>(), [request]);
        drop(pending);
        assert!(Arc::new(successor(&journal)).open_cells().is_empty());
        assert_eq!(next.free.lock().len(), CELLS);
    }
}
