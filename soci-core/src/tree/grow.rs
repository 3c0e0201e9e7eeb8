//! How a layer's tree grows, entry by entry.
//!
//! [`Growing`] owns the tree until all entries are in it. Rules, each with a test: a later entry replaces an earlier one of the
//! same name with all below it, but a directory keeps its children. A hard link is another name of its target's inode, and
//! describes it anew. What hides a name of the layers below hides it wherever in the archive it stands. The root's own
//! entry says nothing.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

use hashbrown::hash_table::{Entry, HashTable};

use super::layer::{Child, Inode, LayerTree, NameAt, Origin, bytes};
use super::limits::{MAX_IMPLIED, MAX_NAME, MAX_PATH};
use super::{Entries, Marker, ROOT, Reason, Refusal, check_xattr, keeps_xattr};
use crate::tar::EntryKind;

/// Bytes of their paths, at most: each has all of those above it.
const MAX_IMPLIED_PATHS: usize = 1 << 26;
/// Bytes of targets of symbolic links that are followed in a layer, at most: each entry may have a path through as many
/// long ones as there may be in a path.
const MAX_FOLLOWED: usize = 1 << 26;

/// What an entry does to the tree. Directories are given by their numbers: see [`Growing::path`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Nothing,
    /// A directory becomes opaque.
    Opaque(u32),
    /// A new name is a whiteout; what had the name is replaced.
    Whiteout {
        /// The directory.
        parent: u32,
        /// Where the hidden name is in the entry's.
        name: Range<usize>,
        /// Something of the layer had the name.
        replaces: bool,
    },
    /// A name gets what the entry describes.
    Put {
        /// The directory.
        parent: u32,
        /// Where the name is in the entry's.
        name: Range<usize>,
        /// What there is under that name: another one than before unless a directory is named again.
        inode: u32,
        /// What the layer had under that name is replaced, with all below it.
        replaces: bool,
        /// The directory was there: it is described anew.
        merges: bool,
        /// Of a hard link: the directory of its target, and where the target's name is in the link.
        target: Option<(u32, Range<usize>)>,
    },
}

/// The tree while entries are added.
#[derive(Debug)]
pub struct Growing {
    inodes: Vec<Inode>,
    /// Each with its directory.
    children: Vec<(u32, Child)>,
    /// Places in `children`, by directory and name.
    names: HashTable<u32>,
    /// Where names have led, by what they have before their last part: (entry, length, directory). Entries of one directory mostly
    /// follow each other, so few of them are looked up part by part.
    pub(super) resolved: HashTable<(u32, u32, u32)>,
    /// Places in `children` of names that are hidden in the layers below.
    hidden: HashSet<u32>,
    before: HashMap<u32, Vec<u32>>,
    /// Directories that the last entry has implied.
    pub(super) made: Vec<u32>,
    /// Implied directories that may still be made, and bytes of their paths.
    implied: (usize, usize),
    /// Bytes of targets of symbolic links that may still be followed.
    pub(super) to_follow: usize,
    pub(super) hasher: RandomState,
}

impl Default for Growing {
    fn default() -> Self {
        Self::with_capacity(0)
    }
}

impl Growing {
    /// A tree with nothing but a root, which will get about as many entries.
    pub fn with_capacity(entries: usize) -> Self {
        let mut growing = Self {
            inodes: Vec::with_capacity(entries + 1),
            children: Vec::with_capacity(entries),
            names: HashTable::with_capacity(entries),
            resolved: HashTable::new(),
            hidden: HashSet::new(),
            before: HashMap::new(),
            made: Vec::new(),
            implied: (MAX_IMPLIED, MAX_IMPLIED_PATHS),
            to_follow: MAX_FOLLOWED,
            hasher: RandomState::default(),
        };
        growing.inode(Origin::Implied, true, ROOT);
        growing
    }

    fn inode(&mut self, origin: Origin, is_directory: bool, parent: u32) -> u32 {
        let described = match origin {
            Origin::Implied => 0,
            Origin::Entry(entry) | Origin::Whiteout(entry) => entry,
        };
        let (nlink, opaque, children) = (0, false, (0, 0));
        self.inodes.push(Inode { origin, nlink, is_directory, opaque, parent, described, children });
        (self.inodes.len() - 1) as u32
    }

