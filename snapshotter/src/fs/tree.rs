//! The inode table and directories of one layer, made from its zTOC's entries.
//!
//! State: immutable after [`Tree::build`]. Names are slices of the zTOC's own bytes, so an inode costs some 30 bytes and a
//! name 16. Inode numbers follow the entries' order: the same zTOC gives the same numbers after a restart.
//!
//! Rules (each has a test): names are cleaned of `.`, `..`, leading, double and trailing slashes, and `..` stops at the
//! root. Directories that no entry names are 0755 root's. A later entry replaces an earlier one of the same name with all
//! that lies below it, except that a directory keeps its children. A hard link shares its target's inode; one whose target
//! is not in the layer is left out. A parent that is a symbolic link to a directory of the layer is followed; an entry
//! below any other file is left out.

use std::collections::HashMap;
use std::ops::Range;

use soci_core::tar::EntryKind;
use soci_core::ztoc::FileEntry;

use super::InodeNo;
use super::whiteout::{Meaning, meaning};

/// Symbolic links followed on the way to a parent directory, at most.
const MAX_HOPS: usize = 40;
/// Parts of a name, at most (the kernel's PATH_MAX has room for half as many).
const MAX_DEPTH: usize = 4096;
/// Directories that no entry names, at most.
const MAX_IMPLIED: usize = 1 << 18;
/// Bytes of one part of a name, at most: the kernel's NAME_MAX.
const MAX_NAME: usize = 255;

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

/// The tree while entries are added.
struct Growing<'a> {
    files: &'a [FileEntry],
    inodes: Vec<Inode>,
    names: HashMap<(u32, &'a [u8]), (u32, NameAt)>,
    skipped: u32,
    /// Implied directories that may still be made.
    implied: usize,
}

/// A cleaned name: its parts' places in the bytes that it came from.
type Parts = Vec<Range<usize>>;

impl<'a> Growing<'a> {
    fn new(files: &'a [FileEntry]) -> Self {
        let mut growing = Self {
            files,
            inodes: Vec::with_capacity(files.len() + 1),
            names: HashMap::with_capacity(files.len()),
            skipped: 0,
            implied: MAX_IMPLIED,
        };
        growing.inode(Origin::Implied, 0);
        growing
    }

    fn inode(&mut self, origin: Origin, parent: u32) -> u32 {
        self.inodes.push(Inode { origin, nlink: 0, opaque: false, parent, children: (0, 0) });
        (self.inodes.len() - 1) as u32
    }

    fn is_directory(&self, inode: u32) -> bool {
        match self.inodes[inode as usize].origin {
            Origin::Implied => true,
            Origin::Entry(entry) => self.files[entry as usize].kind == EntryKind::Dir,
            Origin::Whiteout(_) => false,
        }
    }

    fn add(&mut self, entry: u32) {
        if self.place(entry).is_none() {
            self.skipped += 1;
            let name = String::from_utf8_lossy(&self.files[entry as usize].name);
            tracing::warn!(%name, "entry of the layer cannot be shown and is left out");
        }
    }

    /// Puts one entry into the tree; `None` when it cannot be shown.
    fn place(&mut self, entry: u32) -> Option<()> {
        let files = self.files;
        let file = &files[entry as usize];
        let parts = parts_of(&file.name)?;
        let Some((last, above)) = parts.split_last() else {
            // The root itself.
            if file.kind == EntryKind::Dir {
                self.inodes[0].origin = Origin::Entry(entry);
            }
            return Some(());
        };
        let parent = self.directory(entry, above)?;
        let name = &file.name[last.clone()];
        let at = |start: usize, length: usize| NameAt { entry, start: start as u32, length: length as u16 };
        match meaning(name) {
            Meaning::Hidden => {}
            Meaning::Opaque => self.inodes[parent as usize].opaque = true,
            Meaning::Whiteout(hidden) => {
                if !self.names.contains_key(&(parent, hidden)) {
                    let inode = self.inode(Origin::Whiteout(entry), parent);
                    let start = last.end - hidden.len();
                    self.names.insert((parent, hidden), (inode, at(start, hidden.len())));
                }
            }
            Meaning::Plain => {
                let known = self.names.get(&(parent, name)).map(|(inode, _)| *inode);
                let inode = match file.kind {
                    EntryKind::HardLink => {
                        let target =
                            self.existing(&file.link_name).filter(|target| !self.is_directory(*target))?;
                        Some(target)
                    }
                    EntryKind::Dir => known.filter(|known| self.is_directory(*known)),
                    _ => None,
                };
                let inode = match inode {
                    Some(inode) => {
                        if file.kind == EntryKind::Dir {
                            self.inodes[inode as usize].origin = Origin::Entry(entry);
                        }
                        inode
                    }
                    None => self.inode(Origin::Entry(entry), parent),
                };
                self.names.insert((parent, name), (inode, at(last.start, last.len())));
            }
        }
        Some(())
    }

