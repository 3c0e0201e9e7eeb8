//! Places below the destination directory: every path is resolved here, by `openat2` with the destination as root and
//! without following links. The tree knows where the archive's links lead; its paths have none.
//!
//! Owns the descriptor of the destination and of the directory used last.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, ResolveFlags, openat, openat2, unlinkat};
use rustix::io::Errno;

use super::UnpackError;

/// A name in an opened directory below the destination.
#[derive(Debug)]
pub(super) struct Place<'a> {
    pub(super) dir: &'a OwnedFd,
    pub(super) base: &'a [u8],
}

impl Place<'_> {
    /// A path for calls that know no descriptors. The last component is not followed by the `l…xattr` calls.
    pub(super) fn proc_path(&self) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        let dir = PathBuf::from(format!("/proc/self/fd/{}", self.dir.as_raw_fd()));
        // Also for ".": calls that do not follow links would meet the link in /proc instead of the directory.
        dir.join(std::ffi::OsStr::from_bytes(self.base))
    }
}

/// The destination directory.
#[derive(Debug)]
pub(super) struct Root {
    fd: OwnedFd,
    /// By its number in the tree, which names a directory once and for all.
    last: Option<(u32, OwnedFd)>,
}

impl Root {
    pub(super) fn open(dest: &Path) -> io::Result<Self> {
        let fd = openat(CWD, dest, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { fd, last: None })
    }

    pub(super) const fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// The directory of this number, whose path `path` tells.
    pub(super) fn directory(
        &mut self,
        number: u32,
        path: impl FnOnce() -> Vec<u8>,
    ) -> Result<&OwnedFd, UnpackError> {
        if !matches!(&self.last, Some((known, _)) if *known == number) {
            let path = path();
            let fd = self.resolve(&path).map_err(|error| UnpackError::io("open directory", &path, error))?;
            self.last = Some((number, fd));
        }
        Ok(&self.last.as_ref().expect("set just above").1)
    }

    /// The directory at a path without links.
    pub(super) fn resolve(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        openat2(
            &self.fd,
            path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
        )
    }
}

/// Removes a name and everything below it, links not followed.
pub(super) fn remove(dir: impl AsFd, base: &[u8]) -> Result<(), Errno> {
    match unlinkat(&dir, base, AtFlags::empty()) {
        Ok(()) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(error) => return Err(error),
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    let child = openat(&dir, base, flags, Mode::empty())?;
    for entry in Dir::read_from(&child)? {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if name != c"." && name != c".." {
            remove(&child, name.to_bytes())?;
        }
    }
    unlinkat(&dir, base, AtFlags::REMOVEDIR)
}
