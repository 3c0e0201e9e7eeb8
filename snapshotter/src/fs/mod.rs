//! A read-only file system over one layer: what FUSE asks, answered in terms of the zTOC and its spans.
//!
//! No FUSE types here, so that another transport can come beside. What a layer looks like [`soci_core::tree`] knows.
//! [`LayerFs`] owns nothing that changes: the tree is fixed, content comes from the layer's [`SpanManager`]. All answers
//! but content are from memory.

pub mod attr;
pub mod error;
mod inherited;
mod inode_no;
pub mod places;
pub mod xattr;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use soci_core::tar::EntryKind;
use soci_core::tree::{self, ACCESS_ACL, Inode, LayerTree, Origin, after_chmod};
use soci_core::units::ByteRange;
use soci_core::ztoc::{FileEntry, Ztoc};

use crate::span::SpanManager;
use attr::{Attr, Kind};
use error::FsError;
pub use inherited::Inherited;
pub use inode_no::InodeNo;
use xattr::OpaqueMark;

/// One name of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// The name.
    pub name: &'a [u8],
    /// What it names.
    pub ino: InodeNo,
    /// Where a listing goes on after it.
    pub next: u64,
}

/// A mounted layer's answers.
#[derive(Debug)]
pub struct LayerFs {
    ztoc: Ztoc,
    tree: Arc<LayerTree>,
    spans: Arc<SpanManager>,
    opaque: OpaqueMark,
    inherited: Arc<Inherited>,
    xattrs: bool,
    /// Access ACLs that the mode of their file changes, by the numbers of the tree.
    acls: HashMap<u32, Vec<u8>>,
}

impl LayerFs {
    /// The file system of a layer; `opaque` as the overlay above it is mounted, `inherited` as the layers below it are.
    pub fn new(
        tree: Arc<LayerTree>,
        spans: Arc<SpanManager>,
        opaque: OpaqueMark,
        inherited: Arc<Inherited>,
    ) -> Self {
        let ztoc = spans.ztoc().clone();
        let xattrs = tree.has_opaque()
            || inherited.has_xattrs()
            || ztoc.files().iter().any(|file| file.xattrs_schily().next().is_some());
        let mut fs = Self { ztoc, tree, spans, opaque, inherited, xattrs, acls: HashMap::new() };
        fs.acls = fs.changed_acls();
        fs
    }

    /// The mode is set last when a layer is unpacked, and says a part of what an access ACL says.
    fn changed_acls(&self) -> HashMap<u32, Vec<u8>> {
        let mut names = self.ztoc.files().iter().flat_map(FileEntry::xattrs_schily);
        if !self.xattrs || !names.any(|(name, _)| name == ACCESS_ACL) {
            return HashMap::new();
        }
        let changed = |ino: InodeNo| {
            let (_, acl) = self.xattrs(ino).ok()?.find(|(name, _)| *name == ACCESS_ACL)?;
            match after_chmod(acl, self.attr(ino).ok()?.perm) {
                Cow::Owned(changed) => Some((ino.in_tree()?, changed)),
                Cow::Borrowed(_) => None,
            }
        };
        self.inodes().filter_map(changed).collect()
    }

    fn inode(&self, ino: InodeNo) -> Result<&Inode, FsError> {
        self.tree.inode(ino.in_tree().ok_or(FsError::NotFound)?).ok_or(FsError::NotFound)
    }

    fn directory(&self, ino: InodeNo) -> Result<&Inode, FsError> {
        let inode = self.inode(ino)?;
        if inode.is_directory { Ok(inode) } else { Err(FsError::NotDirectory) }
    }

    fn entry(&self, inode: &Inode) -> Option<&FileEntry> {
        match inode.origin {
            Origin::Entry(entry) => self.ztoc.files().get(entry as usize),
            Origin::Implied | Origin::Whiteout(_) => None,
        }
    }

    /// Attributes of an inode.
    pub fn attr(&self, ino: InodeNo) -> Result<Attr, FsError> {
        let inode = self.inode(ino)?;
        let file = |entry: u32| self.ztoc.files().get(entry as usize).ok_or(FsError::NotFound);
        Ok(match inode.origin {
            Origin::Implied => {
                let found = ino.in_tree().and_then(|number| self.inherited.get(number));
                let nobody = Attr::implied_directory(ino, inode.nlink);
                found.map_or(nobody, |found| nobody.described_by(found))
            }
            Origin::Entry(entry) => {
                let described = self.tree.described_by(inode).unwrap_or(entry);
                Attr::of_entry(ino, inode.nlink, file(entry)?, file(described)?)
            }
            Origin::Whiteout(entry) => Attr::whiteout(ino, file(entry)?),
        })
    }

    /// What `parent` has under `name`.
    pub fn lookup(&self, parent: InodeNo, name: &[u8]) -> Result<Attr, FsError> {
        let directory = self.directory(parent)?;
        let child = self.tree.child(self.ztoc.files(), directory, name).ok_or(FsError::NotFound)?;
        self.attr(InodeNo::of(child))
    }

    /// Target of a symbolic link, as recorded.
    pub fn readlink(&self, ino: InodeNo) -> Result<&[u8], FsError> {
        let entry = self.entry(self.inode(ino)?).filter(|entry| Kind::of(entry.kind) == Kind::Symlink);
        Ok(entry.ok_or(FsError::WrongKind)?.link_name.as_ref())
    }

