//! The image as overlayfs shows it: for each visible path, the layer and the bytes it comes from.
//!
//! Owns one node for each visible path. What each layer looks like [`crate::tree`] says; here they are put on top of each
//! other with the kernel's rules: an upper entry hides a lower one of the same path, directories merge unless the upper one
//! is opaque, whiteouts hide lower entries. What must always hold: memory is linear in the number of entries and
//! nothing recurses, whatever the names are.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use crate::{
    tar::{Entry, EntryKind},
    tree::{self, Entries, LayerTree, Origin},
    units::ByteRange,
    ztoc::FileEntry,
};

/// Most symbolic links on the way to a file, as in the kernel.
const MAX_LINKS: usize = 40;
const ROOT: usize = 0;

/// One tar entry of a layer, as far as the view needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerFile {
    /// Raw name in the tar.
    pub name: Bytes,
    /// Kind of entry.
    pub kind: EntryKind,
    /// Content in the layer's uncompressed stream; empty for all but regular files.
    pub content: ByteRange,
    /// Target of a symbolic or hard link, raw.
    pub link: Bytes,
    /// Major and minor number of a device.
    pub device: (u32, u32),
}

impl From<&FileEntry> for LayerFile {
    fn from(file: &FileEntry) -> Self {
        Self {
            name: file.name.clone(),
            kind: file.kind,
            content: file.content_range(),
            link: file.link_name.clone(),
            device: (file.dev_major, file.dev_minor),
        }
    }
}

impl From<Entry> for LayerFile {
    fn from(entry: Entry) -> Self {
        let size = if entry.kind == EntryKind::Reg { entry.size } else { 0 };
        let content = ByteRange::new(entry.content_offset, entry.content_offset.saturating_add(size));
        let device = (entry.dev_major as u32, entry.dev_minor as u32);
        Self { name: entry.name.into(), kind: entry.kind, content, link: entry.link_name.into(), device }
    }
}

impl Entries for [&LayerFile] {
    fn name(&self, entry: u32) -> &[u8] {
        &self[entry as usize].name
    }

    fn kind(&self, entry: u32) -> EntryKind {
        self[entry as usize].kind
    }

    fn link(&self, entry: u32) -> &[u8] {
        &self[entry as usize].link
    }

    fn device(&self, entry: u32) -> (u32, u32) {
        self[entry as usize].device
    }

    fn xattrs(&self, _entry: u32) -> impl Iterator<Item = (&[u8], &[u8])> {
        std::iter::empty()
    }
}

/// Where a regular file's content lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located {
    /// Number of the layer, as given to [`ImageView::build`].
    pub layer: usize,
    /// Its bytes in that layer's uncompressed stream.
    pub content: ByteRange,
}

/// Why a path has no content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotLocated {
    /// No such path in the image.
    #[error("not in the image")]
    Missing,
    /// A directory, device or fifo.
    #[error("not a regular file")]
    NotRegular,
    /// More symbolic links than the kernel would follow.
    #[error("too many symbolic links")]
    Loop,
}

/// What a visible path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VisibleKind {
    /// Directory.
    Dir,
    /// Regular file, also under a hard link's name.
    File,
    /// Symbolic link.
    Symlink,
    /// Device or fifo.
    Other,
}

/// What a node is, and where its bytes lie.
#[derive(Clone, Copy, Debug)]
pub(super) enum NodeKind {
    Dir,
    File(Located),
    Symlink,
    Other,
}

#[derive(Clone, Debug)]
enum Content {
    Dir,
    File(Located),
    Symlink(Bytes),
    Other,
}

#[derive(Clone, Debug)]
struct Node {
    /// The topmost layer that has this path.
    layer: usize,
    content: Content,
    children: HashMap<Bytes, usize>,
}

#[derive(Debug)]
struct Tree {
    nodes: Vec<Node>,
}

/// The merged image.
#[derive(Debug)]
pub struct ImageView {
    tree: Tree,
}

impl ImageView {
    /// Puts layers on top of each other, lowest first. Each comes with the number that [`Located::layer`] will name. Entries
    /// that no layer can have are left out.
    pub fn build<'a, F>(layers: impl IntoIterator<Item = (usize, F)>) -> Self
    where
        F: IntoIterator<Item = &'a LayerFile>,
    {
        let mut view = Self { tree: Tree::new() };
        for (layer, files) in layers {
            let files: Vec<&LayerFile> = files.into_iter().collect();
            let tree = LayerTree::build(files.as_slice(), files.len());
            view.put_on_top(layer, &files, &tree);
        }
        view
    }

    /// Finds the content of a path, following symbolic links as a process in the image's root would.
    ///
    /// # Errors
    /// See [`NotLocated`].
    pub fn locate(&self, path: &[u8]) -> Result<Located, NotLocated> {
        self.find(path).map(|(_, located)| located)
    }

    /// Like [`Self::locate`], with the file's own path: no links on the way, no leading slash.
    ///
    /// # Errors
    /// See [`NotLocated`].
    pub fn find(&self, path: &[u8]) -> Result<(Vec<u8>, Located), NotLocated> {
        match self.walk(path)? {
            (own, node) if let NodeKind::File(located) = self.kind(node) => Ok((own, located)),
            _ => Err(NotLocated::NotRegular),
        }
    }

    /// The directory at the top.
    #[allow(clippy::unused_self)] // a node number means nothing without its view
    pub(super) fn root(&self) -> usize {
        ROOT
    }

    /// What a node is.
    pub(super) fn kind(&self, node: usize) -> NodeKind {
        match self.tree.nodes[node].content {
            Content::Dir => NodeKind::Dir,
            Content::File(located) => NodeKind::File(located),
            Content::Symlink(_) => NodeKind::Symlink,
            Content::Other => NodeKind::Other,
        }
    }

