//! Which file of the image an inode is.
//!
//! Owns a table from (device, inode) of every regular file of the layer directories to its path. The page cache of an
//! overlay's file belongs to the file of the layer below, so an event names that one. The layers must not change while
//! the table is used; an inode that is not in it is not the image's.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, major, minor, openat, openat2, statfs};

use super::EbpfError;

/// File systems whose files do not have the device number that their page cache has.
const STACKED: [(i64, &str); 2] = [(0x9123_683e, "btrfs"), (0x794c_7630, "overlayfs")];

/// An inode as the kernel names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Inode {
    pub(super) dev: u32,
    pub(super) ino: u64,
}

/// The table.
#[derive(Debug)]
pub(super) struct Identity {
    files: HashMap<Inode, Arc<[u8]>>,
    /// Device of the workload's overlay, and of each file system that has layers below it.
    overlay: (u32, Vec<u32>),
}

impl Identity {
    /// Reads the layer directories, in any order. `rootfs` is the overlay of them that the workload will use.
    pub(super) fn of(layers: &[PathBuf], rootfs: &Path) -> Result<Self, EbpfError> {
        let mut names: HashMap<Inode, Vec<Vec<u8>>> = HashMap::new();
        for layer in layers {
            let kind = statfs(layer).map_err(|errno| EbpfError::layer(layer)(errno.into()))?.f_type;
            if let Some((_, name)) = STACKED.iter().find(|(magic, _)| *magic == kind as i64) {
                return Err(EbpfError::FileSystem { path: layer.clone(), name });
            }
            walk(layer, &mut |path, metadata| {
                let name = path.strip_prefix(layer).unwrap_or(path).as_os_str().as_bytes().to_vec();
                names.entry(inode(metadata)).or_default().push(name);
            })?;
        }
        let overlay = fs::metadata(rootfs).map_err(EbpfError::layer(rootfs))?;
        let below: Vec<u32> =
            names.keys().map(|inode| inode.dev).collect::<HashSet<_>>().into_iter().collect();
        let files =
            names.into_iter().map(|(inode, names)| (inode, Arc::from(choose(names, inode.ino, rootfs))));
        Ok(Self { files: files.collect(), overlay: (kernel_dev(overlay.dev()), below) })
    }

    /// The path of an image's file, without a leading slash.
    pub(super) fn path(&self, inode: Inode) -> Option<&Arc<[u8]>> {
        self.files.get(&inode)
    }

    /// The inode behind one of the workload's overlay, which has the number of the one below it. Where several file systems
    /// have one of this number, nobody knows which it is.
    pub(super) fn below(&self, inode: Inode) -> Inode {
        let (overlay, below) = &self.overlay;
        if inode.dev != *overlay {
            return inode;
        }
        let mut found =
            below.iter().map(|&dev| Inode { dev, ..inode }).filter(|at| self.files.contains_key(at));
        match (found.next(), found.next()) {
            (Some(one), None) => one,
            _ => inode,
        }
    }
}

/// Calls `file` for each regular file below `dir`, links not followed.
fn walk(dir: &Path, file: &mut dyn FnMut(&Path, &fs::Metadata)) -> Result<(), EbpfError> {
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).map_err(EbpfError::layer(&dir))? {
            let entry = entry.map_err(EbpfError::layer(&dir))?;
            let (path, metadata) = (entry.path(), entry.metadata().map_err(EbpfError::layer(&entry.path()))?);
            if metadata.is_dir() {
                dirs.push(path);
            } else if metadata.is_file() {
                file(&path, &metadata);
            }
        }
    }
    Ok(())
}

/// The first name, in order, under which the merged view shows the file: another one may be hidden by a layer above.
fn choose(mut names: Vec<Vec<u8>>, ino: u64, rootfs: &Path) -> Vec<u8> {
    if names.len() > 1 {
        names.sort();
        if let Some(at) = names.iter().position(|name| shows(rootfs, name, ino)) {
            return names.swap_remove(at);
        }
    }
    names.swap_remove(0)
}

fn shows(rootfs: &Path, name: &[u8], ino: u64) -> bool {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    openat(CWD, rootfs, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .and_then(|root| openat2(root, name, flags, Mode::empty(), resolve))
        .and_then(fstat)
        .is_ok_and(|stat| {
            FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_ino == ino
        })
}

fn inode(metadata: &fs::Metadata) -> Inode {
    Inode { dev: kernel_dev(metadata.dev()), ino: metadata.ino() }
}

/// A device number as the kernel keeps it inside, which is not how stat(2) packs it.
fn kernel_dev(dev: u64) -> u32 {
    major(dev) << 20 | minor(dev)
}

impl EbpfError {
    pub(super) fn layer(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Layer { path, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_inode_and_a_hidden_name_is_not_chosen() {
        let dir = tempfile::tempdir().unwrap();
        let (layer, merged) = (dir.path().join("layer"), dir.path().join("merged"));
        for dir in [layer.join("d"), merged.join("d")] {
            fs::create_dir_all(dir).unwrap();
        }
        fs::write(layer.join("d/b"), "x").unwrap();
        fs::hard_link(layer.join("d/b"), layer.join("a")).unwrap();
        std::os::unix::fs::symlink("b", layer.join("d/link")).unwrap();
        let of = |path: &Path| inode(&fs::metadata(path).unwrap());
        let known = |identity: &Identity| identity.path(of(&layer.join("a"))).map(|path| path.to_vec());

        let identity = match Identity::of(std::slice::from_ref(&layer), &merged) {
            Err(EbpfError::FileSystem { .. }) => return, // the temporary directory is on one of these
            other => other.unwrap(),
        };
        assert_eq!(known(&identity), Some(b"a".to_vec()), "none is shown: the first");
        assert_eq!(identity.path(of(&merged)), None);
        fs::write(merged.join("a"), "of a layer above").unwrap();
        fs::hard_link(layer.join("d/b"), merged.join("d/b")).unwrap();
        let identity = Identity::of(std::slice::from_ref(&layer), &merged).unwrap();
        assert_eq!(known(&identity), Some(b"d/b".to_vec()));
    }
}
