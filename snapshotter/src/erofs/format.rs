//! The bytes of an EROFS image: superblock, inodes, extended attributes, directory blocks.
//!
//! Only what a layer needs of the format (Linux, fs/erofs/erofs_fs.h): blocks of 4 KiB, extended inodes, plain and inline
//! data, no compression. Pure: numbers in, little-endian bytes out.

use crate::fs::attr::{Attr, Kind};

/// Bytes of a block.
pub(super) const BLOCK: u64 = 4096;
/// An inode begins at a multiple of this; its number is the place divided by it.
pub(super) const SLOT: u64 = 32;
/// Where the superblock is.
pub(super) const SUPERBLOCK: u64 = 1024;
/// Bytes of the superblock.
pub(super) const SUPERBLOCK_SIZE: usize = 128;
/// Bytes of an inode without its attributes and inline data.
pub(super) const INODE_SIZE: u64 = 64;
/// Bytes of a directory entry without its name.
pub(super) const DIRENT_SIZE: usize = 12;

const MAGIC: u32 = 0xE0F5_E1E2;
/// Inodes have times of their own.
const COMPAT_MTIME: u32 = 2;
/// `i_format`: an extended inode whose data is in blocks, or right behind the inode.
const EXTENDED_PLAIN: u16 = 1;
const EXTENDED_INLINE: u16 = 1 | 2 << 1;
/// An inode without blocks.
const NO_BLOCK: u32 = u32::MAX;

/// Where the data of an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Data {
    /// There is none.
    None,
    /// Behind the inode and its attributes.
    Inline,
    /// From this block on.
    Blocks(u32),
}

/// The superblock of an image of this many blocks; inode numbers count from the image's beginning.
pub(super) fn superblock(root: u16, inodes: u64, blocks: u32) -> [u8; SUPERBLOCK_SIZE] {
    let mut block = [0; SUPERBLOCK_SIZE];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &MAGIC.to_le_bytes());
    put(8, &COMPAT_MTIME.to_le_bytes());
    put(12, &[BLOCK.trailing_zeros() as u8]);
    put(14, &root.to_le_bytes());
    put(16, &inodes.to_le_bytes());
    put(36, &blocks.to_le_bytes());
    block
}

/// Appends an inode. `size` is that of its data; `attributes` those of [`attributes`].
pub(super) fn inode(out: &mut Vec<u8>, attr: &Attr, size: u64, data: Data, attributes: &[u8]) {
    let (format, place) = match data {
        Data::None => (EXTENDED_PLAIN, NO_BLOCK),
        Data::Inline => (EXTENDED_INLINE, NO_BLOCK),
        Data::Blocks(first) => (EXTENDED_PLAIN, first),
    };
    let place = if matches!(attr.kind, Kind::Char | Kind::Block) { attr.rdev() } else { place };
    out.extend(format.to_le_bytes());
    out.extend(attribute_count(attributes.len()).to_le_bytes());
    out.extend((mode(attr.kind) | attr.perm).to_le_bytes());
    out.extend([0; 2]);
    out.extend(size.to_le_bytes());
    out.extend(place.to_le_bytes());
    out.extend((attr.ino.0 as u32).to_le_bytes());
    out.extend(attr.uid.to_le_bytes());
    out.extend(attr.gid.to_le_bytes());
    out.extend(attr.mtime.secs.to_le_bytes());
    out.extend(attr.mtime.nanos.to_le_bytes());
    out.extend(attr.nlink.to_le_bytes());
    out.extend([0; 16]);
    out.extend(attributes);
}

/// Bytes of the header of attributes, and the unit in which the rest is counted.
const ATTRIBUTES_HEADER: usize = 12;
const ATTRIBUTES_UNIT: usize = 4;
/// What an inode's attributes may take at most: their count has 16 bits.
pub(super) const MAX_ATTRIBUTES: usize = ATTRIBUTES_HEADER + ATTRIBUTES_UNIT * (u16::MAX as usize - 1);

