//! The contract between the kernel side of the recorder and the process that reads its ring buffer.
//!
//! Nobody owns state here: these are the layouts and names that both sides compile against, so that neither can drift.
//! Sizes are fixed by assertions; every field is in the machine's own byte order, because both sides run on one
//! machine. The programs themselves are in `programs/`, a crate outside the workspace, built by `cargo xtask ebpf`.

#![no_std]

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
    /// A buffered read asked for pages (`mm_filemap_get_pages`), or, when calls are watched, a call of the read family
    /// has given so many bytes.
    Read = 1,
    /// A page fault brought in one page (`mm_filemap_fault`).
    Fault = 2,
    /// Fault-around mapped pages that were already cached (`mm_filemap_map_pages`).
    Map = 3,
    /// A process replaced its program (`sched_process_exec`).
    Exec = 4,
    /// A call has opened the file; no bytes. Only when calls are watched.
    Open = 5,
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
            _ => None,
        }
    }
}

/// Flag of an event: the file has no name any more.
pub const UNLINKED: u16 = 1;
/// Flag of an event: the inode is an overlay's own, because this kernel does not say which one is below it.
pub const OVERLAY: u16 = 2;

/// One record of the ring buffer: 64 bytes, no padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// Time of the event in nanoseconds of `CLOCK_MONOTONIC`.
    pub t_ns: u64,
    /// Inode number of the file that owns the page cache.
    pub ino: u64,
    /// First byte; a multiple of the page size unless a call was watched.
    pub offset: u64,
    /// Number of bytes, clipped to the file's size; 0 for an opening only.
    pub length: u32,
    /// Kernel device number (major << 20 | minor).
    pub dev: u32,
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

const _: () = assert!(size_of::<Event>() == 64, "the event is part of the ABI");
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
            length: u32::from_ne_bytes(take(bytes, 24)),
            dev: u32::from_ne_bytes(take(bytes, 28)),
            tgid: u32::from_ne_bytes(take(bytes, 32)),
            kind: u16::from_ne_bytes(take(bytes, 36)),
            flags: u16::from_ne_bytes(take(bytes, 38)),
            comm: take(bytes, 40),
            group: u32::from_ne_bytes(take(bytes, 56)),
            namespace: u32::from_ne_bytes(take(bytes, 60)),
        })
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

/// A member of a kernel structure that the programs read. The number is the index in [`OFFSETS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Field {
    /// The inode that owns a page cache.
    MappingHost,
    /// Its number.
    InodeIno,
    /// Its size in bytes.
    InodeSize,
    /// The number of its names.
    InodeLinks,
    /// Its file system.
    InodeSb,
    /// The device number of a file system.
    SuperDev,
    /// The kind of a file system.
    SuperMagic,
    /// The program file of an exec.
    BinprmFile,
    /// The inode of an open file.
    FileInode,
    /// The thread group of a task.
    TaskTgid,
    /// What the threads of a group share.
    TaskSignal,
    /// The number of its threads that have not ended.
    SignalLive,
    /// The namespaces of a task.
    TaskNsproxy,
    /// The mount namespace among them.
    NsproxyMount,
    /// What all kinds of namespaces have.
    MountNsCommon,
    /// The number of a namespace.
    NsInum,
    /// Where the inode of an overlay's file begins in what the overlay keeps of it.
    OverlayInode,
    /// Its file in the writable layer, if there is one.
    OverlayUpper,
    /// Its files in the layers below.
    OverlayEntry,
    /// The list of those, the topmost first.
    OverlayStack,
    /// The file of an element of that list.
    OverlayDentry,
    /// The inode of a name.
    DentryInode,
    /// Kind and permissions of a file.
    InodeMode,
    /// The position of an open file.
    FilePosition,
    /// The open files of a task.
    TaskFiles,
    /// Their table.
    FilesTable,
    /// The number of its entries.
    TableSize,
    /// Its entries.
    TableEntries,
    /// A task's flags for the way into and out of the kernel.
    TaskThreadInfo,
    /// Those of this architecture.
    ThreadInfoStatus,
    /// The number of a system call.
    RegsCall,
    /// What it has returned.
    RegsReturn,
    /// Its first argument.
    RegsFirst,
    /// Its second argument.
    RegsSecond,
    /// Its third argument.
    RegsThird,
    /// Its fourth argument.
    RegsFourth,
}

/// Structure and member of each [`Field`], in the order of their numbers.
pub const FIELDS: [(&str, &str); 36] = [
    ("address_space", "host"),
    ("inode", "i_ino"),
    ("inode", "i_size"),
    ("inode", "i_nlink"),
    ("inode", "i_sb"),
    ("super_block", "s_dev"),
    ("super_block", "s_magic"),
    ("linux_binprm", "file"),
    ("file", "f_inode"),
    ("task_struct", "tgid"),
    ("task_struct", "signal"),
    ("signal_struct", "live"),
    ("task_struct", "nsproxy"),
    ("nsproxy", "mnt_ns"),
    ("mnt_namespace", "ns"),
    ("ns_common", "inum"),
    ("ovl_inode", "vfs_inode"),
    ("ovl_inode", "__upperdentry"),
    ("ovl_inode", "oe"),
    ("ovl_entry", "__lowerstack"),
    ("ovl_path", "dentry"),
    ("dentry", "d_inode"),
    ("inode", "i_mode"),
    ("file", "f_pos"),
    ("task_struct", "files"),
    ("files_struct", "fdt"),
    ("fdtable", "max_fds"),
    ("fdtable", "fd"),
    ("task_struct", "thread_info"),
    ("thread_info", "status"),
    ("pt_regs", "orig_ax"),
    ("pt_regs", "ax"),
    ("pt_regs", "di"),
    ("pt_regs", "si"),
    ("pt_regs", "dx"),
    ("pt_regs", "r10"),
];

/// So many members at the front are needed in any case; the others only where calls are watched.
pub const NEEDED_FIELDS: usize = Field::OverlayInode as usize;

/// The offset of a member that this kernel does not have.
pub const NO_MEMBER: u32 = u32::MAX;

/// A program: its name in the object, and the tracepoint that it is attached to.
pub type Program = (&'static str, &'static str);

/// The programs that see pages.
pub const PROGRAMS: [Program; 4] = [
    ("get_pages", "mm_filemap_get_pages"),
    ("fault", "mm_filemap_fault"),
    ("map_pages", "mm_filemap_map_pages"),
    ("exec", "sched_process_exec"),
];

/// The programs that see calls of the read family, and the other pages.
pub const EXACT_PROGRAMS: [Program; 5] = [
    ("sys_exit", "sys_exit"),
    ("get_pages_exact", "mm_filemap_get_pages"),
    ("fault", "mm_filemap_fault"),
    ("map_pages", "mm_filemap_map_pages"),
    ("exec", "sched_process_exec"),
];

/// The programs that keep [`TRACKED`], attached for [`ScopeKind::Tree`] only.
pub const TREE_PROGRAMS: [(&str, &str); 2] = [("fork", "sched_process_fork"), ("exit", "sched_process_exit")];
