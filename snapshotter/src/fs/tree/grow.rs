//! How a layer's tree grows, entry by entry.
//!
//! [`Growing`] owns the tree until all entries are in it.
//!
//! Rules (each has a test): names are cleaned of `.`, `..`, leading, double and trailing slashes, and `..` stops at the
//! root. Directories that no entry names are 0755 root's. A later entry replaces an earlier one of the same name with all
//! that lies below it, except that a directory keeps its children. A hard link shares its target's inode; one whose target
//! is not in the layer is left out. A parent that is a symbolic link to a directory of the layer is followed; an entry
//! below any other file is left out.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;

use soci_core::tar::EntryKind;
use soci_core::ztoc::FileEntry;

use super::super::whiteout::{Meaning, meaning};
use super::{Child, Inode, NameAt, Origin, Tree, bytes};

/// Symbolic links followed on the way to a parent directory, at most.
const MAX_HOPS: usize = 40;
/// Parts of a name, at most (the kernel's PATH_MAX has room for half as many).
const MAX_DEPTH: usize = 4096;
/// Directories that no entry names, at most.
const MAX_IMPLIED: usize = 1 << 18;
/// Bytes of one part of a name, at most: the kernel's NAME_MAX.
const MAX_NAME: usize = 255;

/// The tree while entries are added.
pub(super) struct Growing<'a> {
    files: &'a [FileEntry],
    inodes: Vec<Inode>,
    /// Each with its directory.
    children: Vec<(u32, Child)>,
    /// Directory and name -> place in `children`.
    names: HashMap<(u32, &'a [u8]), u32>,
    /// Where names have led, by what they have before their last part. Entries of one directory mostly follow each other, so
    /// few of them are looked up part by part.
    resolved: HashMap<&'a [u8], u32>,
    skipped: u32,
    /// Implied directories that may still be made.
    implied: usize,
}

/// A cleaned name: its parts' places in the bytes that it came from.
type Parts = Vec<Range<usize>>;