fn attribute_count(bytes: usize) -> u16 {
    match bytes {
        0 => 0,
        bytes => (1 + bytes.saturating_sub(ATTRIBUTES_HEADER) / ATTRIBUTES_UNIT) as u16,
    }
}

/// The attributes of an inode as they stand behind it. Those whose name begins as no attribute of Linux does have no
/// place in the format, nor on any other file system. `None`: one is too long.
pub(super) fn attributes<'a>(all: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    for (name, value) in all {
        let Some((prefix, rest)) = prefix(name) else { continue };
        if out.is_empty() {
            out.resize(ATTRIBUTES_HEADER, 0);
        }
        out.push(u8::try_from(rest.len()).ok()?);
        out.push(prefix);
        out.extend(u16::try_from(value.len()).ok()?.to_le_bytes());
        out.extend(rest);
        out.extend(value);
        out.resize(out.len().next_multiple_of(ATTRIBUTES_UNIT), 0);
    }
    (out.len() <= MAX_ATTRIBUTES).then_some(out)
}

/// Number of a name's prefix, and the rest of the name.
fn prefix(name: &[u8]) -> Option<(u8, &[u8])> {
    const ACCESS: &[u8] = b"system.posix_acl_access";
    const DEFAULT: &[u8] = b"system.posix_acl_default";
    match name {
        ACCESS => Some((2, b"")),
        DEFAULT => Some((3, b"")),
        _ => [(1, &b"user."[..]), (4, b"trusted."), (6, b"security.")]
            .into_iter()
            .find_map(|(number, prefix)| Some((number, name.strip_prefix(prefix)?)))
            .filter(|(_, rest)| !rest.is_empty()),
    }
}

/// Appends one block of a directory, without what would fill it up: names in order, each with its inode's number and kind.
pub(super) fn directory_block(out: &mut Vec<u8>, names: &[(&[u8], u64, Kind)]) {
    let mut at = names.len() * DIRENT_SIZE;
    for (name, number, kind) in names {
        out.extend(number.to_le_bytes());
        out.extend((at as u16).to_le_bytes());
        out.extend([file_type(*kind), 0]);
        at += name.len();
    }
    for (name, ..) in names {
        out.extend(*name);
    }
}

const fn mode(kind: Kind) -> u16 {
    match kind {
        Kind::Regular => 0o100_000,
        Kind::Directory => 0o040_000,
        Kind::Symlink => 0o120_000,
        Kind::Char => 0o020_000,
        Kind::Block => 0o060_000,
        Kind::Fifo => 0o010_000,
    }
}

const fn file_type(kind: Kind) -> u8 {
    match kind {
        Kind::Regular => 1,
        Kind::Directory => 2,
        Kind::Char => 3,
        Kind::Block => 4,
        Kind::Fifo => 5,
        Kind::Symlink => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::InodeNo;

    #[test]
    fn sizes_are_those_of_the_format() {
        let mut out = Vec::new();
        inode(&mut out, &Attr::implied_directory(InodeNo(1), 2), 0, Data::None, &[]);
        assert_eq!(out.len() as u64, INODE_SIZE);
        let attributes = attributes([(&b"user.a"[..], &b"12"[..])].into_iter()).unwrap();
        assert_eq!(attributes[12..], *b"\x01\x01\x02\0a12\0");
        assert_eq!(attribute_count(attributes.len()), 3);
        assert_eq!(attribute_count(MAX_ATTRIBUTES), u16::MAX);
    }

    #[test]
    fn attributes_without_a_place_are_left_out_and_long_ones_refused() {
        let of = |name: &str, value: &[u8]| attributes([(name.as_bytes(), value)].into_iter());
        assert_eq!(of("user.", b"x"), Some(vec![]));
        assert_eq!(of("com.example", b"x"), Some(vec![]));
        assert_eq!(of("system.posix_acl_access", b"x").unwrap()[12..14], [0, 2]);
        assert!(of("trusted.overlay.opaque", &vec![0; 65_535]).is_some());
        assert_eq!(of("user.long", &vec![0; 65_536]), None);
        assert_eq!(of(&format!("user.{}", "n".repeat(256)), b""), None);
    }
}
