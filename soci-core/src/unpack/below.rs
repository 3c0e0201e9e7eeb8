//! What the layers below say of a directory that a layer only implies: owner, mode, time and attributes.
//!
//! Owns descriptors of the layers' directories, unpacked or mounted. As in containerd, the nearest layer that has something
//! at the path decides, each followed by itself: what hides it from a layer further up does not count.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{
    CWD, FileType, Mode, OFlags, ResolveFlags, fstat, getxattr, listxattr, openat, openat2, readlinkat,
};
use rustix::io::Errno;

use super::UnpackError;
use super::place::Place;
use crate::tar::Mtime;
use crate::tree::ROOT_MODE;

/// The kernel's limit for one value (XATTR_SIZE_MAX) and for the list (XATTR_LIST_MAX).
const XATTR_MAX: usize = 65536;
/// Attempts to follow a path while the machine's mounts change.
const TRIES: usize = 1000;
/// Links on the way to a directory, as in the kernel.
const MAX_LINKS: usize = 40;
/// Names that steer overlayfs: what they say is about the layer that has them.
const OVERLAY_NAMESPACES: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];

/// What a directory looks like without its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryAttributes {
    /// Permission, set-id and sticky bits.
    pub permissions: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last modification.
    pub mtime: Mtime,
    /// Names and values of extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Default for DirectoryAttributes {
    /// Of a directory that nothing describes.
    fn default() -> Self {
        Self { permissions: ROOT_MODE, uid: 0, gid: 0, mtime: Mtime::default(), xattrs: Vec::new() }
    }
}

/// The layers below one.
#[derive(Debug)]
pub struct Below {
    layers: Vec<OwnedFd>,
}

impl Below {
    /// Of the directories of the layers, nearest first.
    pub fn open(layers: &[PathBuf]) -> Result<Self, UnpackError> {
        let open = |path: &PathBuf| {
            openat(CWD, path, OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                .map_err(|error| UnpackError::io("open layer", path.as_os_str().as_encoded_bytes(), error))
        };
        Ok(Self { layers: layers.iter().map(open).collect::<Result<_, _>>()? })
    }

    /// What the nearest layer that has something at `path` says of it; `None` when that is no directory, or nowhere.
    pub fn directory(&self, path: &[u8]) -> Result<Option<DirectoryAttributes>, UnpackError> {
        self.find(path).map_err(|error| UnpackError::io("read below the layer", path, error))
    }

    fn find(&self, path: &[u8]) -> io::Result<Option<DirectoryAttributes>> {
        for layer in &self.layers {
            match open_in(layer, path) {
                Ok(directory) => return Ok(Some(read(&directory)?)),
                Err(Errno::NOENT) => {}
                Err(Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }
}

/// Opens a directory below a layer's root. The kernel gives up on `..` in a link when something is renamed or mounted meanwhile,
/// anywhere, and says so.
fn open_in(layer: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..TRIES {
        match openat2(layer, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            // The kernel follows no link of somebody else in a directory like /tmp (fs.protected_symlinks), not even for root.
            Err(Errno::ACCESS) => return walk_in(layer, path),
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

/// The same without the kernel's rules for links: each is read, and its target walked. The layers are ours, and nobody changes them.
fn walk_in(layer: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let again =
        |fd: &OwnedFd| fd.try_clone().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
    let names = |path: &[u8]| path.split(|&byte| byte == b'/').rev().map(<[u8]>::to_vec).collect::<Vec<_>>();
    let (mut way, mut rest, mut links) = (vec![again(layer)?], names(path), 0);
    while let Some(name) = rest.pop() {
        match name.as_slice() {
            b"" | b"." => continue,
            b".." => {
                way.truncate(way.len().saturating_sub(1).max(1));
                continue;
            }
            _ => {}
        }
        let here = way.last().ok_or(Errno::NOENT)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = openat(here, name.as_slice(), flags, Mode::empty())?;
        match FileType::from_raw_mode(fstat(&found)?.st_mode) {
            FileType::Directory => way.push(found),
            FileType::Symlink => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP);
                }
                let target = readlinkat(&found, c"", Vec::new())?.into_bytes();
                if target.starts_with(b"/") {
                    way.truncate(1);
                }
                rest.extend(names(&target));
            }
            _ => return Err(Errno::NOTDIR),
        }
    }
    way.pop().ok_or(Errno::NOENT)
}

fn read(directory: &OwnedFd) -> Result<DirectoryAttributes, Errno> {
    let stat = fstat(directory)?;
    let path = Place { dir: directory, base: b"." }.proc_path();
    let mut names = vec![0; XATTR_MAX];
    let length = match listxattr(&path, &mut names[..]) {
        Err(Errno::NOTSUP) => 0,
        length => length?,
    };
    let mut xattrs = Vec::new();
    for name in names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        if OVERLAY_NAMESPACES.iter().any(|namespace| name.starts_with(namespace)) {
            continue;
        }
        let mut value = vec![0; XATTR_MAX];
        let length = getxattr(&path, name, &mut value[..])?;
        value.truncate(length);
        xattrs.push((name.to_vec(), value));
    }
    Ok(DirectoryAttributes {
        permissions: (stat.st_mode & 0o7777) as u16,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: Mtime { secs: stat.st_mtime, nanos: stat.st_mtime_nsec as i32 },
        xattrs,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_walked_as_the_kernel_walks_them() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("layer");
        fs::create_dir_all(root.join("a/b/c")).unwrap();
        fs::create_dir_all(root.join("tmp")).unwrap();
        fs::write(root.join("file"), "x").unwrap();
        for (target, link) in [
            ("b/c", "a/short"),
            ("/a", "tmp/absolute"),
            ("../../../../a/b", "a/above"),
            ("loop", "loop"),
            ("missing", "dangling"),
            ("../file", "a/file"),
            ("absolute/short", "tmp/chain"),
            (".", "tmp/here"),
        ] {
            symlink(target, root.join(link)).unwrap();
        }
        let layer =
            openat(CWD, &root, OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let which = |found: Result<OwnedFd, Errno>| found.map(|found| fstat(&found).unwrap().st_ino);
        for path in [
            "a/b/c",
            "a/short",
            "tmp/absolute/b",
            "a/above/c",
            "tmp/chain",
            "tmp/here/here/chain",
            "a/b/../short",
            "..",
            "a//b/.",
            "loop",
            "dangling",
            "file",
            "file/x",
            "a/file",
            "nowhere/x",
            "tmp/absolute/../tmp",
        ] {
            assert_eq!(
                which(walk_in(&layer, path.as_bytes())),
                which(open_in(&layer, path.as_bytes())),
                "{path}"
            );
        }
    }
}