    /// Names and nodes in a directory, in no particular order.
    pub(super) fn children(&self, node: usize) -> impl Iterator<Item = (&[u8], usize)> {
        self.tree.nodes[node].children.iter().map(|(name, &child)| (name.as_ref(), child))
    }

    /// The node that a path leads to, following symbolic links as a process in the image's root would, and its own
    /// path: no links on the way, no leading slash.
    pub(super) fn walk(&self, path: &[u8]) -> Result<(Vec<u8>, usize), NotLocated> {
        let mut way = vec![ROOT];
        let mut names: Vec<Vec<u8>> = Vec::new(); // of all in `way` but the root
        let mut rest: VecDeque<Vec<u8>> = split(path).map(<[u8]>::to_vec).collect();
        let mut links = 0;
        while let Some(name) = rest.pop_front() {
            let here = *way.last().expect("the root is never popped");
            match name.as_slice() {
                b".." => {
                    if way.len() > 1 {
                        way.pop();
                        names.pop();
                    }
                    continue;
                }
                b"." => continue,
                _ => {}
            }
            let child = *self.tree.nodes[here].children.get(name.as_slice()).ok_or(NotLocated::Missing)?;
            match &self.tree.nodes[child].content {
                Content::Symlink(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(NotLocated::Loop);
                    }
                    if target.starts_with(b"/") {
                        way.truncate(1);
                        names.clear();
                    }
                    for part in split(target).rev() {
                        rest.push_front(part.to_vec());
                    }
                }
                Content::Dir => {
                    way.push(child);
                    names.push(name);
                }
                Content::File(_) | Content::Other if rest.is_empty() => {
                    names.push(name);
                    return Ok((names.join(&b'/'), child));
                }
                Content::File(_) | Content::Other => return Err(NotLocated::Missing),
            }
        }
        Ok((names.join(&b'/'), *way.last().expect("the root is never popped")))
    }

    /// Every visible path with the topmost layer that has it, in no particular order; the root is left out.
    pub fn visible(&self) -> impl Iterator<Item = (Vec<u8>, usize, VisibleKind)> {
        let mut open = vec![(Vec::new(), ROOT)];
        std::iter::from_fn(move || {
            let (path, node): (Vec<u8>, usize) = open.pop()?;
            let node = &self.tree.nodes[node];
            for (name, &child) in &node.children {
                let mut below = path.clone();
                if !below.is_empty() {
                    below.push(b'/');
                }
                below.extend_from_slice(name);
                open.push((below, child));
            }
            let kind = match node.content {
                Content::Dir => VisibleKind::Dir,
                Content::File(_) => VisibleKind::File,
                Content::Symlink(_) => VisibleKind::Symlink,
                Content::Other => VisibleKind::Other,
            };
            Some((path, node.layer, kind))
        })
        .filter(|(path, ..)| !path.is_empty())
    }

    fn put_on_top(&mut self, layer: usize, files: &[&LayerFile], upper: &LayerTree) {
        let merged = &mut self.tree;
        let mut open = vec![(tree::ROOT, ROOT)];
        while let Some((from, to)) = open.pop() {
            merged.nodes[to].layer = layer;
            let Some(directory) = upper.inode(from) else { continue };
            // The kernel does not look whether the root is opaque.
            if directory.opaque && from != tree::ROOT {
                merged.nodes[to].children.clear();
            }
            for (entry, name, child) in upper.named(files, directory) {
                let Some(inode) = upper.inode(child) else { continue };
                let content = match inode.origin {
                    Origin::Whiteout(_) => {
                        merged.nodes[to].children.remove(name);
                        continue;
                    }
                    Origin::Implied => Content::Dir,
                    Origin::Entry(entry) => Content::of(layer, files[entry as usize]),
                };
                let file = files[entry as usize];
                let own = [&file.name, &file.link].into_iter().find(|all| is_in(all, name));
                let name = own.map_or_else(|| Bytes::copy_from_slice(name), |all| all.slice_ref(name));
                let target = merged.set(to, name, layer, content);
                if inode.is_directory {
                    open.push((child, target));
                }
            }
        }
    }
}

/// Whether the bytes are a part of these, and no copy.
fn is_in(all: &[u8], part: &[u8]) -> bool {
    all.as_ptr_range().contains(&part.as_ptr())
}

impl Content {
    fn of(layer: usize, file: &LayerFile) -> Self {
        match file.kind {
            EntryKind::Dir => Self::Dir,
            EntryKind::Reg => Self::File(Located { layer, content: file.content }),
            EntryKind::Symlink => Self::Symlink(file.link.clone()),
            EntryKind::HardLink | EntryKind::Char | EntryKind::Block | EntryKind::Fifo => Self::Other,
        }
    }
}

impl Tree {
    fn new() -> Self {
        Self { nodes: vec![Node { layer: 0, content: Content::Dir, children: HashMap::new() }] }
    }

    /// Puts a node in a directory. A directory over a directory keeps the children; all else replaces.
    fn set(&mut self, parent: usize, name: Bytes, layer: usize, content: Content) -> usize {
        if let Some(&old) = self.nodes[parent].children.get(&name)
            && matches!((&self.nodes[old].content, &content), (Content::Dir, Content::Dir))
        {
            self.nodes[old].layer = layer;
            return old;
        }
        let new = self.nodes.len();
        self.nodes.push(Node { layer, content, children: HashMap::new() });
        self.nodes[parent].children.insert(name, new);
        new
    }
}

/// The parts of a path; behind a slash at its end only a directory can be meant.
fn split(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    let directory = path.ends_with(b"/").then_some(&b"."[..]);
    path.split(|&b| b == b'/').filter(|part| !part.is_empty()).chain(directory)
}
