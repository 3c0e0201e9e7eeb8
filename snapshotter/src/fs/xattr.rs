//! Extended attributes of an inode: those that its entries say, or the layers below of an implied directory, and the opaque
//! mark of overlayfs. What an archive may say [`soci_core::tree`] decides.

use super::error::FsError;

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
    /// Its name and value.
    pub(super) const fn attribute(self) -> (&'static [u8], &'static [u8]) {
        match self {
            Self::Trusted => (b"trusted.overlay.opaque", b"y"),
            Self::User => (b"user.overlay.opaque", b"y"),
        }
    }
}

/// One attribute's value.
pub(super) fn value<'a>(
    mut all: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    wanted: &[u8],
) -> Result<&'a [u8], FsError> {
    all.find(|(name, _)| *name == wanted).map(|(_, value)| value).ok_or(FsError::NoAttribute)
}

/// The list of names, each with a NUL after it, as the kernel wants it.
pub(super) fn names<'a>(all: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Vec<u8> {
    let mut list = Vec::new();
    for (name, _) in all {
        list.extend_from_slice(name);
        list.push(0);
    }
    list
}