    /// What an inode is made from.
    pub(super) fn origin(&self, inode: u32) -> Origin {
        self.inodes[inode as usize].origin
    }

    /// Whether a directory is opaque by now.
    pub fn is_opaque(&self, directory: u32) -> bool {
        self.inodes[directory as usize].opaque
    }

    /// The directories that the last entry has implied, the higher ones first.
    pub fn made(&self) -> &[u32] {
        &self.made
    }

    /// The path of a directory.
    pub fn path<E: Entries + ?Sized>(&self, entries: &E, directory: u32) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = directory;
        while at != ROOT {
            let inode = &self.inodes[at as usize];
            names.push(bytes(entries, self.children[inode.children.0 as usize].1.name));
            at = inode.parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    /// The place of a name.
    fn find<E: Entries + ?Sized>(&self, entries: &E, directory: u32, name: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one((directory, name));
        let is_it = |at: &u32| {
            let (parent, child) = &self.children[*at as usize];
            *parent == directory && bytes(entries, child.name) == name
        };
        self.names.find(hash, is_it).copied()
    }

    /// What a directory has under a name.
    pub(super) fn child<E: Entries + ?Sized>(&self, entries: &E, directory: u32, name: &[u8]) -> Option<u32> {
        Some(self.children[self.find(entries, directory, name)? as usize].1.inode)
    }

    /// Gives an inode a name in a directory, which may lead to another one until now. The place of the name.
    fn name<E: Entries + ?Sized>(&mut self, entries: &E, directory: u32, child: Child) -> u32 {
        let (children, hasher) = (&mut self.children, &self.hasher);
        let own = bytes(entries, child.name);
        let hash = hasher.hash_one((directory, own));
        let is_it = |at: &u32| {
            let (parent, child) = &children[*at as usize];
            *parent == directory && bytes(entries, child.name) == own
        };
        let rehash = |at: &u32| {
            let (parent, child) = &children[*at as usize];
            hasher.hash_one((*parent, bytes(entries, child.name)))
        };
        match self.names.entry(hash, is_it, rehash) {
            Entry::Vacant(free) => {
                let at = children.len() as u32;
                free.insert(at);
                children.push((directory, child));
                at
            }
            Entry::Occupied(known) => {
                let at = *known.get();
                let replaced = std::mem::replace(&mut children[at as usize].1, child).inode;
                if replaced != child.inode {
                    // Not cleared: that would take as long as the largest that it ever was.
                    self.resolved = HashTable::new();
                }
                at
            }
        }
    }

    pub(super) fn is_directory(&self, inode: u32) -> bool {
        self.inodes[inode as usize].is_directory
    }

    /// What an inode that some entry has made is.
    pub fn kind<E: Entries + ?Sized>(&self, entries: &E, inode: u32) -> EntryKind {
        match self.origin(inode) {
            Origin::Implied => EntryKind::Dir,
            Origin::Entry(entry) => entries.kind(entry),
            Origin::Whiteout(_) => EntryKind::Char,
        }
    }

    /// Puts the next entry into the tree.
    ///
    /// # Errors
    /// When it cannot be shown; then the tree may have directories that it implies, and nothing else of it.
    pub fn add<E: Entries + ?Sized>(&mut self, entries: &E, entry: u32) -> Result<Step, Refusal> {
        self.made.clear();
        self.place(entries, entry).map_err(|reason| Refusal { entry, reason })
    }

    fn place<E: Entries + ?Sized>(&mut self, entries: &E, entry: u32) -> Result<Step, Reason> {
        let whole = entries.name(entry);
        let Some((parent, place)) = self.locate(entries, entry)? else { return Ok(Step::Nothing) };
        let name = &whole[place.clone()];
        if name.len() > MAX_NAME {
            return Err(Reason::NameTooLong);
        }
        if self.path_length(parent) + 1 + name.len() > MAX_PATH {
            return Err(Reason::PathTooLong);
        }
        match Marker::of(name) {
            Marker::Aufs => Ok(Step::Nothing),
            Marker::Nothing => Err(Reason::WhiteoutOfNothing),
            Marker::Opaque => {
                self.inodes[parent as usize].opaque = true;
                Ok(Step::Opaque(parent))
            }
            Marker::Whiteout(hidden) => {
                Ok(self.hide(entries, entry, parent, place.end - hidden.len()..place.end))
            }
            Marker::None => self.put(entries, entry, parent, place),
        }
    }

    /// A whiteout: hides a name of the layers below, and nothing of this one.
    fn hide<E: Entries + ?Sized>(
        &mut self,
        entries: &E,
        entry: u32,
        parent: u32,
        name: Range<usize>,
    ) -> Step {
        let Some(at) = self.find(entries, parent, &entries.name(entry)[name.clone()]) else {
            let inode = self.inode(Origin::Whiteout(entry), false, parent);
            let at = self.name(entries, parent, Child { name: name_at(entry, &name), inode });
            self.hidden.insert(at);
            return Step::Whiteout { parent, name, replaces: false };
        };
        self.hidden.insert(at);
        let own = self.children[at as usize].1.inode;
        if !self.is_directory(own) {
            return Step::Nothing;
        }
        self.inodes[own as usize].opaque = true;
        Step::Opaque(own)
    }

    fn put<E: Entries + ?Sized>(
        &mut self,
        entries: &E,
        entry: u32,
        parent: u32,
        name: Range<usize>,
    ) -> Result<Step, Reason> {
        let kind = entries.kind(entry);
        let mut has_xattrs = false;
        for (name, value) in entries.xattrs(entry).filter(|(name, _)| keeps_xattr(kind, name)) {
            check_xattr(name, value)?;
            has_xattrs = true;
        }
        if kind == EntryKind::Symlink && !(1..=MAX_PATH).contains(&entries.link(entry).len()) {
            return Err(Reason::LinkTarget);
        }
        let known = self.find(entries, parent, &entries.name(entry)[name.clone()]);
        let old = known.map(|at| self.children[at as usize].1.inode);
        let child = |inode| Child { name: name_at(entry, &name), inode };
        // As overlayfs sees it, such a device is a whiteout.
        if kind == EntryKind::Char && entries.device(entry) == (0, 0) {
            let inode = self.inode(Origin::Whiteout(entry), false, parent);
            let at = self.name(entries, parent, child(inode));
            self.hidden.insert(at);
            return Ok(Step::Whiteout { parent, name, replaces: old.is_some() });
        }
        let mut target = None;
        let same = match kind {
            EntryKind::HardLink => {
                let (directory, place, inode) = self.target(entries, entry, known)?;
                target = Some((directory, place));
                Some(inode)
            }
            EntryKind::Dir => old.filter(|old| self.is_directory(*old)),
            _ => None,
        };
        let inode = match same {
            Some(inode) => {
                self.describe(entries, inode, entry, has_xattrs);
                inode
            }
            None => self.inode(Origin::Entry(entry), kind == EntryKind::Dir, parent),
        };
        let at = self.name(entries, parent, child(inode));
        if kind == EntryKind::Dir {
            self.directory_at(inode, at);
        }
        let merges = kind == EntryKind::Dir && same.is_some();
        Ok(Step::Put { parent, name, inode, replaces: old.is_some() && !merges, merges, target })
    }

    /// A directory has its name at this place.
    fn directory_at(&mut self, directory: u32, at: u32) {
        let hides = self.hidden.contains(&at);
        let (parent, child) = self.children[at as usize];
        let length = self.path_length(parent) + 1 + usize::from(child.name.length);
        let inode = &mut self.inodes[directory as usize];
        inode.children = (at, length as u32);
        inode.opaque |= hides;
    }

    /// Bytes of the path of a directory, with a slash before each part.
    pub(super) fn path_length(&self, directory: u32) -> usize {
        self.inodes[directory as usize].children.1 as usize
    }

    /// Makes a directory that the layer only implies.
    pub(super) fn imply<E: Entries + ?Sized>(
        &mut self,
        entries: &E,
        parent: u32,
        name: NameAt,
    ) -> Result<u32, Reason> {
        let length = self.path_length(parent) + 1 + usize::from(name.length);
        let left = |(directories, bytes): (usize, usize)| {
            Some((directories.checked_sub(1)?, bytes.checked_sub(length)?))
        };
        self.implied = left(self.implied).ok_or(Reason::TooManyImplied)?;
        let inode = self.inode(Origin::Implied, true, parent);
        let at = self.name(entries, parent, Child { name, inode });
        self.directory_at(inode, at);
        self.made.push(inode);
        Ok(inode)
    }

    /// An entry describes an inode that is there. Its attributes come on top of those that there are.
    fn describe<E: Entries + ?Sized>(&mut self, entries: &E, inode: u32, entry: u32, has_xattrs: bool) {
        let known = &mut self.inodes[inode as usize];
        let before = match known.origin {
            Origin::Entry(_) => Some(known.described),
            Origin::Implied | Origin::Whiteout(_) => None,
        };
        known.described = entry;
        if entries.kind(entry) == EntryKind::Dir {
            known.origin = Origin::Entry(entry);
        }
        let had = |entry: u32| entries.xattrs(entry).next().is_some();
        if let Some(before) = before
            && (has_xattrs || had(before) || self.before.contains_key(&inode))
        {
            self.before.entry(inode).or_default().push(before);
        }
    }

    /// What a hard link names: directory, name and inode. `at` is the place of the link's own name if the layer has it; what it
    /// leads to goes first, with all below it.
    fn target<E: Entries + ?Sized>(
        &mut self,
        entries: &E,
        entry: u32,
        at: Option<u32>,
    ) -> Result<(u32, Range<usize>, u32), Reason> {
        let link = entries.link(entry);
        let (directory, last) = self.locate_target(entries, entry)?;
        let place = self.find(entries, directory, &link[last.clone()]).ok_or(Reason::LinkToNothing)?;
        let inode = self.children[place as usize].1.inode;
        if self.is_directory(inode) {
            return Err(Reason::LinkToDirectory);
        }
        let goes = |at: u32| at == place || self.is_below(directory, self.children[at as usize].1.inode);
        if at.is_some_and(goes) || matches!(self.origin(inode), Origin::Whiteout(_)) {
            return Err(Reason::LinkToNothing);
        }
        Ok((directory, last, inode))
    }

    /// Whether a directory is another one, or below it.
    fn is_below(&self, mut directory: u32, above: u32) -> bool {
        while directory != above && directory != ROOT {
            directory = self.inodes[directory as usize].parent;
        }
        directory == above
    }

    /// Sorts the directories, and counts the links of what can be reached from the root.
    pub fn finish<E: Entries + ?Sized>(self, entries: &E) -> LayerTree {
        let mut inodes = self.inodes;
        let children = by_directory(entries, &mut inodes, self.children);
        let mut implied = 0;
        let mut open = vec![ROOT];
        inodes[0].nlink = 2;
        while let Some(directory) = open.pop() {
            let (first, end) = inodes[directory as usize].children;
            for child in &children[first as usize..end as usize] {
                let inode = &mut inodes[child.inode as usize];
                if inode.is_directory {
                    inode.nlink = 2;
                    implied += u32::from(inode.origin == Origin::Implied);
                    inodes[directory as usize].nlink += 1;
                    open.push(child.inode);
                } else {
                    inode.nlink += 1;
                }
            }
        }
        LayerTree {
            inodes: inodes.into_boxed_slice(),
            children,
            implied,
            before: self.before,
            refused: Vec::new(),
        }
    }
}

fn name_at(entry: u32, place: &Range<usize>) -> NameAt {
    NameAt { entry, start: place.start as u32, length: place.len() as u16, in_link: false }
}

/// Puts the children of each directory side by side, sorted by name, and tells the directories where they are.
fn by_directory<E: Entries + ?Sized>(
    entries: &E,
    inodes: &mut [Inode],
    children: Vec<(u32, Child)>,
) -> Box<[Child]> {
    for inode in inodes.iter_mut() {
        inode.children = (0, 0);
    }
    for (directory, _) in &children {
        inodes[*directory as usize].children.1 += 1;
    }
    let mut start = 0;
    for inode in inodes.iter_mut() {
        let count = inode.children.1;
        inode.children = (start, start);
        start += count;
    }
    let nobody = Child { name: NameAt { entry: 0, start: 0, length: 0, in_link: false }, inode: 0 };
    let mut sorted = vec![nobody; children.len()].into_boxed_slice();
    for (directory, child) in children {
        let end = &mut inodes[directory as usize].children.1;
        sorted[*end as usize] = child;
        *end += 1;
    }
    for inode in inodes.iter() {
        // Archives mostly have them in order: then this takes one look at each.
        sorted[inode.children.0 as usize..inode.children.1 as usize]
            .sort_by(|a, b| bytes(entries, a.name).cmp(bytes(entries, b.name)));
    }
    sorted
}