impl<'a> Growing<'a> {
    pub(super) fn new(files: &'a [FileEntry]) -> Self {
        let mut growing = Self {
            files,
            inodes: Vec::with_capacity(files.len() + 1),
            children: Vec::with_capacity(files.len()),
            names: HashMap::with_capacity(files.len()),
            resolved: HashMap::new(),
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

    /// What a directory has under a name.
    fn child(&self, directory: u32, name: &[u8]) -> Option<u32> {
        self.names.get(&(directory, name)).map(|at| self.children[*at as usize].1.inode)
    }

    /// Gives an inode a name in a directory, which may lead to another one until now.
    fn name(&mut self, directory: u32, name: &'a [u8], child: Child) {
        match self.names.entry((directory, name)) {
            Entry::Vacant(free) => {
                free.insert(self.children.len() as u32);
                self.children.push((directory, child));
            }
            Entry::Occupied(known) => {
                self.children[*known.get() as usize].1 = child;
                // Not cleared: that would take as long as the largest that it ever was.
                self.resolved = HashMap::new();
            }
        }
    }

    fn is_directory(&self, inode: u32) -> bool {
        match self.inodes[inode as usize].origin {
            Origin::Implied => true,
            Origin::Entry(entry) => self.files[entry as usize].kind == EntryKind::Dir,
            Origin::Whiteout(_) => false,
        }
    }

    pub(super) fn add(&mut self, entry: u32) {
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
        let (parent, last) = self.locate(entry)?;
        if last.is_empty() {
            // The root itself.
            if file.kind == EntryKind::Dir {
                self.inodes[0].origin = Origin::Entry(entry);
            }
            return Some(());
        }
        let name = &file.name[last.clone()];
        let at = |start: usize, length: usize| NameAt { entry, start: start as u32, length: length as u16 };
        match meaning(name) {
            Meaning::Hidden => {}
            Meaning::Opaque => self.inodes[parent as usize].opaque = true,
            Meaning::Whiteout(hidden) => {
                if self.child(parent, hidden).is_none() {
                    let inode = self.inode(Origin::Whiteout(entry), parent);
                    let start = last.end - hidden.len();
                    self.name(parent, hidden, Child { name: at(start, hidden.len()), inode });
                }
            }
            Meaning::Plain => {
                let known = self.child(parent, name);
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
                self.name(parent, name, Child { name: at(last.start, last.len()), inode });
            }
        }
        Some(())
    }

    /// The directory that an entry is in, made if it is missing, and the place of the entry's own name in what the archive says;
    /// an empty place: it is the root.
    fn locate(&mut self, entry: u32) -> Option<(u32, Range<usize>)> {
        let files = self.files;
        let whole: &'a [u8] = &files[entry as usize].name;
        let (above, own) = last_part(whole);
        if let Some(directory) = self.resolved.get(above)
            && !matches!(&whole[own.clone()], b"" | b"." | b"..")
            && own.len() <= MAX_NAME
        {
            return Some((*directory, own));
        }
        let parts = parts_of(whole)?;
        let Some((last, parts_above)) = parts.split_last() else { return Some((0, 0..0)) };
        let directory = self.directory(entry, parts_above)?;
        if *last == own {
            self.resolved.insert(above, directory);
        }
        Some((directory, last.clone()))
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
            directory = match self.child(directory, name) {
                Some(known) if self.is_directory(known) => known,
                Some(known) if !matches!(self.inodes[known as usize].origin, Origin::Whiteout(_)) => {
                    self.follow(directory, known, &mut hops)?
                }
                _ => {
                    self.implied = self.implied.checked_sub(1)?;
                    let made = self.inode(Origin::Implied, directory);
                    let at = NameAt { entry, start: part.start as u32, length: part.len() as u16 };
                    self.name(directory, name, Child { name: at, inode: made });
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
                    let next = self.child(at, name)?;
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
            let next = self.child(directory, &name[part.clone()])?;
            directory = if self.is_directory(next) { next } else { self.follow(directory, next, &mut hops)? };
        }
        let inode = self.child(directory, &name[last.clone()])?;
        (!matches!(self.inodes[inode as usize].origin, Origin::Whiteout(_))).then_some(inode)
    }

    /// Sorts the directories, and counts the links of what can be reached from the root.
    pub(super) fn finish(self) -> Tree {
        let (files, mut inodes) = (self.files, self.inodes);
        let children = by_directory(files, &mut inodes, self.children);
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
            for child in &children[first as usize..end as usize] {
                if is_directory(&inodes[child.inode as usize]) {
                    inodes[child.inode as usize].nlink = 2;
                    inodes[directory as usize].nlink += 1;
                    open.push(child.inode);
                } else {
                    inodes[child.inode as usize].nlink += 1;
                }
            }
        }
        Tree { inodes: inodes.into_boxed_slice(), children, skipped: self.skipped }
    }
}

/// Puts the children of each directory side by side, sorted by name, and tells the directories where they are.
fn by_directory(files: &[FileEntry], inodes: &mut [Inode], children: Vec<(u32, Child)>) -> Box<[Child]> {
    for (directory, _) in &children {
        inodes[*directory as usize].children.1 += 1;
    }
    let mut start = 0;
    for inode in inodes.iter_mut() {
        let count = inode.children.1;
        inode.children = (start, start);
        start += count;
    }
    let nobody = Child { name: NameAt { entry: 0, start: 0, length: 0 }, inode: 0 };
    let mut sorted = vec![nobody; children.len()].into_boxed_slice();
    for (directory, child) in children {
        let end = &mut inodes[directory as usize].children.1;
        sorted[*end as usize] = child;
        *end += 1;
    }
    for inode in inodes.iter() {
        // Archives mostly have them in order: then this takes one look at each.
        sorted[inode.children.0 as usize..inode.children.1 as usize]
            .sort_by(|a, b| bytes(files, a.name).cmp(bytes(files, b.name)));
    }
    sorted
}

/// What a name has before its last slash but one at its end, and the place of what it has behind that.
fn last_part(name: &[u8]) -> (&[u8], Range<usize>) {
    let end = name.strip_suffix(b"/").unwrap_or(name).len();
    match name[..end].iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&name[..slash], slash + 1..end),
        None => (b"", 0..end),
    }
}

/// The path of an entry's name, without a leading slash.
pub(in crate::fs) fn cleaned(name: &[u8]) -> Option<Vec<u8>> {
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
