//! The directories of snapshots on disk: made whole or not at all, measured, and taken away.
//!
//! `<root>/<id>/{fs,work}`; while being made a directory is called `new-<id>`. Who belongs to which record is decided
//! by [`super::Metadata`]; a directory without a record is waste, whatever its name.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, unmount};

use super::error::{Error, Result};
use super::overlay::Directories;
use super::record::{Chain, Kind, SnapshotId, Usage};

/// Makes the directories of a new snapshot. The owner of its `fs` is that of the parent's.
pub(super) fn create(dirs: &Directories, chain: &Chain) -> Result<()> {
    let last = dirs.snapshot(chain.id);
    let first = dirs.root().join(format!("new-{}", chain.id));
    let failed = |source| Error::io(format!("make the directory of snapshot {}", chain.id), source);
    // An id that was given but not recorded (the process died in between) may have left its directory.
    for stale in [&first, &last] {
        remove(stale).map_err(failed)?;
    }
    let make = |path: &Path, mode| DirBuilder::new().mode(mode).create(path);
    let fs = first.join("fs");
    make(&first, 0o700).map_err(failed)?;
    make(&fs, 0o755).map_err(failed)?;
    if chain.kind == Kind::Active {
        make(&first.join("work"), 0o711).map_err(failed)?;
    }
    if let Some(parent) = chain.parents.first() {
        let parent = fs::metadata(dirs.fs(*parent)).map_err(failed)?;
        chown(&fs, Some(parent.uid()), Some(parent.gid())).map_err(failed)?;
    }
    fs::rename(&first, &last).map_err(failed)
}

/// Removes a directory tree, which may be gone already.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Removes a directory tree and the mounts in it, if it is still there.
pub(super) fn discard(path: &Path) -> io::Result<()> {
    let path = match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        path => path?,
    };
    match unmount_below(&path)?.into_iter().next() {
        Some((_, error)) => Err(error),
        None => remove(&path),
    }
}

/// Names in the root directory that belong to none of the snapshots.
pub(super) fn strays(dirs: &Directories, known: &BTreeSet<SnapshotId>) -> io::Result<Vec<PathBuf>> {
    let mut strays = Vec::new();
    for entry in fs::read_dir(dirs.root())? {
        let entry = entry?;
        let id = entry.file_name().to_str().and_then(|name| name.parse().ok()).map(SnapshotId);
        if !id.is_some_and(|id| known.contains(&id)) {
            strays.push(entry.path());
        }
    }
    Ok(strays)
}

/// Allocated bytes and inodes of a tree; a file with several names counts once.
pub(super) fn usage(path: &Path) -> io::Result<Usage> {
    let mut usage = Usage::default();
    let mut linked = HashSet::new();
    let mut waiting = vec![path.to_path_buf()];
    while let Some(path) = waiting.pop() {
        let metadata = match fs::symlink_metadata(&path) {
            // An active snapshot is being written while it is measured.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            metadata => metadata?,
        };
        if metadata.is_dir() {
            for entry in fs::read_dir(&path)? {
                waiting.push(entry?.path());
            }
        } else if metadata.nlink() > 1 && !linked.insert((metadata.dev(), metadata.ino())) {
            continue;
        }
        usage.size += metadata.blocks() * 512;
        usage.inodes += 1;
    }
    Ok(usage)
}

/// Unmounts whatever is mounted below `root`, dead FUSE mounts of an earlier process included. Gives what resists.
pub(super) fn unmount_below(root: &Path) -> io::Result<Vec<(PathBuf, io::Error)>> {
    let table = fs::read("/proc/self/mountinfo")?;
    let mut points: Vec<_> = table.split(|&byte| byte == b'\n').filter_map(mountpoint).collect();
    points.retain(|point| point.starts_with(root) && point != root);
    let mut resisting = Vec::new();
    // Later mounts may lie on earlier ones.
    for point in points.into_iter().rev() {
        if let Err(error) = unmount(&point, UnmountFlags::DETACH) {
            resisting.push((point, error.into()));
        }
    }
    Ok(resisting)
}

/// The mountpoint of a line of mountinfo(5): the fifth field, with `\ooo` for blanks and backslashes.
fn mountpoint(line: &[u8]) -> Option<PathBuf> {
    let field = line.split(|&byte| byte == b' ').nth(4)?;
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = (byte == b'\\').then(|| after.get(..3)).flatten();
        let code = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        path.push(code.unwrap_or(byte));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    Some(PathBuf::from(std::ffi::OsString::from_vec(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hard_links_count_once_in_the_usage() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), vec![1; 8192]).unwrap();
        let alone = usage(dir.path()).unwrap();
        fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
        assert_eq!(usage(dir.path()).unwrap(), alone);
        assert_eq!(alone.inodes, 2);
        assert!(alone.size >= 8192);
    }

    #[test]
    fn mountpoints_are_read_with_their_escapes() {
        let line = br"36 35 98:0 / /mnt/a\040b\134c rw,noatime master:1 - fuse soci rw";
        assert_eq!(mountpoint(line), Some(PathBuf::from("/mnt/a b\\c")));
        assert_eq!(mountpoint(b""), None);
    }

    #[test]
    fn a_directory_left_by_a_dead_process_is_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = Directories::new(dir.path().to_path_buf());
        let chain = Chain { id: SnapshotId(7), kind: Kind::Active, parents: Vec::new() };
        fs::create_dir_all(dirs.fs(chain.id).join("left")).unwrap();
        create(&dirs, &chain).unwrap();
        assert_eq!(fs::read_dir(dirs.fs(chain.id)).unwrap().count(), 0);
        assert!(dirs.work(chain.id).is_dir());
        assert_eq!(strays(&dirs, &BTreeSet::from([chain.id])).unwrap(), Vec::<PathBuf>::new());
        assert_eq!(strays(&dirs, &BTreeSet::new()).unwrap(), [dirs.snapshot(chain.id)]);
    }
}
