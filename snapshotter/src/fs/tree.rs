//! The inode table and directories of one layer, made from its zTOC's entries.
//!
//! State: immutable after [`Tree::build`]. Names are slices of the zTOC's own bytes, so an inode costs some 30 bytes and a
//! name 16. Inode numbers follow the entries' order: the same zTOC gives the same numbers after a restart.

mod grow;

use soci_core::ztoc::FileEntry;

use self::grow::Growing;
use super::InodeNo;

pub(super) use self::grow::cleaned;

/// What an inode is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A directory that no entry names.
    Implied,
    /// The entry of this number.
    Entry(u32),
    /// A whiteout, whose marker is the entry of this number.
    Whiteout(u32),
}

/// One inode.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inode {
    pub(super) origin: Origin,
    pub(super) nlink: u32,
    pub(super) opaque: bool,
    parent: u32,
    children: (u32, u32),
}

/// Where a name's bytes are: in the name of entry `entry`.
#[derive(Clone, Copy, Debug)]
struct NameAt {
    entry: u32,
    start: u32,
    length: u16,
}

#[derive(Clone, Copy, Debug)]
struct Child {
    name: NameAt,
    inode: u32,
}

/// The directory tree of one layer.
#[derive(Debug)]
pub struct Tree {
    inodes: Box<[Inode]>,
    children: Box<[Child]>,
    skipped: u32,
}

impl Tree {
    /// Builds the tree of the entries, which are in the order of the tar.
    pub fn build(files: &[FileEntry]) -> Self {
        let mut growing = Growing::new(files);
        for entry in 0..files.len() as u32 {
            growing.add(entry);
        }
        growing.finish()
    }

    /// Entries that were left out, because they cannot be shown (see the rules of this file).
    pub const fn skipped(&self) -> u32 {
        self.skipped
    }

    /// Whether any directory is opaque.
    pub fn has_opaque(&self) -> bool {
        self.inodes.iter().any(|inode| inode.opaque)
    }

    /// Number of inodes.
    pub const fn len(&self) -> usize {
        self.inodes.len()
    }

    /// Always false: there is a root.
    pub const fn is_empty(&self) -> bool {
        self.inodes.is_empty()
    }

    /// The numbers of all inodes.
    pub fn inodes(&self) -> impl Iterator<Item = InodeNo> + use<> {
        (0..self.inodes.len() as u32).map(number)
    }

    /// The root's number.
    pub const ROOT: InodeNo = InodeNo(1);

    pub(super) fn inode(&self, ino: InodeNo) -> Option<&Inode> {
        self.inodes.get(usize::try_from(ino.0.checked_sub(1)?).ok()?)
    }

    pub(super) fn parent(&self, ino: InodeNo) -> InodeNo {
        self.inode(ino).map_or(Self::ROOT, |inode| number(inode.parent))
    }

    /// The inode that `directory` has under `name`.
    pub(super) fn child(&self, files: &[FileEntry], directory: &Inode, name: &[u8]) -> Option<InodeNo> {
        let children = self.children_of(directory);
        let at = children.binary_search_by(|child| bytes(files, child.name).cmp(name)).ok()?;
        Some(number(children[at].inode))
    }

    /// Names and inodes of a directory from the `from`th on, sorted by name.
    pub(super) fn list<'a>(
        &'a self,
        files: &'a [FileEntry],
        directory: &Inode,
        from: usize,
    ) -> impl Iterator<Item = (&'a [u8], InodeNo)> {
        self.children_of(directory)
            .iter()
            .skip(from)
            .map(|child| (bytes(files, child.name), number(child.inode)))
    }

    fn children_of(&self, inode: &Inode) -> &[Child] {
        self.children.get(inode.children.0 as usize..inode.children.1 as usize).unwrap_or_default()
    }
}

const fn number(index: u32) -> InodeNo {
    InodeNo(index as u64 + 1)
}

fn bytes(files: &[FileEntry], name: NameAt) -> &[u8] {
    &files[name.entry as usize].name[name.start as usize..][..usize::from(name.length)]
}
