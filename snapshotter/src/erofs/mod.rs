//! A layer as the kernel's own read-only file system: an EROFS image whose names and attributes are made here, from the
//! layer's tree, and whose content is the layer's, wherever it is.
//!
//! The kernel mounts the image from a file; that file is served by FUSE ([`device`]). So the kernel answers by itself all that
//! is asked of names and attributes, and comes to us for content only. An [`Image`] never changes, and the same tree gives the
//! same image. Nothing of it is taken over from a registry unseen: it is written from what [`LayerFs`] shows.
//!
//! The image: superblock; inodes, each with its extended attributes, small directories and link targets right behind it; the
//! blocks of what is not small; from [`Image::content_start`] on the content of all regular files, each from the beginning
//! of a block on, in the order of their inode numbers.

pub(crate) mod device;
mod format;
pub(crate) mod mount;

use std::ops::Range;

use crate::fs::attr::{Attr, Kind};
use crate::fs::error::FsError;
use crate::fs::{InodeNo, LayerFs};
use format::{BLOCK, DIRENT_SIZE, Data, INODE_SIZE, SLOT, SUPERBLOCK, SUPERBLOCK_SIZE};

/// Why a layer has no image.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    /// It has more blocks than the format can count.
    #[error("the layer's files have more than {} blocks", u32::MAX)]
    TooManyBlocks,
    /// An inode has more, or longer, extended attributes than the format has room for.
    #[error("extended attributes of inode {} do not fit", .0.0)]
    Attributes(InodeNo),
    /// The tree does not answer.
    #[error("the layer's tree cannot be read")]
    Tree(#[from] FsError),
}

/// A layer's image, without the content.
#[derive(Debug)]
pub(crate) struct Image {
    /// Everything before the content; whole blocks.
    metadata: Box<[u8]>,
    /// For each inode the block where its content begins, and one for the end of all.
    starts: Box<[u32]>,
}

/// One inode on its way into the image.
struct PlannedInode<'a> {
    attr: Attr,
    attributes: Vec<u8>,
    body: Body<'a>,
    /// Bytes of the body.
    size: u64,
    /// Where the inode begins.
    place: u64,
    data: Data,
}

