//! Extended attributes of an inode: those of its entry, and the opaque mark of overlayfs.
//!
//! Attributes in overlayfs's own name spaces that a layer's tar brings along are not shown: an image says such things by
//! whiteout names, and a hostile layer must not speak to overlayfs.

use soci_core::ztoc::FileEntry;

use super::error::FsError;
use super::whiteout::{OPAQUE_TRUSTED, OPAQUE_USER, OPAQUE_VALUE};

/// Which attribute marks an opaque directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OpaqueMark {
    /// `trusted.overlay.opaque`
    #[default]
    Trusted,
    /// `user.overlay.opaque`, for overlayfs mounted with `userxattr`.
    User,
}

impl OpaqueMark {
    const fn name(self) -> &'static [u8] {
        match self {
            Self::Trusted => OPAQUE_TRUSTED,
            Self::User => OPAQUE_USER,
        }
    }
}

/// The names and values of an inode's attributes.
pub(super) fn all(
    entry: Option<&FileEntry>,
    opaque: Option<OpaqueMark>,
) -> impl Iterator<Item = (&[u8], &[u8])> {
    let own = entry.into_iter().flat_map(FileEntry::xattrs_schily).filter(|(name, _)| !reserved(name));
    own.chain(opaque.map(|mark| (mark.name(), OPAQUE_VALUE)))
}

/// One attribute's value.
pub(super) fn value<'a>(
    entry: Option<&'a FileEntry>,
    opaque: Option<OpaqueMark>,
    wanted: &[u8],
) -> Result<&'a [u8], FsError> {
    all(entry, opaque).find(|(name, _)| *name == wanted).map(|(_, value)| value).ok_or(FsError::NoAttribute)
}

/// The list of names, each with a NUL after it, as the kernel wants it.
pub(super) fn names(entry: Option<&FileEntry>, opaque: Option<OpaqueMark>) -> Vec<u8> {
    let mut list = Vec::new();
    for (name, _) in all(entry, opaque) {
        list.extend_from_slice(name);
        list.push(0);
    }
    list
}

fn reserved(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}
