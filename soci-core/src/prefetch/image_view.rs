//! The image as overlayfs shows it: for each visible path, the layer and the bytes it comes from.
//!
//! Owns one node for each visible path. Layers are put on top of each other with the kernel's rules: an upper entry
//! hides a lower one of the same path, directories merge unless the upper one is opaque (`.wh..wh..opq`, or also named
//! by a whiteout), whiteouts (`.wh.NAME`) hide lower entries only. Within one tar the last entry of a path wins and a
//! directory named again keeps its content. A hard link stands for the content its target had at that point of the
//! tar, else for the target in the layers below. What must always hold: memory is linear in the number of entries and
//! nothing recurses, whatever the names are.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use crate::{
    tar::{Entry, EntryKind},
    units::ByteRange,
    unpack::Whiteout,
    ztoc::FileEntry,
};

/// Longest entry name that is looked at: the kernel's PATH_MAX. Longer ones cannot be opened, hence not planned.
const MAX_NAME: usize = 4096;
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
}

impl From<&FileEntry> for LayerFile {
    fn from(file: &FileEntry) -> Self {
        Self {
            name: file.name.clone(),
            kind: file.kind,
            content: file.content_range(),
            link: file.link_name.clone(),
        }
    }
}

impl From<Entry> for LayerFile {
    fn from(entry: Entry) -> Self {
        let size = if entry.kind == EntryKind::Reg { entry.size } else { 0 };
        let content = ByteRange::new(entry.content_offset, entry.content_offset.saturating_add(size));
        Self { name: entry.name.into(), kind: entry.kind, content, link: entry.link_name.into() }
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
    /// A directory, device, or a hard link to nothing.
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
    /// Device, fifo, or a hard link to nothing.
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

/// What a layer's whiteouts say about one of its directories.
#[derive(Debug, Default)]
struct Hides {
    opaque: bool,
    names: Vec<Bytes>,
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
    /// Puts layers on top of each other, lowest first. Each comes with the number that [`Located::layer`] will name.
    pub fn build<'a, F>(layers: impl IntoIterator<Item = (usize, F)>) -> Self
    where
        F: IntoIterator<Item = &'a LayerFile>,
    {
        let mut view = Self { tree: Tree::new(0) };
        for (layer, files) in layers {
            let (tree, hides) = view.layer_tree(layer, files);
            view.put_on_top(&tree, &hides);
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
                    for part in split(target).collect::<Vec<_>>().into_iter().rev() {
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

    /// The tree of one layer alone, and what its whiteouts hide (by node).
    fn layer_tree<'a>(
        &self,
        layer: usize,
        files: impl IntoIterator<Item = &'a LayerFile>,
    ) -> (Tree, HashMap<usize, Hides>) {
        let mut tree = Tree::new(layer);
        let mut hides: HashMap<usize, Hides> = HashMap::new();
        for file in files {
            let Some((base, parents)) = clean(&file.name).and_then(|mut path| Some((path.pop()?, path)))
            else {
                continue; // the root itself, or a name nobody can open
            };
            let parent = tree.directory(layer, &parents);
            match Whiteout::of(&base) {
                Whiteout::Opaque => hides.entry(parent).or_default().opaque = true,
                Whiteout::Name(name) => hides.entry(parent).or_default().names.push(base.slice_ref(name)),
                Whiteout::Aufs => {}
                Whiteout::No => {
                    let content = match file.kind {
                        EntryKind::Dir => Content::Dir,
                        EntryKind::Reg => Content::File(Located { layer, content: file.content }),
                        EntryKind::Symlink => Content::Symlink(file.link.clone()),
                        EntryKind::HardLink => self.link_target(&tree, &file.link),
                        EntryKind::Char | EntryKind::Block | EntryKind::Fifo => Content::Other,
                    };
                    tree.set(parent, base, layer, content);
                }
            }
        }
        (tree, hides)
    }

    fn link_target(&self, tree: &Tree, link: &[u8]) -> Content {
        let path = clean(&Bytes::copy_from_slice(link)).unwrap_or_default();
        let target = tree.get(&path).or_else(|| self.tree.get(&path));
        match target.map(|node| &node.content) {
            None | Some(Content::Dir) => Content::Other,
            Some(content) => content.clone(),
        }
    }

    fn put_on_top(&mut self, upper: &Tree, hides: &HashMap<usize, Hides>) {
        let merged = &mut self.tree;
        let mut open = vec![(ROOT, ROOT)];
        while let Some((from, to)) = open.pop() {
            merged.nodes[to].layer = upper.nodes[from].layer;
            if let Some(hides) = hides.get(&from) {
                if hides.opaque {
                    merged.nodes[to].children.clear();
                }
                for name in &hides.names {
                    merged.nodes[to].children.remove(name);
                }
            }
            for (name, &child) in &upper.nodes[from].children {
                let node = &upper.nodes[child];
                let target = merged.set(to, name.clone(), node.layer, node.content.clone());
                if matches!(node.content, Content::Dir) {
                    open.push((child, target));
                }
            }
        }
    }
}

impl Tree {
    fn new(layer: usize) -> Self {
        Self { nodes: vec![Node { layer, content: Content::Dir, children: HashMap::new() }] }
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

    /// The directory at a path; made where it is missing, and where something else is in the way.
    fn directory(&mut self, layer: usize, path: &[Bytes]) -> usize {
        path.iter().fold(ROOT, |at, name| match self.nodes[at].children.get(name) {
            Some(&child) if matches!(self.nodes[child].content, Content::Dir) => child,
            _ => self.set(at, name.clone(), layer, Content::Dir),
        })
    }

    fn get(&self, path: &[Bytes]) -> Option<&Node> {
        let at = path.iter().try_fold(ROOT, |at, name| self.nodes[at].children.get(name).copied())?;
        Some(&self.nodes[at])
    }
}

fn split(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&b| b == b'/').filter(|part| !part.is_empty())
}

/// The components of a tar name: `.` dropped, `..` never above the root. `None` for names that are too long.
fn clean(name: &Bytes) -> Option<Vec<Bytes>> {
    if name.len() > MAX_NAME {
        return None;
    }
    let mut path = Vec::new();
    for part in split(name) {
        match part {
            b"." => {}
            b".." => drop(path.pop()),
            part => path.push(name.slice_ref(part)),
        }
    }
    Some(path)
}