/// What the image has of an inode's data.
enum Body<'a> {
    /// Nothing: it is content, or there is none.
    None,
    Target(&'a [u8]),
    Directory(Directory<'a>),
}

/// The names of a directory in order, and which of them are in each block.
struct Directory<'a> {
    names: Vec<(&'a [u8], InodeNo)>,
    blocks: Vec<Range<usize>>,
}

impl Image {
    /// The image of what a mount of the layer shows, with `gap` bytes before the first inode: a multiple of the unit in which
    /// inodes are counted.
    pub(crate) fn of(fs: &LayerFs, gap: u64) -> Result<Self, ImageError> {
        let mut nodes: Vec<Option<PlannedInode<'_>>> = Vec::new();
        for ino in fs.inodes() {
            let attr = fs.attr(ino)?;
            // What a later entry of the layer has replaced has no name any more.
            nodes.push(if attr.nlink > 0 { Some(PlannedInode::of(fs, attr)?) } else { None });
        }
        let mut end = (SUPERBLOCK + SUPERBLOCK_SIZE as u64 + gap).next_multiple_of(SLOT);
        for node in nodes.iter_mut().flatten() {
            end = node.put(end);
        }
        let mut block = block_number(end.div_ceil(BLOCK))?;
        for node in nodes.iter_mut().flatten().filter(|node| node.needs_blocks()) {
            node.data = Data::Blocks(block);
            block = block_number(u64::from(block) + node.size.div_ceil(BLOCK))?;
        }
        let content = block;
        let mut starts = Vec::with_capacity(nodes.len() + 1);
        for node in &mut nodes {
            starts.push(block);
            let Some(node) = node.as_mut().filter(|node| node.attr.kind == Kind::Regular) else { continue };
            if node.attr.size > 0 {
                node.data = Data::Blocks(block);
                block = block_number(u64::from(block).saturating_add(node.attr.size.div_ceil(BLOCK)))?;
            }
        }
        starts.push(block);
        let metadata = write(&nodes, content, block).into_boxed_slice();
        Ok(Self { metadata, starts: starts.into_boxed_slice() })
    }

    /// Bytes of the image, content included.
    pub(crate) fn size(&self) -> u64 {
        self.starts.last().map_or(0, |end| u64::from(*end) * BLOCK)
    }

    /// Everything before the content.
    pub(crate) const fn metadata(&self) -> &[u8] {
        &self.metadata
    }

    /// Where the content begins.
    pub(crate) const fn content_start(&self) -> u64 {
        self.metadata.len() as u64
    }

    /// Where the content of a regular file begins; `None` for what has none here, such as a file without a name.
    pub(crate) fn place(&self, ino: InodeNo) -> Option<u64> {
        let index = usize::try_from(ino.0.checked_sub(1)?).ok()?;
        let (start, end) = (self.starts.get(index)?, self.starts.get(index + 1)?);
        (start < end).then_some(u64::from(*start) * BLOCK)
    }

    /// Which file's content lies at `offset`, which is in the content, and from where to where.
    fn file_at(&self, offset: u64) -> Option<(InodeNo, Range<u64>)> {
        let block = u32::try_from(offset / BLOCK).ok()?;
        // Of files that begin in the same block all but the last are empty.
        let behind = self.starts.partition_point(|start| *start <= block);
        let (start, end) = (self.starts.get(behind.checked_sub(1)?)?, self.starts.get(behind)?);
        Some((InodeNo(behind as u64), u64::from(*start) * BLOCK..u64::from(*end) * BLOCK))
    }
}

fn block_number(number: u64) -> Result<u32, ImageError> {
    u32::try_from(number).ok().filter(|number| *number < u32::MAX).ok_or(ImageError::TooManyBlocks)
}

impl<'a> PlannedInode<'a> {
    fn of(fs: &'a LayerFs, attr: Attr) -> Result<Self, ImageError> {
        let attributes = format::attributes(fs.xattrs(attr.ino)?).ok_or(ImageError::Attributes(attr.ino))?;
        let body = match attr.kind {
            Kind::Symlink => Body::Target(fs.readlink(attr.ino)?),
            Kind::Directory => {
                Body::Directory(Directory::of(fs.list(attr.ino, 0)?.map(|entry| (entry.name, entry.ino))))
            }
            _ => Body::None,
        };
        let size = match &body {
            Body::None => 0,
            Body::Target(target) => target.len() as u64,
            Body::Directory(directory) => directory.size(),
        };
        Ok(Self { attr, attributes, body, size, place: 0, data: Data::None })
    }

    /// Gives the inode its place at `at` or soon behind it, and its data a place behind it if there is room. Where it ends.
    fn put(&mut self, at: u64) -> u64 {
        let head = INODE_SIZE + self.attributes.len() as u64;
        let whole = head + self.size;
        self.place = at;
        if self.size > 0 && whole <= BLOCK {
            // Inline data must not cross the end of a block.
            if at % BLOCK + whole > BLOCK {
                self.place = at.next_multiple_of(BLOCK);
            }
            self.data = Data::Inline;
        }
        let end = self.place + if self.data == Data::Inline { whole } else { head };
        end.next_multiple_of(SLOT)
    }

    fn needs_blocks(&self) -> bool {
        self.size > 0 && self.data == Data::None
    }

    fn number(&self) -> u64 {
        self.place / SLOT
    }
}

impl<'a> Directory<'a> {
    /// Of the names, with `.` and `..`.
    fn of(names: impl Iterator<Item = (&'a [u8], InodeNo)>) -> Self {
        let mut names: Vec<_> = names.collect();
        names.sort_unstable_by_key(|(name, _)| *name);
        let mut blocks: Vec<Range<usize>> = Vec::new();
        let mut room = 0;
        for (at, (name, _)) in names.iter().enumerate() {
            let needs = DIRENT_SIZE + name.len();
            if let Some(block) = blocks.last_mut().filter(|_| needs <= room) {
                block.end = at + 1;
            } else {
                blocks.push(at..at + 1);
                room = BLOCK as usize;
            }
            room -= needs;
        }
        Self { names, blocks }
    }

    /// Bytes: whole blocks, but for the last.
    fn size(&self) -> u64 {
        let Some((last, full)) = self.blocks.split_last() else { return 0 };
        let used: usize = self.names[last.clone()].iter().map(|(name, _)| DIRENT_SIZE + name.len()).sum();
        full.len() as u64 * BLOCK + used as u64
    }
}

/// Writes what is placed: all blocks before block `content` of an image of `blocks` blocks.
fn write(nodes: &[Option<PlannedInode<'_>>], content: u32, blocks: u32) -> Vec<u8> {
    let mut out = vec![0; SUPERBLOCK as usize];
    let number = |ino: InodeNo| nodes[ino.0 as usize - 1].as_ref().map_or(0, PlannedInode::number);
    let root = u16::try_from(number(InodeNo::ROOT)).unwrap_or(0);
    out.extend(format::superblock(root, nodes.iter().flatten().count() as u64, blocks));
    for node in nodes.iter().flatten() {
        out.resize(node.place as usize, 0);
        let size = if node.attr.kind == Kind::Regular { node.attr.size } else { node.size };
        format::inode(&mut out, &node.attr, size, node.data, &node.attributes);
        if node.data == Data::Inline {
            node.write_body(nodes, &mut out);
        }
    }
    for node in nodes.iter().flatten().filter(|node| node.attr.kind != Kind::Regular) {
        if let Data::Blocks(first) = node.data {
            out.resize(first as usize * BLOCK as usize, 0);
            node.write_body(nodes, &mut out);
        }
    }
    out.resize(content as usize * BLOCK as usize, 0);
    out
}

impl PlannedInode<'_> {
    fn write_body(&self, nodes: &[Option<PlannedInode<'_>>], out: &mut Vec<u8>) {
        match &self.body {
            Body::None => {}
            Body::Target(target) => out.extend(*target),
            Body::Directory(directory) => {
                for (at, block) in directory.blocks.iter().enumerate() {
                    if at > 0 {
                        out.resize(out.len().next_multiple_of(BLOCK as usize), 0);
                    }
                    let of = |(name, ino): &(_, InodeNo)| {
                        let node = nodes[ino.0 as usize - 1].as_ref()?;
                        Some((*name, node.number(), node.attr.kind))
                    };
                    let names: Vec<_> = directory.names[block.clone()].iter().filter_map(of).collect();
                    format::directory_block(out, &names);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_the_content_is_one_file() {
        // Of five inodes the second has two blocks and the fourth three; the others have no content.
        let image = Image { metadata: vec![0; 2 * 4096].into(), starts: [2, 2, 4, 4, 7, 7].into() };
        assert_eq!((image.content_start(), image.size()), (2 * 4096, 7 * 4096));
        for (offset, file) in [
            (2 * 4096, Some((2, 2..4))),
            (4 * 4096 - 1, Some((2, 2..4))),
            (4 * 4096, Some((4, 4..7))),
            (7 * 4096 - 1, Some((4, 4..7))),
            (7 * 4096, None),
        ] {
            let want = file.map(|(ino, blocks)| (InodeNo(ino), blocks.start * 4096..blocks.end * 4096));
            assert_eq!(image.file_at(offset), want, "{offset}");
        }
        assert_eq!(image.place(InodeNo(4)), Some(4 * 4096));
        for nothing in [0, 1, 3, 5, 6] {
            assert_eq!(image.place(InodeNo(nothing)), None, "{nothing}: bytes of it would be another file's");
        }
    }

    #[test]
    fn names_fill_blocks_and_do_not_cross_them() {
        let long = [b'n'; 255];
        // 27 bytes of dots; a name of 255 bytes and its entry are 267: fifteen of them fit into the first block.
        for (names, blocks, size) in [(0, 1, 27), (15, 1, 27 + 15 * 267), (16, 2, 4096 + 267)] {
            let dots = [(&b"."[..], InodeNo(1)), (&b".."[..], InodeNo(1))];
            let all = dots.into_iter().chain(std::iter::repeat_n((&long[..], InodeNo(2)), names));
            let directory = Directory::of(all);
            assert_eq!((directory.blocks.len(), directory.size()), (blocks, size), "{names}");
        }
    }
}
