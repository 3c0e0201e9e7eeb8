//! One file of a zTOC.
//!
//! Owns slices of the zTOC's bytes. Invariant (established by `verify`): for a regular file,
//! `header_offset + 512 <= content_offset` and `content_offset + size` is within the archive.

use bytes::Bytes;

use crate::tar::{EntryKind, Mtime, XATTR_PREFIX};
use crate::units::ByteRange;

/// One tar entry as the zTOC records it. Texts are raw bytes and may be no UTF-8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Name as in the tar: `./` kept, trailing `/` of directories kept, may be absolute or hold `..`; no NUL.
    pub name: Bytes,
    /// Kind of the entry.
    pub kind: EntryKind,
    /// Offset of the tar header (with its PAX and GNU companions), in uncompressed bytes.
    pub header_offset: u64,
    /// Offset of the content, in uncompressed bytes.
    pub content_offset: u64,
    /// Size field in bytes, as recorded; only regular files have that many bytes of content.
    pub size: u64,
    /// Target of a hard or symbolic link, as recorded; no NUL.
    pub link_name: Bytes,
    /// Raw mode number; use the low 12 bits. The file type is `kind`.
    pub mode: u32,
    /// Owner's number.
    pub uid: u32,
    /// Group's number.
    pub gid: u32,
    /// Owner's name.
    pub uname: Bytes,
    /// Group's name.
    pub gname: Bytes,
    /// Modification time.
    pub mtime: Mtime,
    /// Major device number.
    pub dev_major: u32,
    /// Minor device number.
    pub dev_minor: u32,
    /// All raw PAX records, in the order of the zTOC (sorted by key when an honest tool wrote it).
    pub xattrs: Vec<(Bytes, Bytes)>,
}

impl FileEntry {
    /// Extended attributes: (name without the `SCHILY.xattr.` prefix, value). Of equal names the last one counts.
    pub fn xattrs_schily(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.xattrs.iter().filter_map(|(key, value)| Some((key.strip_prefix(XATTR_PREFIX)?, value.as_ref())))
    }

    /// Where the content lies in the uncompressed archive; empty for everything but regular files.
    pub fn content_range(&self) -> ByteRange {
        let size = if self.kind == EntryKind::Reg { self.size } else { 0 };
        ByteRange::new(self.content_offset, self.content_offset.saturating_add(size))
    }
}
