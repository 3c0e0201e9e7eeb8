//! The tree of one layer: inodes, directories, and which entries describe them.
//!
//! Immutable once it is grown. Names are slices of the entries' own bytes, so an inode costs some 30 bytes and a name 16.
//! Numbers follow the order of the entries: the same layer has the same numbers always.

use std::collections::HashMap;

use super::{Entries, Refusal};

/// What an inode is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A directory that no entry names.
    Implied,
    /// The entry of this number: a directory, or what has the inode's content.
    Entry(u32),
    /// A whiteout, whose marker is the entry of this number.
    Whiteout(u32),
}

/// One inode.
#[derive(Clone, Copy, Debug)]
pub struct Inode {
    /// What it is made from.
    pub origin: Origin,
    /// Names that lead to it from the root; of a directory, 2 and one for each directory in it. None: it was replaced.
    pub nlink: u32,
    /// It is a directory.
    pub is_directory: bool,
    /// It is a directory, and hides all that the layers below have in it.
    pub opaque: bool,
    /// The directory that it is in. Means nothing for what has several names.
    pub(super) parent: u32,
    /// The entry that gave it owner, mode, times and attributes: the last one that names it, hard links included.
    pub(super) described: u32,
    /// Of a directory: where its names are; while it grows, the place of its own name.
    pub(super) children: (u32, u32),
}

/// Where a name's bytes are: in the name of an entry, or in its link, whose target a path led to.
#[derive(Clone, Copy, Debug)]
pub(super) struct NameAt {
    pub(super) entry: u32,
    pub(super) start: u32,
    pub(super) length: u16,
    pub(super) in_link: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Child {
    pub(super) name: NameAt,
    pub(super) inode: u32,
}

/// The directory tree of one layer.
#[derive(Debug)]
pub struct LayerTree {
    pub(super) inodes: Box<[Inode]>,
    pub(super) children: Box<[Child]>,
    /// Directories that no entry names, the root left out.
    pub(super) implied: u32,
    /// Entries that described an inode before another one did, and whose attributes it keeps beside the other's.
    pub(super) before: HashMap<u32, Vec<u32>>,
    pub(super) refused: Vec<Refusal>,
}

impl LayerTree {
    /// Entries that cannot be shown. A layer that has some can neither be unpacked nor mounted.
    pub fn refused(&self) -> &[Refusal] {
        &self.refused
    }

    /// Whether the layer implies directories: what they look like the layers below say. The root is not one of them.
    pub const fn implies_directories(&self) -> bool {
        self.implied > 0
    }

    /// Shows `visit` each implied directory and its path, the higher ones first. When that gives `false`, none below is shown.
    ///
    /// # Errors
    /// That of `visit`, which ends it.
    pub fn each_implied<E: Entries + ?Sized, F>(
        &self,
        entries: &E,
        mut visit: impl FnMut(u32, &[u8]) -> Result<bool, F>,
    ) -> Result<(), F> {
        if self.implied == 0 {
            return Ok(());
        }
        self.each_directory(entries, |number, path| {
            let implied = self.inodes[number as usize].origin == Origin::Implied;
            if implied { visit(number, path) } else { Ok(true) }
        })
    }

    /// Shows `visit` each directory but the root, and its path, the higher ones first. When that gives `false`, none below is shown.
    ///
    /// # Errors
    /// That of `visit`, which ends it.
    pub fn each_directory<E: Entries + ?Sized, F>(
        &self,
        entries: &E,
        mut visit: impl FnMut(u32, &[u8]) -> Result<bool, F>,
    ) -> Result<(), F> {
        let mut path = Vec::new();
        // Places in `children`, each with the length of the path above.
        let places = |inode: &Inode| inode.children.0..inode.children.1;
        let mut open: Vec<(u32, usize)> = places(&self.inodes[0]).rev().map(|at| (at, 0)).collect();
        while let Some((at, above)) = open.pop() {
            let child = &self.children[at as usize];
            let inode = &self.inodes[child.inode as usize];
            if !inode.is_directory {
                continue;
            }
            path.truncate(above);
            if above > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(bytes(entries, child.name));
            if visit(child.inode, &path)? {
                open.extend(places(inode).rev().map(|at| (at, path.len())));
            }
        }
        Ok(())
    }

    /// Whether any directory is opaque.
    pub fn has_opaque(&self) -> bool {
        self.inodes.iter().any(|inode| inode.opaque)
    }

    /// Number of inodes, those that were replaced included. There is always a root.
    #[expect(clippy::len_without_is_empty, reason = "there is always a root")]
    pub const fn len(&self) -> usize {
        self.inodes.len()
    }

    /// An inode.
    pub fn inode(&self, number: u32) -> Option<&Inode> {
        self.inodes.get(number as usize)
    }

    /// The directory that a directory is in; the root is in itself.
    pub fn parent(&self, number: u32) -> u32 {
        self.inode(number).map_or(super::ROOT, |inode| inode.parent)
    }

    /// The entry that describes an inode: owner, permissions, time.
    pub fn described_by(&self, inode: &Inode) -> Option<u32> {
        matches!(inode.origin, Origin::Entry(_)).then_some(inode.described)
    }

    /// The entries whose attributes an inode has, the one that counts most first.
    pub fn attributed_by(&self, number: u32) -> impl Iterator<Item = u32> {
        let last = self.inode(number).and_then(|inode| self.described_by(inode));
        let before = if self.before.is_empty() { None } else { self.before.get(&number) };
        last.into_iter().chain(before.into_iter().flatten().rev().copied())
    }

    /// The inode that `directory` has under `name`.
    pub fn child<E: Entries + ?Sized>(&self, entries: &E, directory: &Inode, name: &[u8]) -> Option<u32> {
        let children = self.children_of(directory);
        let at = children.binary_search_by(|child| bytes(entries, child.name).cmp(name)).ok()?;
        Some(children[at].inode)
    }

    /// Names and inodes of a directory from the `from`th on, sorted by name.
    pub fn list<'a, E: Entries + ?Sized>(
        &'a self,
        entries: &'a E,
        directory: &Inode,
        from: usize,
    ) -> impl Iterator<Item = (&'a [u8], u32)> {
        self.children_of(directory).iter().skip(from).map(|child| (bytes(entries, child.name), child.inode))
    }

    /// Like [`Self::list`], with the entry that has the name in its own.
    pub fn named<'a, E: Entries + ?Sized>(
        &'a self,
        entries: &'a E,
        directory: &Inode,
    ) -> impl Iterator<Item = (u32, &'a [u8], u32)> {
        let children = self.children_of(directory).iter();
        children.map(|child| (child.name.entry, bytes(entries, child.name), child.inode))
    }

    fn children_of(&self, inode: &Inode) -> &[Child] {
        self.children.get(inode.children.0 as usize..inode.children.1 as usize).unwrap_or_default()
    }
}

pub(super) fn bytes<E: Entries + ?Sized>(entries: &E, name: NameAt) -> &[u8] {
    let all = if name.in_link { entries.link(name.entry) } else { entries.name(name.entry) };
    &all[name.start as usize..][..usize::from(name.length)]
}