    /// The names of a directory from place `from` on (0 for the start), `.` and `..` first, then sorted by name.
    pub fn list(&self, ino: InodeNo, from: u64) -> Result<impl Iterator<Item = DirEntry<'_>>, FsError> {
        let directory = self.directory(ino)?;
        let above = ino.in_tree().map_or(InodeNo::ROOT, |number| InodeNo::of(self.tree.parent(number)));
        let dots = [(&b"."[..], ino), (&b".."[..], above)];
        let skip = usize::try_from(from).unwrap_or(usize::MAX);
        let rest = self.tree.list(self.ztoc.files(), directory, skip.saturating_sub(dots.len()));
        let named = dots.into_iter().skip(skip).chain(rest.map(|(name, number)| (name, InodeNo::of(number))));
        Ok((from..).zip(named).map(|(at, (name, ino))| DirEntry { name, ino, next: at + 1 }))
    }

    /// The numbers of all inodes; those that no name leads to have no links.
    pub(crate) fn inodes(&self) -> impl Iterator<Item = InodeNo> + use<> {
        inodes(&self.tree)
    }

    /// Names and values of all extended attributes.
    pub(crate) fn xattrs(&self, ino: InodeNo) -> Result<impl Iterator<Item = (&[u8], &[u8])>, FsError> {
        let inode = self.inode(ino)?;
        let number = ino.in_tree().ok_or(FsError::NotFound)?;
        let kind = self.entry(inode).map_or(EntryKind::Dir, |entry| entry.kind);
        let sources =
            move || self.tree.attributed_by(number).filter_map(|entry| self.ztoc.files().get(entry as usize));
        // What a later entry says again counts.
        let is_first = move |at: usize, name: &[u8]| {
            sources().take(at).all(|file| file.xattrs_schily().all(|(other, _)| other != name))
        };
        let stays = move |at: usize, name: &[u8]| tree::xattr_stays(kind, name) && is_first(at, name);
        let said = sources().enumerate().flat_map(move |(at, file)| {
            let kept = move |name| tree::keeps_xattr(kind, name) && (at == 0 || stays(at, name));
            file.xattrs_schily().filter(move |(name, _)| kept(name))
        });
        let inherited =
            if inode.origin == Origin::Implied { self.inherited.get(number) } else { None }.into_iter();
        let inherited = inherited.flat_map(|found| &found.xattrs);
        let inherited = inherited.map(|(name, value)| (name.as_slice(), value.as_slice()));
        let said = said.map(move |(name, value)| match self.acls.get(&number) {
            Some(changed) if name == ACCESS_ACL => (name, changed.as_slice()),
            _ => (name, value),
        });
        Ok(said.chain(inherited).chain(inode.opaque.then_some(self.opaque.attribute())))
    }

    /// Value of one extended attribute.
    pub fn xattr(&self, ino: InodeNo, name: &[u8]) -> Result<&[u8], FsError> {
        self.any_xattrs()?;
        xattr::value(self.xattrs(ino)?, name)
    }

    /// Names of the extended attributes, each with a NUL after it.
    pub fn xattr_names(&self, ino: InodeNo) -> Result<Vec<u8>, FsError> {
        self.any_xattrs()?;
        Ok(xattr::names(self.xattrs(ino)?))
    }

    /// `NoAttributes` when nothing in the layer has any: the kernel then stops asking.
    const fn any_xattrs(&self) -> Result<(), FsError> {
        if self.xattrs { Ok(()) } else { Err(FsError::NoAttributes) }
    }

    /// Where the content of a regular file lies in the layer's tar.
    pub fn content(&self, ino: InodeNo) -> Result<ByteRange, FsError> {
        let entry = self.entry(self.inode(ino)?).filter(|entry| Kind::of(entry.kind) == Kind::Regular);
        let entry = entry.ok_or(FsError::WrongKind)?;
        Ok(ByteRange::new(entry.content_offset, entry.content_offset.saturating_add(entry.size)))
    }

    /// The part of a file's content that a read of `size` bytes at `offset` gets: less at its end, nothing behind it.
    pub fn part(content: ByteRange, offset: u64, size: u32) -> ByteRange {
        let start = content.start.saturating_add(offset).min(content.end);
        ByteRange::new(start, start.saturating_add(u64::from(size)).min(content.end))
    }

    /// Reads from a file if the bytes are cached; `None` when a span is missing.
    pub fn read_cached(&self, ino: InodeNo, offset: u64, size: u32) -> Result<Option<Bytes>, FsError> {
        let part = Self::part(self.content(ino)?, offset, size);
        let mut bytes = vec![0; part.len() as usize];
        let there = self.spans.read_cached(part, &mut bytes).map_err(FsError::Content)?;
        Ok(there.then(|| bytes.into()))
    }

    /// Reads from a file, waiting for what is not cached.
    pub async fn read(&self, ino: InodeNo, offset: u64, size: u32) -> Result<Bytes, FsError> {
        let content = self.content(ino)?;
        let part = Self::part(content, offset, size);
        Ok(self.spans.read(part, content).await.map_err(FsError::Content)?.into())
    }

    /// The layer's spans.
    pub const fn spans(&self) -> &Arc<SpanManager> {
        &self.spans
    }

    /// For `statfs`: bytes of the plain tar, bytes that its cache may still take, inodes.
    pub fn totals(&self) -> (u64, u64, u64) {
        (self.ztoc.uncompressed_size(), self.spans.cache().space(), self.tree.len() as u64)
    }
}

/// The numbers of all inodes of a tree; those that no name leads to have no links.
pub(crate) fn inodes(tree: &LayerTree) -> impl Iterator<Item = InodeNo> + use<> {
    (0..tree.len() as u32).map(InodeNo::of)
}
