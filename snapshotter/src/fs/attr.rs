//! Attributes of an inode, as numbers of Linux.
//!
//! Made from a zTOC entry (or from nothing, for directories that the layer implies). The kind of the file comes from the
//! entry's kind only, never from its mode bits.

use soci_core::tar::{EntryKind, Mtime};
use soci_core::tree;
use soci_core::unpack::DirectoryAttributes;
use soci_core::ztoc::FileEntry;

use super::InodeNo;

/// Kind of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Regular file.
    Regular,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Character device; also a whiteout, with device number 0:0.
    Char,
    /// Block device.
    Block,
    /// Named pipe.
    Fifo,
}

impl Kind {
    /// The kind of a tar entry. A hard link has its target's kind; this is only its own default.
    pub const fn of(kind: EntryKind) -> Self {
        match kind {
            EntryKind::Reg | EntryKind::HardLink => Self::Regular,
            EntryKind::Symlink => Self::Symlink,
            EntryKind::Char => Self::Char,
            EntryKind::Block => Self::Block,
            EntryKind::Dir => Self::Directory,
            EntryKind::Fifo => Self::Fifo,
        }
    }
}

/// Attributes of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Inode number, from 1 for the root.
    pub ino: InodeNo,
    /// Kind.
    pub kind: Kind,
    /// Permission, set-id and sticky bits (07777).
    pub perm: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes; of a symbolic link, the length of its target.
    pub size: u64,
    /// Names that the inode has; of a directory, 2 and one for each directory in it.
    pub nlink: u32,
    /// Major and minor device number.
    pub device: (u32, u32),
    /// Time of last modification.
    pub mtime: Mtime,
}

impl Attr {
    /// Attributes of a directory that no entry describes: 0755, root's, without a time.
    pub const fn implied_directory(ino: InodeNo, nlink: u32) -> Self {
        Self {
            ino,
            kind: Kind::Directory,
            perm: tree::ROOT_MODE,
            uid: 0,
            gid: 0,
            size: 0,
            nlink,
            device: (0, 0),
            mtime: Mtime { secs: 0, nanos: 0 },
        }
    }

    /// The same with what the layers below say.
    #[must_use]
    pub const fn described_by(self, found: &DirectoryAttributes) -> Self {
        let (perm, uid, gid, mtime) = (found.permissions, found.uid, found.gid, found.mtime);
        Self { perm, uid, gid, mtime, ..self }
    }

    /// Attributes of what an entry is. `said` is the entry that describes it: itself, or a hard link to it.
    pub fn of_entry(ino: InodeNo, nlink: u32, entry: &FileEntry, said: &FileEntry) -> Self {
        let kind = Kind::of(entry.kind);
        Self {
            ino,
            kind,
            perm: tree::permissions(entry.kind, said.mode.into()),
            uid: tree::owner(said.uid.into()),
            gid: tree::owner(said.gid.into()),
            size: match kind {
                Kind::Regular => entry.size,
                Kind::Symlink => entry.link_name.len() as u64,
                _ => 0,
            },
            nlink,
            device: match kind {
                Kind::Char | Kind::Block => (entry.dev_major, entry.dev_minor),
                _ => (0, 0),
            },
            mtime: tree::mtime(said.mtime),
        }
    }

    /// Attributes of a whiteout: a character device 0:0 with the time of its marker.
    pub fn whiteout(ino: InodeNo, marker: &FileEntry) -> Self {
        Self { kind: Kind::Char, perm: 0, nlink: 1, mtime: marker.mtime, ..Self::implied_directory(ino, 1) }
    }

    /// 512-byte blocks, counted in whole pages.
    pub const fn blocks(&self) -> u64 {
        self.size.div_ceil(4096).saturating_mul(8)
    }

    /// The device number as FUSE wants it (the kernel's 32-bit form).
    pub const fn rdev(&self) -> u32 {
        let (major, minor) = self.device;
        (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & !0xff) << 12)
    }
}
