//! What the connection asks of a layer: the trait [`Tree`], and the values of its answers.
//!
//! A layer is either a directory tree, or one regular file that is its EROFS image. Both are a [`Tree`]: the object with
//! index [`NodeId::TOP`](super::ids::NodeId::TOP) is the directory or the file. No state lives here.
//!
//! What must always hold: a tree that is attached again under the same name, by this process or its successor, gives the
//! same objects, indexes and places in listings. The kernel keeps them, and it is told nothing of a change of server.

use std::borrow::Cow;

use rustix::io::Errno;

use super::reply::Reply;

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

/// A layer's answers. All but [`Tree::read`] come from memory and never block.
///
/// An error is the number that the reader sees. ENOSYS is never passed on for attributes: the kernel would stop asking for
/// those of all layers.
pub trait Tree: Send + Sync + 'static {
    /// Attributes of an object.
    fn attr(&self, index: u32) -> Result<Attr, Errno>;

    /// What a directory has under a name.
    fn lookup(&self, directory: u32, name: &[u8]) -> Result<Attr, Errno>;

    /// Target of a symbolic link.
    fn readlink(&self, index: u32) -> Result<Cow<'_, [u8]>, Errno>;

    /// Gives the names of a directory from place `from` on (0 for the start) to `add`, until it says `false`: there is no
    /// room for that name. `.` and `..` are among the names.
    fn list(&self, directory: u32, from: u64, add: &mut dyn FnMut(Name<'_>) -> bool) -> Result<(), Errno>;

    /// Value of an extended attribute.
    fn xattr(&self, index: u32, name: &[u8]) -> Result<Cow<'_, [u8]>, Errno>;

    /// Names of the extended attributes, each with a NUL behind it.
    fn xattr_names(&self, index: u32) -> Result<Cow<'_, [u8]>, Errno>;

    /// For `statfs`.
    fn totals(&self) -> Totals;

    /// Answers `reply` with up to `size` bytes of a file, fewer only at its end: now, or later from any thread. It is called
    /// on the thread that reads the kernel's requests and must not wait there.
    fn read(&self, index: u32, offset: u64, size: u32, reply: Reply);
}
