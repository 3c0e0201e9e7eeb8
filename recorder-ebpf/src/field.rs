//! The members of kernel structures that the programs read, and what each is needed for.
//!
//! One row for each: its name on this side, its structure and member as the kernel's type information names them. An
//! enumerator is found like a member: its place is its value.

/// What a member is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Every recording.
    Always,
    /// What a fault maps beside its page: large folios, and which pages of a window are there.
    Folios,
    /// The files below an overlay's own, where the kernel has overlays.
    Overlay,
    /// The ends of calls.
    Calls,
    /// The ends of the kernel's functions.
    Functions,
}

macro_rules! fields {
    ($($need:ident { $($(#[$doc:meta])* $name:ident = $structure:literal . $member:literal,)* })*) => {
        /// A member of a kernel structure that the programs read. The number is the index in [`crate::OFFSETS`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Field {
            $($($(#[$doc])* $name,)*)*
        }

        /// Structure and member of each [`Field`], in the order of their numbers.
        pub const FIELDS: [(&str, &str); [$($(Field::$name),*),*].len()] = [$($(($structure, $member)),*),*];

        const NEEDS: [Need; FIELDS.len()] = [$($({ let _ = Field::$name; Need::$need }),*),*];
    };
}

fields! {
    Always {
        /// The inode that owns a page cache.
        MappingHost = "address_space"."host",
        /// Its number.
        InodeIno = "inode"."i_ino",
        /// Its generation, which tells it from an earlier file of the same number.
        InodeGeneration = "inode"."i_generation",
        /// Its size in bytes.
        InodeSize = "inode"."i_size",
        /// The number of its names.
        InodeLinks = "inode"."i_nlink",
        /// Its file system.
        InodeSb = "inode"."i_sb",
        /// The device number of a file system.
        SuperDev = "super_block"."s_dev",
        /// The kind of a file system.
        SuperMagic = "super_block"."s_magic",
        /// The program file of an exec.
        BinprmFile = "linux_binprm"."file",
        /// The inode of an open file.
        FileInode = "file"."f_inode",
        /// The thread group of a task.
        TaskTgid = "task_struct"."tgid",
        /// What the threads of a group share.
        TaskSignal = "task_struct"."signal",
        /// The number of its threads that have not ended.
        SignalLive = "signal_struct"."live",
        /// The namespaces of a task.
        TaskNsproxy = "task_struct"."nsproxy",
        /// The mount namespace among them.
        NsproxyMount = "nsproxy"."mnt_ns",
        /// What all kinds of namespaces have.
        MountNsCommon = "mnt_namespace"."ns",
        /// The number of a namespace.
        NsInum = "ns_common"."inum",
    }
    Folios {
        /// The tree of a page cache.
        MappingPages = "address_space"."i_pages",
        /// Its root.
        TreeHead = "xarray"."xa_head",
        /// How many bits of an index are below a node.
        NodeShift = "xa_node"."shift",
        /// A node's entries.
        NodeSlots = "xa_node"."slots",
        /// What follows them: their number is the distance.
        NodeTags = "xa_node"."tags",
        /// A folio's flags.
        FolioFlags = "folio"."flags",
        /// Its file.
        FolioMapping = "folio"."mapping",
        /// Its first page's number in the file.
        FolioIndex = "folio"."index",
        /// The flags of its second page, whose lowest byte is its order.
        FolioOrder = "folio"."_flags_1",
        /// The bit that says that there is a second page.
        FlagHead = "pageflags"."PG_head",
        /// The bit that says that its content is there.
        FlagUptodate = "pageflags"."PG_uptodate",
        /// The bit that says that its first use begins the next readahead: no window maps it.
        FlagReadahead = "pageflags"."PG_readahead",
    }
    Overlay {
        /// Where the inode of an overlay's file begins in what the overlay keeps of it.
        OverlayInode = "ovl_inode"."vfs_inode",
        /// Its file in the writable layer, if there is one.
        OverlayUpper = "ovl_inode"."__upperdentry",
        /// Its files in the layers below.
        OverlayEntry = "ovl_inode"."oe",
        /// The list of those, the topmost first.
        OverlayStack = "ovl_entry"."__lowerstack",
        /// The file of an element of that list.
        OverlayDentry = "ovl_path"."dentry",
        /// The inode of a name.
        DentryInode = "dentry"."d_inode",
    }
    Calls {
        /// Kind and permissions of a file.
        InodeMode = "inode"."i_mode",
        /// The position of an open file.
        FilePosition = "file"."f_pos",
        /// The open files of a task.
        TaskFiles = "task_struct"."files",
        /// Their table.
        FilesTable = "files_struct"."fdt",
        /// The number of its entries.
        TableSize = "fdtable"."max_fds",
        /// Its entries.
        TableEntries = "fdtable"."fd",
        /// A task's flags for the way into and out of the kernel.
        TaskThreadInfo = "task_struct"."thread_info",
        /// Those of this architecture.
        ThreadInfoStatus = "thread_info"."status",
        /// The number of a system call.
        RegsCall = "pt_regs"."orig_ax",
        /// What it has returned.
        RegsReturn = "pt_regs"."ax",
        /// Its first argument.
        RegsFirst = "pt_regs"."di",
        /// Its second argument.
        RegsSecond = "pt_regs"."si",
        /// Its third argument.
        RegsThird = "pt_regs"."dx",
        /// Its fourth argument.
        RegsFourth = "pt_regs"."r10",
    }
    Functions {
        /// The file that an operation reads.
        IocbFile = "kiocb"."ki_filp",
        /// How far it is.
        IocbPosition = "kiocb"."ki_pos",
        /// The page cache of an open file.
        FileMapping = "file"."f_mapping",
        /// The mapping that a fault is in.
        FaultArea = "vm_fault"."vma",
        /// The address of the fault.
        FaultAddress = "vm_fault"."address",
        /// Where a mapping begins.
        AreaStart = "vm_area_struct"."vm_start",
        /// The page of its file that it begins with.
        AreaOffset = "vm_area_struct"."vm_pgoff",
        /// Its file.
        AreaFile = "vm_area_struct"."vm_file",
    }
}

/// What the member with this number is needed for.
pub const fn needed(number: usize) -> Need {
    NEEDS[number]
}

/// The offset of a member that this kernel does not have.
pub const NO_MEMBER: u32 = u32::MAX;
