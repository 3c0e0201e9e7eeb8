//! The contract between the kernel side of the recorder and the process that reads its ring buffer.
//!
//! Nobody owns state here: these are the layouts that both sides compile against, so that neither can drift. Sizes are fixed by
//! assertions; every field is in the machine's own byte order, because both sides run on one machine.

#![no_std]

/// What kind of page-cache event the kernel saw.
///
/// The numbers are part of the ABI: append, never renumber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum EventKind {
    /// A buffered read asked for pages (`mm_filemap_get_pages`).
    Read = 1,
    /// A page fault brought in one page (`mm_filemap_fault`).
    Fault = 2,
    /// Fault-around mapped pages that were already cached (`mm_filemap_map_pages`).
    Map = 3,
    /// A process replaced its program (`sched_process_exec`).
    Exec = 4,
}

/// One record of the ring buffer: 56 bytes, no padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// Time of the event in nanoseconds of `CLOCK_MONOTONIC`.
    pub t_ns: u64,
    /// Inode number of the file that owns the page cache.
    pub ino: u64,
    /// First byte, a multiple of the page size.
    pub offset: u64,
    /// Number of bytes, clipped to the file's size.
    pub length: u64,
    /// Kernel device number (major << 20 | minor).
    pub dev: u32,
    /// One of [`EventKind`].
    pub kind: u32,
    /// Thread group id in the initial pid namespace.
    pub tgid: u32,
    /// Inode generation, told apart from a reused inode number.
    pub generation: u32,
    /// The first bytes of the thread's name, padded with zeros.
    pub comm: [u8; 8],
}

const _: () = assert!(size_of::<Event>() == 56, "the event is part of the ABI");
const _: () = assert!(align_of::<Event>() == 8, "ring buffer records are 8-byte aligned");
