//! The directories of snapshots on disk: made whole or not at all, measured, and taken away.
//!
//! `<root>/<id>/{fs,work}`; while being made a directory is called `new-<id>`. Who belongs to which record is decided
//! by [`super::Metadata`]; a directory without a record is waste, whatever its name.

use std::collections::{BTreeSet, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, StatxFlags, fstat, openat, statat, statx};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use super::error::{Error, Result};
use super::overlay::Directories;
use super::record::{Chain, Kind, SnapshotId, Usage};
use crate::idmap::IdMaps;
use crate::mountinfo;

/// How the names of directories begin that are being removed.
const GONE: &str = "gone-";

/// Makes the directories of a new snapshot. The owner of its `fs` is that of the parent's, outside of the user namespace of `maps`.
pub(super) fn create(dirs: &Directories, chain: &Chain, maps: Option<&IdMaps>) -> Result<()> {
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
    let below = chain.parents.first().map(|parent| owner(&dirs.fs(*parent))).transpose().map_err(failed)?;
    let own = match maps {
        Some(maps) => Some(maps.outside(below.unwrap_or_default())),
        None => below,
    };
    if let Some((uid, gid)) = own {
        chown(&fs, Some(uid), Some(gid)).map_err(failed)?;
    }
    fs::rename(&first, &last).map_err(failed)
}

/// Makes the `fs` of a committed snapshot, if it is not there: a machine that went down may have forgotten it.
pub(super) fn make_again(fs: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(fs)
}

/// User and group of a directory. The kernel answers from memory: this process may be the one that it would have to ask.
pub(super) fn owner(path: &Path) -> io::Result<(u32, u32)> {
    let status = statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::UID | StatxFlags::GID)?;
    Ok((status.stx_uid, status.stx_gid))
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

/// Renames what belongs to none of the snapshots, so that nothing of the next ones has its name; gives the new names.
pub(super) fn set_aside(dirs: &Directories, known: &BTreeSet<SnapshotId>) -> io::Result<Vec<PathBuf>> {
    let mut aside = Vec::new();
    let entries = fs::read_dir(dirs.root())?.collect::<io::Result<Vec<_>>>()?;
    for entry in entries {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.parse().ok().map(SnapshotId).is_some_and(|id| known.contains(&id)) {
            continue;
        }
        let gone = if name.starts_with(GONE) {
            entry.path()
        } else {
            let free = (0u64..).map(|number| dirs.root().join(format!("{GONE}{name}-{number}")));
            let gone = free.into_iter().find(|path| fs::symlink_metadata(path).is_err());
            let gone = gone.ok_or(io::ErrorKind::AlreadyExists)?;
            fs::rename(entry.path(), &gone)?;
            gone
        };
        aside.push(gone);
    }
    Ok(aside)
}

/// Allocated bytes and inodes of a tree; a file with several names counts once. A container may change the tree meanwhile:
/// what is gone does not count, and nothing outside of the tree is ever looked at.
pub(super) fn usage(path: &Path) -> io::Result<Usage> {
    let mut usage = Usage::default();
    let mut linked = HashSet::new();
    let root = openat(CWD, path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    count(&mut usage, &fstat(&root)?);
    // Directories that are still to be read: by the one they are in, which stays open as long as one of its own waits.
    let mut waiting = vec![(Rc::new(root), None::<OsString>)];
    while let Some((parent, name)) = waiting.pop() {
        let dir = match &name {
            None => parent,
            Some(name) => {
                let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                match openat(&*parent, name, flags, Mode::empty()) {
                    Ok(dir) => Rc::new(dir),
                    Err(error) if is_gone(error) => continue,
                    Err(error) => return Err(error.into()),
                }
            }
        };
        for entry in Dir::read_from(&*dir)? {
            let entry = match entry {
                Err(error) if is_gone(error) => break,
                entry => entry?,
            };
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let stat = match statat(&*dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(error) if is_gone(error) => continue,
                stat => stat?,
            };
            let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if !is_dir && stat.st_nlink > 1 && !linked.insert((stat.st_dev, stat.st_ino)) {
                continue;
            }
            count(&mut usage, &stat);
            if is_dir {
                waiting.push((Rc::clone(&dir), Some(name.to_owned())));
            }
        }
    }
    Ok(usage)
}

fn count(usage: &mut Usage, stat: &Stat) {
    usage.size += stat.st_blocks as u64 * 512;
    usage.inodes += 1;
}

/// Has it been removed, or replaced by something else?
fn is_gone(error: Errno) -> bool {
    matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE)
}

