//! Whiteout names of image layers, and their form in an overlayfs layer directory.
//!
//! `.wh.NAME` hides NAME of the layers below; `.wh..wh..opq` hides everything of the directory that lies below; any
//! other `.wh..wh.` name is bookkeeping of aufs. A whiteout speaks about the layers below only: an entry of the same
//! name in the same layer stays visible, whichever of the two comes first in the archive.

/// Prefix of every whiteout's base name.
const PREFIX: &[u8] = b".wh.";
/// Prefix of names that aufs used for itself.
const AUFS_PREFIX: &[u8] = b".wh..wh.";
/// The base name that makes a directory opaque.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What becomes of whiteouts when a layer is written to a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whiteouts {
    /// The form of overlayfs: a character device 0:0, and the xattr `trusted.overlay.opaque` (`user.overlay.opaque`
    /// where the mount has the option `userxattr`).
    Overlay {
        /// The overlay will be mounted with `userxattr`.
        userxattr: bool,
    },
}

impl Default for Whiteouts {
    fn default() -> Self {
        Self::Overlay { userxattr: false }
    }
}

impl Whiteouts {
    /// The xattr that marks a directory as opaque; its value is `y`.
    pub(super) fn opaque_xattr(self) -> &'static str {
        match self {
            Self::Overlay { userxattr: false } => "trusted.overlay.opaque",
            Self::Overlay { userxattr: true } => "user.overlay.opaque",
        }
    }
}

/// What a base name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whiteout<'a> {
    /// Not a whiteout.
    No,
    /// This name of the layers below is hidden.
    Name(&'a [u8]),
    /// The directory is opaque.
    Opaque,
    /// Bookkeeping of aufs: ignored.
    Aufs,
}

impl<'a> Whiteout<'a> {
    /// Reads a base name (no slashes).
    pub fn of(base: &'a [u8]) -> Self {
        if base == OPAQUE {
            Self::Opaque
        } else if base.starts_with(AUFS_PREFIX) {
            Self::Aufs
        } else if let Some(hidden) = base.strip_prefix(PREFIX) {
            Self::Name(hidden)
        } else {
            Self::No
        }
    }
}
