//! The contract between the kernel side of the recorder and the process that reads its ring buffer.
//!
//! Nobody owns state here: these are the layouts and names that both sides compile against, so that neither can drift.
//! Sizes are fixed by assertions; every field is in the machine's own byte order, because both sides run on one
//! machine. The programs themselves are in `programs/`, a crate outside the workspace, built by `cargo xtask ebpf`.

#![no_std]

mod field;
mod program;

pub use field::{FIELDS, Field, NO_MEMBER, Need, needed};
pub use program::{CALLS, FUNCTIONS, Hook, MAPPED, PAGES, Program, TREE, Way};

/// Name of the ring buffer map.
pub const EVENTS: &str = "EVENTS";
/// Name of the per-CPU counters, indexed by [`Counter`].
pub const COUNTERS: &str = "COUNTERS";
/// Name of the global with the member offsets of the running kernel, indexed by [`Field`].
pub const OFFSETS: &str = "OFFSETS";
/// Name of the global with the id of the cgroup that is recorded, its descendants included.
pub const CGROUP: &str = "CGROUP";
/// Name of the global with that cgroup's depth; the root's is 0.
pub const CGROUP_LEVEL: &str = "CGROUP_LEVEL";
/// Name of the global with the [`ScopeKind`], as a number.
pub const SCOPE: &str = "SCOPE";
/// Name of the global with the thread name of processes that start others: see [`ScopeKind::Tree`]. Zeros: none.
pub const SEED_COMM: &str = "SEED_COMM";
/// Name of the map from thread group id to [`Tracked`].
pub const TRACKED: &str = "TRACKED";
/// Name of the array with the [`Tracked`] that alone is recorded, once it is known; 0 until then: all are.
pub const CHOSEN: &str = "CHOSEN";
/// Name of the map from [`Tracked`] to what was lost of it.
pub const LOST: &str = "LOST";
/// Name of the global with the binary logarithm of the page size.
pub const PAGE_SHIFT: &str = "PAGE_SHIFT";

/// Size of the ring buffer in the object; the loader may choose another one. A power of two.
pub const RING_BYTES: u32 = 8 << 20;

/// Thread groups that can be tracked at the same time, when nobody says otherwise.
pub const TRACKED_MAX: u32 = 65_536;

/// Who is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ScopeKind {
    /// The tasks of one cgroup of the unified hierarchy, its descendants included.
    Cgroup = 0,
    /// The thread groups of the map [`TRACKED`]. Children enter it with their parent's group. A process that executes a
    /// program and gets the name [`SEED_COMM`] enters it as one that starts others: it is not recorded itself, and each
    /// of its children begins a group.
    Tree = 1,
}

/// What is known of a tracked thread group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracked {
    /// The first of its ancestors that was tracked or begun by one that starts others; 0 for one that starts others.
    pub group: u32,
    /// Its mount namespace at the last program it or its ancestors executed; 0 when none was since the group began.
    pub namespace: u32,
}

impl Tracked {
    /// One that starts others.
    pub const SEED: Self = Self { group: 0, namespace: 0 };

    /// Is somebody with this group or in this namespace one of these?
    pub const fn has(self, who: Self) -> bool {
        (self.group != 0 && who.group == self.group)
            || (self.namespace != 0 && who.namespace == self.namespace)
    }

    /// As a value of the map.
    pub const fn to_bits(self) -> u64 {
        self.group as u64 | (self.namespace as u64) << 32
    }

    /// From a value of the map.
    pub const fn from_bits(bits: u64) -> Self {
        Self { group: bits as u32, namespace: (bits >> 32) as u32 }
    }
}

/// What kind of event the kernel saw.
///
/// The numbers are part of the ABI: append, never renumber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum EventKind {
    /// A call of the read family, or the page cache, has given so many bytes; by [`Way::Pages`], a buffered read asked
    /// for these pages.
    Read = 1,
    /// A page fault brought in one page (`mm_filemap_fault`).
    Fault = 2,
    /// Pages that were already cached and are mapped beside a fault: those of the window around it
    /// (`mm_filemap_map_pages`), or of its large folio.
    Map = 3,
    /// A process replaced its program (`sched_process_exec`).
    Exec = 4,
    /// A call has opened the file; no bytes. Only when calls are watched.
    Open = 5,
    /// A large folio has come into the page cache (`mm_filemap_add_to_page_cache`): a fault of one of its pages maps
    /// all of them. No use of its own.
    Folio = 6,
}

