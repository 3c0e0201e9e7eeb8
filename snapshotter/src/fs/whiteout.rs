//! Whiteout names of image layers, and what they become.
//!
//! An image layer deletes by name: `.wh.x` hides `x` of the layers below, `.wh..wh..opq` hides everything that the layers
//! below have in its directory. Overlayfs deletes by a character device 0:0 and by an attribute of the directory. Names
//! that start with `.wh..wh.` otherwise are notes of an old union file system and mean nothing.

/// Attribute that makes a directory opaque to overlayfs.
pub const OPAQUE_TRUSTED: &[u8] = b"trusted.overlay.opaque";
/// The same for overlayfs mounted with `userxattr`.
pub const OPAQUE_USER: &[u8] = b"user.overlay.opaque";
/// Value of the attribute.
pub const OPAQUE_VALUE: &[u8] = b"y";

/// What the last part of a name in a layer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning<'a> {
    /// A name like any other.
    Plain,
    /// Hides this name of the layers below.
    Whiteout(&'a [u8]),
    /// Hides all names that the layers below have in the directory.
    Opaque,
    /// Nothing that is shown.
    Hidden,
}

/// Reads the last part of a name.
pub fn meaning(name: &[u8]) -> Meaning<'_> {
    match name.strip_prefix(b".wh.") {
        None => Meaning::Plain,
        Some(b".wh..opq") => Meaning::Opaque,
        Some(b"" | b"." | b"..") => Meaning::Hidden,
        Some(rest) if rest.starts_with(b".wh.") => Meaning::Hidden,
        Some(hidden) => Meaning::Whiteout(hidden),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meanings() {
        assert_eq!(meaning(b"etc"), Meaning::Plain);
        assert_eq!(meaning(b".whale"), Meaning::Plain);
        assert_eq!(meaning(b".wh.x"), Meaning::Whiteout(b"x"));
        assert_eq!(meaning(b".wh..x"), Meaning::Whiteout(b".x"));
        assert_eq!(meaning(b".wh..wh..opq"), Meaning::Opaque);
        assert_eq!(meaning(b".wh..wh.plnk"), Meaning::Hidden);
        assert_eq!(meaning(b".wh."), Meaning::Hidden);
        assert_eq!(meaning(b".wh..."), Meaning::Hidden, "`..` cannot be hidden");
    }
}
