//! Files of the image that an overlay has copied into its writable layer without reading them.
//!
//! Where both layers are on one file system that can share blocks (XFS), overlayfs clones the file: the page cache has
//! no part in it, and no call asks for it. The copy says itself of which file it is (`trusted.overlay.origin`), and when
//! it was made. Holds nothing.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use rustix::fs::{lgetxattr, statfs};

use super::EbpfError;
use crate::rootfs::each_file;

/// File systems that cannot share blocks: ext2 to 4, tmpfs. A copy there is read, and seen.
const COPIES: [i64; 2] = [0xef53, 0x0102_1994];

/// A copy's attributes: of which file it is, and that it has none of its content. The second of each are those of an
/// overlay that was mounted by a user.
const ORIGIN: [&str; 2] = ["trusted.overlay.origin", "user.overlay.origin"];
const METACOPY: [&str; 2] = ["trusted.overlay.metacopy", "user.overlay.metacopy"];
/// Longest origin: 21 bytes and a file handle of 128.
const MAX_ORIGIN: usize = 256;

/// A copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Copied {
    /// Number of the inode that it was made of, on the same file system.
    pub(super) ino: u64,
    /// When it was made.
    pub(super) at: SystemTime,
}

/// Calls `visit` for each copy below `upper`, a writable layer, if they are made by sharing there.
pub(super) fn each_copy(upper: &Path, visit: &mut dyn FnMut(Copied)) -> Result<(), EbpfError> {
    let kind = statfs(upper).map_err(|errno| EbpfError::layer(upper)(errno.into()))?.f_type;
    if COPIES.contains(&(kind as i64)) {
        return Ok(());
    }
    each_file(upper, &mut |path, metadata: &fs::Metadata| {
        let mut value = [0; MAX_ORIGIN];
        let mut has =
            |names: [&str; 2]| names.iter().find_map(|name| lgetxattr(path, *name, &mut value[..]).ok());
        if has(METACOPY).is_none()
            && let Some(length) = has(ORIGIN)
            && let Some(ino) = origin(&value[..length])
        {
            visit(Copied { ino, at: metadata.created()? });
        }
        Ok(())
    })
    .map_err(|(path, source)| EbpfError::Layer { path, source })
}

/// The inode's number in an origin: `struct ovl_fb` of the kernel, which holds a file handle of the layer's file system.
fn origin(value: &[u8]) -> Option<u64> {
    /// Version, magic number, length, flags, kind of handle, UUID of the file system.
    const HANDLE: usize = 1 + 1 + 1 + 1 + 1 + 16;
    let (&[_, 0xfb, _, _, kind], handle) = (value.first_chunk()?, value.get(HANDLE..)?) else { return None };
    match kind {
        // FILEID_INO32_GEN, and XFS's with 64 bits.
        0x01 => handle.first_chunk().map(|ino| u64::from(u32::from_ne_bytes(*ino))),
        0x81 => handle.first_chunk().map(|ino| u64::from_ne_bytes(*ino)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_names_an_inode() {
        let of = |kind: u8, handle: &[u8]| [&[0, 0xfb, 33, 0, kind][..], &[9; 16], handle].concat();
        assert_eq!(origin(&of(1, &[7, 1, 0, 0, 5, 5, 5, 5])), Some(263));
        assert_eq!(origin(&of(0x81, &[7, 0, 0, 0, 1, 0, 0, 0, 5, 5, 5, 5])), Some((1 << 32) + 7));
        assert_eq!(origin(&of(0x4d, &[7; 20])), None, "of a file system that is not known");
        let whole = of(1, &[7, 1, 0, 0]);
        for length in 0..whole.len() {
            assert_eq!(origin(&whole[..length]), None);
        }
    }
}
