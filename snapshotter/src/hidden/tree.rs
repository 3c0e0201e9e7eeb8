//! What the connection asks of a layer: the trait [`Tree`].
//!
//! A layer is either a directory tree, or one regular file that is its EROFS image. Both are a [`Tree`]: the object with
//! index [`NodeId::TOP`](super::ids::NodeId::TOP) is the directory or the file. No state lives here.
//!
//! What must always hold: a tree that is attached again under the same name, by this process or its successor, gives the
//! same objects, indexes and places in listings. The kernel keeps them, and it is told nothing of a change of server.

use std::borrow::Cow;

use rustix::io::Errno;

use super::reply::Reply;
use super::values::{Attr, Name, Totals};

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
