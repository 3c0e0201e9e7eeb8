//! What a layer, and a stack of layers, looks like: the one place that knows.
//!
//! [`Growing`] takes a layer's entries in the order of the archive and says of each what it does ([`Step`]). Grown up it is a
//! [`LayerTree`]. The unpacker carries the steps out on a disk, the snapshotter mounts the tree, and [`crate::prefetch`]
//! puts trees on top of each other. So all of them agree, also where archives are odd.
//!
//! What must always hold: nothing here touches a file; time and memory are linear in the entries, whatever their names are.
//! The rules are containerd's unpack on overlayfs; docs/design/0007-one-merge.md lists them, with what differs and why.

mod acl;
mod attributes;
mod build;
mod grow;
mod layer;
mod limits;
mod marker;
mod path;
mod refusal;
mod resolve;
#[cfg(test)]
mod tests;

use crate::tar::{EntryKind, XATTR_PREFIX};

pub use acl::{ACCESS_ACL, after_chmod};
pub use attributes::{ROOT_MODE, check_xattr, keeps_xattr, mtime, owner, permissions, xattr_stays};
pub use grow::{Growing, Step};
pub use layer::{Inode, LayerTree, Origin};
pub use marker::Marker;
pub use path::{clean, split};
pub use refusal::{Reason, Refusal};

/// Number of the root directory in a tree.
pub const ROOT: u32 = 0;

/// The entries of a layer, in the order of the archive, as far as the shape of its tree depends on them.
pub trait Entries {
    /// Name as recorded.
    fn name(&self, entry: u32) -> &[u8];
    /// Kind.
    fn kind(&self, entry: u32) -> EntryKind;
    /// Target of a link, as recorded.
    fn link(&self, entry: u32) -> &[u8];
    /// Major and minor number of a device.
    fn device(&self, entry: u32) -> (u32, u32);
    /// Names and values of the extended attributes.
    fn xattrs(&self, entry: u32) -> impl Iterator<Item = (&[u8], &[u8])>;
}

impl Entries for [crate::ztoc::FileEntry] {
    fn name(&self, entry: u32) -> &[u8] {
        &self[entry as usize].name
    }

    fn kind(&self, entry: u32) -> EntryKind {
        self[entry as usize].kind
    }

    fn link(&self, entry: u32) -> &[u8] {
        &self[entry as usize].link_name
    }

    fn device(&self, entry: u32) -> (u32, u32) {
        (self[entry as usize].dev_major, self[entry as usize].dev_minor)
    }

    fn xattrs(&self, entry: u32) -> impl Iterator<Item = (&[u8], &[u8])> {
        self[entry as usize].xattrs_schily()
    }
}

impl Entries for [crate::tar::Entry] {
    fn name(&self, entry: u32) -> &[u8] {
        &self[entry as usize].name
    }

    fn kind(&self, entry: u32) -> EntryKind {
        self[entry as usize].kind
    }

    fn link(&self, entry: u32) -> &[u8] {
        &self[entry as usize].link_name
    }

    fn device(&self, entry: u32) -> (u32, u32) {
        // As the kernel takes them, and as a zTOC has them.
        (self[entry as usize].dev_major as u32, self[entry as usize].dev_minor as u32)
    }

    fn xattrs(&self, entry: u32) -> impl Iterator<Item = (&[u8], &[u8])> {
        let records = self[entry as usize].pax.iter();
        records.filter_map(|(key, value)| Some((key.strip_prefix(XATTR_PREFIX)?, value.as_slice())))
    }
}