impl EventKind {
    /// The kind with this number.
    pub const fn new(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::Read),
            2 => Some(Self::Fault),
            3 => Some(Self::Map),
            4 => Some(Self::Exec),
            5 => Some(Self::Open),
            6 => Some(Self::Folio),
            _ => None,
        }
    }
}

/// Flag of an event: the file has no name any more.
pub const UNLINKED: u16 = 1;
/// Flag of an event: the inode is an overlay's own, because this kernel does not say which one is below it.
pub const OVERLAY: u16 = 2;

/// One record of the ring buffer: 72 bytes, no padding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// Time of the event in nanoseconds of `CLOCK_MONOTONIC`.
    pub t_ns: u64,
    /// Inode number of the file that owns the page cache.
    pub ino: u64,
    /// First byte; a multiple of the page size unless a read was watched to its end.
    pub offset: u64,
    /// Number of bytes, clipped to the file's size; 0 for an opening only.
    pub length: u64,
    /// Kernel device number (major << 20 | minor).
    pub dev: u32,
    /// Generation of the inode: another one is another file, which has got the number of one that was removed.
    pub generation: u32,
    /// Thread group id in the initial pid namespace.
    pub tgid: u32,
    /// One of [`EventKind`].
    pub kind: u16,
    /// [`UNLINKED`], [`OVERLAY`].
    pub flags: u16,
    /// The thread's name, padded with zeros.
    pub comm: [u8; 16],
    /// [`Tracked::group`] of the thread group; 0 when a cgroup is recorded.
    pub group: u32,
    /// [`Tracked::namespace`] of the thread group; 0 when a cgroup is recorded.
    pub namespace: u32,
}

const _: () = assert!(size_of::<Event>() == 72, "the event is part of the ABI");
const _: () = assert!(align_of::<Event>() == 8, "ring buffer records are 8-byte aligned");

impl Event {
    /// Reads a record of the ring buffer; `None` when it has another size.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        fn take<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
            let mut part = [0; N];
            part.copy_from_slice(&bytes[at..at + N]);
            part
        }
        if bytes.len() != size_of::<Self>() {
            return None;
        }
        Some(Self {
            t_ns: u64::from_ne_bytes(take(bytes, 0)),
            ino: u64::from_ne_bytes(take(bytes, 8)),
            offset: u64::from_ne_bytes(take(bytes, 16)),
            length: u64::from_ne_bytes(take(bytes, 24)),
            dev: u32::from_ne_bytes(take(bytes, 32)),
            generation: u32::from_ne_bytes(take(bytes, 36)),
            tgid: u32::from_ne_bytes(take(bytes, 40)),
            kind: u16::from_ne_bytes(take(bytes, 44)),
            flags: u16::from_ne_bytes(take(bytes, 46)),
            comm: take(bytes, 48),
            group: u32::from_ne_bytes(take(bytes, 64)),
            namespace: u32::from_ne_bytes(take(bytes, 68)),
        })
    }

    /// What is tracked of the process.
    pub const fn tracked(&self) -> Tracked {
        Tracked { group: self.group, namespace: self.namespace }
    }
}

/// What the kernel side counts, on each CPU. `Emitted` is what was received and `Dropped` together, exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Counter {
    /// Events of the recorded tasks.
    Emitted = 0,
    /// Those for which the ring buffer had no room.
    Dropped = 1,
    /// Requests that lay wholly behind the end of their file: no bytes, no event.
    Empty = 2,
    /// Children of tracked processes for which [`TRACKED`] had no room: what they do is not seen.
    Untracked = 3,
}

/// Number of [`Counter`]s.
pub const COUNTER_COUNT: u32 = 4;