/// Unmounts whatever is mounted below `root`, dead FUSE mounts of an earlier process included. Gives what resists.
pub(super) fn unmount_below(root: &Path) -> io::Result<Vec<(PathBuf, io::Error)>> {
    Ok(unmount_all(mountinfo::below(root)?))
}

/// Unmounts what is mounted on these directories. Gives what resists.
pub(super) fn unmount_all(points: impl IntoIterator<Item = PathBuf>) -> Vec<(PathBuf, io::Error)> {
    let detach = |point: PathBuf| {
        let error = unmount(&point, UnmountFlags::DETACH).err()?;
        Some((point, error.into()))
    };
    points.into_iter().filter_map(detach).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

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
    fn a_tree_that_changes_is_measured_and_nothing_outside_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, other) = (dir.path().join("tree"), dir.path().join("other"));
        fs::create_dir_all(&other).unwrap();
        fs::write(other.join("large"), vec![1; 1 << 20]).unwrap();
        fs::create_dir_all(tree.join("keeps")).unwrap();
        let changing = AtomicBool::new(true);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while changing.load(Ordering::Relaxed) {
                    let deep = tree.join("a/b/c");
                    fs::create_dir_all(&deep).unwrap();
                    fs::write(deep.join("x"), "x").unwrap();
                    fs::remove_dir_all(tree.join("a")).unwrap();
                    std::os::unix::fs::symlink(&other, tree.join("a")).unwrap();
                    fs::remove_file(tree.join("a")).unwrap();
                }
            });
            for _ in 0..2000 {
                let usage = usage(&tree);
                if !usage.as_ref().is_ok_and(|usage| usage.size < 1 << 20) {
                    changing.store(false, Ordering::Relaxed);
                    panic!("{usage:?}");
                }
            }
            changing.store(false, Ordering::Relaxed);
        });
    }

    #[test]
    fn a_directory_left_by_a_dead_process_is_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = Directories::new(dir.path().to_path_buf());
        let chain = Chain { id: SnapshotId(7), kind: Kind::Active, parents: Vec::new() };
        fs::create_dir_all(dirs.fs(chain.id).join("left")).unwrap();
        create(&dirs, &chain, None).unwrap();
        assert_eq!(fs::read_dir(dirs.fs(chain.id)).unwrap().count(), 0);
        assert!(dirs.work(chain.id).is_dir());
        assert_eq!(set_aside(&dirs, &BTreeSet::from([chain.id])).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn what_is_set_aside_has_no_name_of_a_later_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = Directories::new(dir.path().to_path_buf());
        let chain = Chain { id: SnapshotId(7), kind: Kind::Active, parents: Vec::new() };
        let stray = || {
            create(&dirs, &chain, None).unwrap();
            let aside = set_aside(&dirs, &BTreeSet::new()).unwrap();
            assert!(!dirs.snapshot(chain.id).exists());
            aside
        };
        let first = stray();
        let both = stray(); // the first could not be removed
        assert!(both.len() == 2 && both.contains(&first[0]));
        create(&dirs, &chain, None).unwrap(); // another one with the same id
        for path in &both {
            discard(path).unwrap();
        }
        assert!(dirs.fs(chain.id).is_dir());
        assert_eq!(fs::read_dir(dirs.root()).unwrap().count(), 1);
    }
}
