//! The values that a layer answers with: attributes, names, totals. No state lives here.

/// Attributes of an object, as numbers of Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Index of the object in its layer.
    pub index: u32,
    /// File type and permission bits.
    pub mode: u32,
    /// Names that the object has.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number, in the kernel's 32-bit form.
    pub rdev: u32,
    /// Size in bytes.
    pub size: u64,
    /// Time of last modification: seconds and nanoseconds.
    pub mtime: (i64, u32),
}

impl Attr {
    /// A directory that nothing describes: 0755, root's, without a time.
    pub const fn directory(index: u32) -> Self {
        Self { index, mode: 0o040_755, nlink: 2, uid: 0, gid: 0, rdev: 0, size: 0, mtime: (0, 0) }
    }

    /// A regular file that only root reads.
    pub const fn file(index: u32, size: u64) -> Self {
        Self { mode: 0o100_400, nlink: 1, size, ..Self::directory(index) }
    }
}

/// One name of a directory.
#[derive(Clone, Copy, Debug)]
pub struct Name<'a> {
    /// The name.
    pub name: &'a [u8],
    /// What it names.
    pub attr: Attr,
    /// Where a listing goes on after it. The place must mean the same to a successor.
    pub next: u64,
}

/// What `statfs` says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Bytes in use.
    pub used: u64,
    /// Bytes that may still be used.
    pub free: u64,
    /// Objects.
    pub inodes: u64,
}
