//! One tar entry as Go's `archive/tar` reports it, with the offset of its content.
//!
//! Owns no state. Invariant: names, link names and records are the raw bytes of the archive, not cleaned
//! and not necessarily UTF-8.

use std::collections::BTreeMap;
use std::fmt;

use super::TarError;

/// Prefix of the PAX records that hold extended attributes.
pub const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// What an entry is; the seven kinds that a zTOC can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EntryKind {
    /// Regular file, the only kind with content in the archive.
    Reg,
    /// Another name of an earlier file; `link_name` is that file's name.
    HardLink,
    /// Symbolic link to `link_name`.
    Symlink,
    /// Character device.
    Char,
    /// Block device.
    Block,
    /// Directory.
    Dir,
    /// Named pipe.
    Fifo,
}

impl EntryKind {
    /// The word a zTOC uses for this kind.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reg => "reg",
            Self::HardLink => "hardlink",
            Self::Symlink => "symlink",
            Self::Char => "char",
            Self::Block => "block",
            Self::Dir => "dir",
            Self::Fifo => "fifo",
        }
    }

    /// The kind a zTOC means by `word`.
    pub fn from_word(word: &[u8]) -> Option<Self> {
        [Self::Reg, Self::HardLink, Self::Symlink, Self::Char, Self::Block, Self::Dir, Self::Fifo]
            .into_iter()
            .find(|kind| kind.as_str().as_bytes() == word)
    }
}

impl fmt::Display for EntryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What makes an entry one that a zTOC cannot describe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Special {
    /// A GNU sparse file: [`Entry::size`] is the length of the file, of which the archive stores less.
    Sparse,
    /// A file with the type `7`, in one piece on disk where that is possible; else a regular file.
    Contiguous,
    /// PAX records for all entries that follow. Go ignores them, and so does every unpacker that uses it.
    Global,
    /// A type that neither POSIX nor Go knows a meaning for.
    Other(u8),
}

impl Special {
    /// The error of a receiver that cannot take such an entry.
    pub fn refused(self, entry: &Entry) -> TarError {
        let name = String::from_utf8_lossy(&entry.name).into_owned();
        let typeflag = match self {
            Self::Sparse => return TarError::Sparse { name },
            Self::Contiguous => b'7',
            Self::Global => b'g',
            Self::Other(letter) => letter,
        };
        TarError::Unsupported { typeflag: char::from(typeflag), name }
    }
}

/// Modification time: seconds since 1970-01-01T00:00:00Z (may be negative) plus 0..=999_999_999 nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Mtime {
    /// Whole seconds, rounded towards the past.
    pub secs: i64,
    /// Nanoseconds to add, never negative.
    pub nanos: i32,
}

/// One entry of a tar archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name as recorded: `./` kept, the trailing `/` of directories kept, may be absolute or hold `..`.
    pub name: Vec<u8>,
    /// Kind of the entry.
    pub kind: EntryKind,
    /// Offset of the content (the byte after the header and all its companions) in the archive.
    pub content_offset: u64,
    /// Size field in bytes, as recorded even for kinds without content.
    pub size: u64,
    /// Target of a hard or symbolic link, as recorded.
    pub link_name: Vec<u8>,
    /// Raw mode number; the permission bits are the low 12.
    pub mode: i64,
    /// Owner's number.
    pub uid: i64,
    /// Group's number.
    pub gid: i64,
    /// Owner's name.
    pub uname: Vec<u8>,
    /// Group's name.
    pub gname: Vec<u8>,
    /// Modification time.
    pub mtime: Mtime,
    /// Major device number, as recorded also for kinds that are no devices.
    pub dev_major: i64,
    /// Minor device number, likewise.
    pub dev_minor: i64,
    /// All PAX records of the entry's `x` header; the last of equal keys wins.
    pub pax: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Entry {
    /// Extended attributes: (name without the `SCHILY.xattr.` prefix, value).
    pub fn xattrs(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.pax.iter().filter_map(|(key, value)| Some((key.strip_prefix(XATTR_PREFIX)?, value.as_slice())))
    }
}
