//! A read-only file system over one layer: what FUSE asks, answered in terms of the zTOC and its spans.
//!
//! No FUSE types here, so that another transport can come beside. [`LayerFs`] owns nothing that changes: the tree
//! ([`tree`]) is fixed, content comes from the layer's [`SpanManager`]. All answers but content are from memory.

pub mod attr;
pub mod error;
pub mod places;
mod tree;
pub mod whiteout;
pub mod xattr;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use soci_core::units::ByteRange;
use soci_core::ztoc::{FileEntry, Ztoc};

use crate::span::SpanManager;
use attr::{Attr, Kind};
use error::FsError;
pub use tree::Tree;
use tree::{Inode, Origin};
use xattr::OpaqueMark;

/// Number of an inode; the root is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InodeNo(pub u64);

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
    tree: Arc<Tree>,
    spans: Arc<SpanManager>,
    opaque: OpaqueMark,
    xattrs: bool,
}

impl LayerFs {
    /// The file system of a layer; `opaque` as the overlay above it is mounted.
    pub fn new(tree: Arc<Tree>, spans: Arc<SpanManager>, opaque: OpaqueMark) -> Self {
        let ztoc = spans.ztoc().clone();
        let xattrs =
            tree.has_opaque() || ztoc.files().iter().any(|file| file.xattrs_schily().next().is_some());
        Self { ztoc, tree, spans, opaque, xattrs }
    }

    /// Whether a file of the layer has a POSIX ACL.
    pub fn has_acls(&self) -> bool {
        let mut names = self.ztoc.files().iter().flat_map(FileEntry::xattrs_schily).map(|(name, _)| name);
        self.xattrs && names.any(|name| name.starts_with(b"system.posix_acl_"))
    }

    fn inode(&self, ino: InodeNo) -> Result<&Inode, FsError> {
        self.tree.inode(ino).ok_or(FsError::NotFound)
    }

    fn directory(&self, ino: InodeNo) -> Result<&Inode, FsError> {
        let inode = self.inode(ino)?;
        if self.attr(ino)?.kind == Kind::Directory { Ok(inode) } else { Err(FsError::NotDirectory) }
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
        let files = self.ztoc.files();
        Ok(match inode.origin {
            Origin::Implied => Attr::implied_directory(ino, inode.nlink),
            Origin::Entry(entry) => {
                Attr::of_entry(ino, inode.nlink, files.get(entry as usize).ok_or(FsError::NotFound)?)
            }
            Origin::Whiteout(entry) => {
                Attr::whiteout(ino, files.get(entry as usize).ok_or(FsError::NotFound)?)
            }
        })
    }

    /// What `parent` has under `name`.
    pub fn lookup(&self, parent: InodeNo, name: &[u8]) -> Result<Attr, FsError> {
        let directory = self.directory(parent)?;
        self.attr(self.tree.child(self.ztoc.files(), directory, name).ok_or(FsError::NotFound)?)
    }

    /// Target of a symbolic link, as recorded.
    pub fn readlink(&self, ino: InodeNo) -> Result<&[u8], FsError> {
        let entry = self.entry(self.inode(ino)?).filter(|entry| Kind::of(entry.kind) == Kind::Symlink);
        Ok(entry.ok_or(FsError::WrongKind)?.link_name.as_ref())
    }

    /// The names of a directory from place `from` on (0 for the start), `.` and `..` first, then sorted by name.
    pub fn list(&self, ino: InodeNo, from: u64) -> Result<impl Iterator<Item = DirEntry<'_>>, FsError> {
        let directory = self.directory(ino)?;
        let dots = [(&b"."[..], ino), (&b".."[..], self.tree.parent(ino))];
        let skip = usize::try_from(from).unwrap_or(usize::MAX);
        let rest = self.tree.list(self.ztoc.files(), directory, skip.saturating_sub(dots.len()));
        let named = dots.into_iter().skip(skip).chain(rest);
        Ok((from..).zip(named).map(|(at, (name, ino))| DirEntry { name, ino, next: at + 1 }))
    }

    /// The numbers of all inodes; those that no name leads to have no links.
    pub(crate) fn inodes(&self) -> impl Iterator<Item = InodeNo> + use<> {
        self.tree.inodes()
    }

    /// Names and values of all extended attributes.
    pub(crate) fn xattrs(&self, ino: InodeNo) -> Result<impl Iterator<Item = (&[u8], &[u8])>, FsError> {
        let inode = self.inode(ino)?;
        Ok(xattr::all(self.entry(inode), inode.opaque.then_some(self.opaque)))
    }

    /// Value of one extended attribute.
    pub fn xattr(&self, ino: InodeNo, name: &[u8]) -> Result<&[u8], FsError> {
        let (entry, opaque) = self.xattr_sources(ino)?;
        xattr::value(entry, opaque, name)
    }

    /// Names of the extended attributes, each with a NUL after it.
    pub fn xattr_names(&self, ino: InodeNo) -> Result<Vec<u8>, FsError> {
        let (entry, opaque) = self.xattr_sources(ino)?;
        Ok(xattr::names(entry, opaque))
    }

    /// `NoAttributes` when nothing in the layer has any: the kernel then stops asking.
    fn xattr_sources(&self, ino: InodeNo) -> Result<(Option<&FileEntry>, Option<OpaqueMark>), FsError> {
        if !self.xattrs {
            return Err(FsError::NoAttributes);
        }
        let inode = self.inode(ino)?;
        Ok((self.entry(inode), inode.opaque.then_some(self.opaque)))
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

    /// Bytes and inodes, for `statfs`: (bytes of the plain tar, inodes).
    pub fn totals(&self) -> (u64, u64) {
        (self.ztoc.uncompressed_size(), self.tree.len() as u64)
    }
}
