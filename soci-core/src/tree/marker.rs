//! Whiteout names of image layers: what the last part of an entry's name says.
//!
//! `.wh.NAME` hides NAME of the layers below, `.wh..wh..opq` hides everything that the layers below have in its directory, and
//! any other `.wh..wh.` name is bookkeeping of aufs. They speak about the layers below only.

const PREFIX: &[u8] = b".wh.";
const AUFS_PREFIX: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What a name without slashes says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker<'a> {
    /// A name like any other.
    None,
    /// This name of the layers below is hidden.
    Whiteout(&'a [u8]),
    /// Everything that the layers below have in the directory is hidden.
    Opaque,
    /// Bookkeeping of aufs, which says nothing.
    Aufs,
    /// A whiteout of what cannot be a name.
    Nothing,
}

impl<'a> Marker<'a> {
    /// Reads a name.
    pub fn of(name: &'a [u8]) -> Self {
        match name.strip_prefix(PREFIX) {
            None => Self::None,
            Some(_) if name == OPAQUE => Self::Opaque,
            Some(_) if name.starts_with(AUFS_PREFIX) => Self::Aufs,
            Some(b"" | b"." | b"..") => Self::Nothing,
            Some(hidden) => Self::Whiteout(hidden),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read() {
        for (name, meaning) in [
            ("etc", Marker::None),
            (".whale", Marker::None),
            (".wh.x", Marker::Whiteout(b"x")),
            (".wh..x", Marker::Whiteout(b".x")),
            (".wh..wh..opq", Marker::Opaque),
            (".wh..wh.plnk", Marker::Aufs),
            (".wh.", Marker::Nothing),
            (".wh...", Marker::Nothing),
        ] {
            assert_eq!(Marker::of(name.as_bytes()), meaning, "{name}");
        }
    }
}