    /// The directory that the parts of an entry's name lead to; what is missing is made.
    fn directory(&mut self, entry: u32, parts: &[Range<usize>]) -> Option<u32> {
        let files = self.files;
        let whole = &files[entry as usize].name;
        let mut hops = MAX_HOPS;
        let mut directory = 0;
        for part in parts {
            let name = &whole[part.clone()];
            if meaning(name) != Meaning::Plain {
                return None;
            }
            let known = self.names.get(&(directory, name)).map(|(inode, _)| *inode);
            directory = match known {
                Some(known) if self.is_directory(known) => known,
                Some(known) if !matches!(self.inodes[known as usize].origin, Origin::Whiteout(_)) => {
                    self.follow(directory, known, &mut hops)?
                }
                _ => {
                    self.implied = self.implied.checked_sub(1)?;
                    let made = self.inode(Origin::Implied, directory);
                    let at = NameAt { entry, start: part.start as u32, length: part.len() as u16 };
                    self.names.insert((directory, name), (made, at));
                    made
                }
            };
        }
        Some(directory)
    }

    /// The directory that a symbolic link in `directory` leads to, inside the layer.
    fn follow(&self, directory: u32, link: u32, hops: &mut usize) -> Option<u32> {
        *hops = hops.checked_sub(1)?;
        let Origin::Entry(entry) = self.inodes[link as usize].origin else { return None };
        let file = &self.files[entry as usize];
        if file.kind != EntryKind::Symlink {
            return None;
        }
        let target = &file.link_name;
        let mut at = if target.starts_with(b"/") { 0 } else { directory };
        for part in target.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => at = self.inodes[at as usize].parent,
                name => {
                    let next = self.names.get(&(at, name)).map(|(inode, _)| *inode)?;
                    at = if self.is_directory(next) { next } else { self.follow(at, next, hops)? };
                }
            }
        }
        Some(at)
    }

    /// The inode of an existing name, as a hard link gives it.
    fn existing(&self, name: &[u8]) -> Option<u32> {
        let parts = parts_of(name)?;
        let (last, above) = parts.split_last()?;
        let mut hops = MAX_HOPS;
        let mut directory = 0;
        for part in above {
            let next = self.names.get(&(directory, &name[part.clone()])).map(|(inode, _)| *inode)?;
            directory = if self.is_directory(next) { next } else { self.follow(directory, next, &mut hops)? };
        }
        let (inode, _) = self.names.get(&(directory, &name[last.clone()]))?;
        (!matches!(self.inodes[*inode as usize].origin, Origin::Whiteout(_))).then_some(*inode)
    }

    /// Numbers what can be reached from the root and sorts the directories.
    fn finish(self) -> Tree {
        let mut by_parent: Vec<(u32, Child)> = self
            .names
            .into_iter()
            .map(|((parent, _), (inode, name))| (parent, Child { name, inode }))
            .collect();
        let files = self.files;
        by_parent.sort_unstable_by(|a, b| (a.0, bytes(files, a.1.name)).cmp(&(b.0, bytes(files, b.1.name))));
        let mut inodes = self.inodes;
        for (index, (parent, _)) in by_parent.iter().enumerate() {
            let range = &mut inodes[*parent as usize].children;
            if range.1 == 0 {
                range.0 = index as u32;
            }
            range.1 = index as u32 + 1;
        }
        let is_directory = |inode: &Inode| match inode.origin {
            Origin::Implied => true,
            Origin::Entry(entry) => files[entry as usize].kind == EntryKind::Dir,
            Origin::Whiteout(_) => false,
        };
        // Link counts count reachable names only: what a later entry replaced is not there any more.
        let mut open = vec![0u32];
        inodes[0].nlink = 2;
        while let Some(directory) = open.pop() {
            let (first, end) = inodes[directory as usize].children;
            for (_, child) in &by_parent[first as usize..end as usize] {
                if is_directory(&inodes[child.inode as usize]) {
                    inodes[child.inode as usize].nlink = 2;
                    inodes[directory as usize].nlink += 1;
                    open.push(child.inode);
                } else {
                    inodes[child.inode as usize].nlink += 1;
                }
            }
        }
        Tree {
            inodes: inodes.into_boxed_slice(),
            children: by_parent.into_iter().map(|(_, child)| child).collect(),
            skipped: self.skipped,
        }
    }
}

/// The path of an entry's name, without a leading slash.
pub(super) fn cleaned(name: &[u8]) -> Option<Vec<u8>> {
    let parts: Vec<_> = parts_of(name)?.into_iter().map(|part| &name[part]).collect();
    Some(parts.join(&b'/'))
}

/// The parts of a name without `.`, `..` and empty ones; `..` never leaves the root. `None` when it cannot be a name.
fn parts_of(name: &[u8]) -> Option<Parts> {
    let mut parts: Parts = Vec::new();
    let mut start = 0;
    for part in name.split(|byte| *byte == b'/') {
        let range = start..start + part.len();
        start += part.len() + 1;
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part if part.len() > MAX_NAME || parts.len() == MAX_DEPTH => return None,
            _ => parts.push(range),
        }
    }
    (u32::try_from(name.len()).is_ok()).then_some(parts)
}
