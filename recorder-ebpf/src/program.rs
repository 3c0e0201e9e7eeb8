//! The programs of the object, and which of them see reads in which way.

/// What a program is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// A tracepoint.
    Tracepoint(&'static str),
    /// The entry of a function of the kernel.
    Entry(&'static str),
    /// The exit of one that takes so many arguments.
    Exit(&'static str, usize),
}

/// A program: its name in the object, and what it is attached to.
pub type Program = (&'static str, Hook);

/// How reads are seen. The best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By the ends of the functions that copy out of the page cache, whoever has called them; and by the ends of calls
    /// that go around it.
    Functions,
    /// By the ends of system calls. What is read by none (io_uring) is seen by pages.
    Calls,
    /// By the pages that are asked for. Those that are given while a page behind them is still being fetched are missing.
    Pages,
}

impl Way {
    /// All of them, the best first.
    pub const ALL: [Self; 3] = [Self::Functions, Self::Calls, Self::Pages];

    /// The programs that see reads in this way.
    pub const fn programs(self) -> &'static [Program] {
        match self {
            Self::Functions => &FUNCTIONS,
            Self::Calls => &CALLS,
            Self::Pages => &PAGES,
        }
    }
}

/// The programs of [`Way::Functions`].
pub const FUNCTIONS: [Program; 5] = [
    ("read_end", Hook::Exit("filemap_read", 3)),
    ("splice_end", Hook::Exit("filemap_splice_read", 5)),
    ("clone_end", Hook::Exit("vfs_clone_file_range", 6)),
    ("huge_map", Hook::Entry("do_set_pmd")),
    ("sys_exit_around", Hook::Tracepoint("sys_exit")),
];

/// The programs of [`Way::Calls`].
pub const CALLS: [Program; 2] = [
    ("sys_exit", Hook::Tracepoint("sys_exit")),
    ("get_pages_exact", Hook::Tracepoint("mm_filemap_get_pages")),
];

/// The programs of [`Way::Pages`].
pub const PAGES: [Program; 1] = [("get_pages", Hook::Tracepoint("mm_filemap_get_pages"))];

/// The programs that see mapped files and executions, in every way.
pub const MAPPED: [Program; 4] = [
    ("fault", Hook::Tracepoint("mm_filemap_fault")),
    ("map_pages", Hook::Tracepoint("mm_filemap_map_pages")),
    ("new_folio", Hook::Tracepoint("mm_filemap_add_to_page_cache")),
    ("exec", Hook::Tracepoint("sched_process_exec")),
];

/// The programs that keep [`crate::TRACKED`], attached for [`crate::ScopeKind::Tree`] only.
pub const TREE: [Program; 2] =
    [("fork", Hook::Tracepoint("sched_process_fork")), ("exit", Hook::Tracepoint("sched_process_exit"))];
