//! Who uses the layers of a root directory: mounts in any namespace that has a process, by what the kernel says of them in its
//! mount tables. No state lives here.
//!
//! What must always hold: no layer is touched, since one that nobody serves would not answer. On any doubt a mount counts as a
//! user: taking a layer away from a container is worse than asking.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use crate::mountinfo::{Line, unescape};

/// Where file systems are mounted that use a layer below the directory `root`, which has no links in its name.
pub(crate) fn users(root: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let own = fs::read("/proc/self/mountinfo")?;
    let layers = Layers::new(root, &Line::all(&own), ids(&root.join(SNAPSHOTS))?);
    let (mut seen, mut users) = (HashSet::new(), BTreeSet::new());
    for process in fs::read_dir("/proc")? {
        let Ok(process) = process else { continue };
        // Processes come and go.
        let Ok(namespace) = fs::read_link(process.path().join("ns/mnt")) else { continue };
        // One that was given another root directory sees a part of the table only, and other names in it.
        let root = fs::read_link(process.path().join("root")).unwrap_or_default();
        if !seen.insert((namespace, root)) {
            continue;
        }
        let Ok(table) = fs::read(process.path().join("mountinfo")) else { continue };
        users.extend(layers.users(&Line::all(&table)));
    }
    Ok(users)
}

/// Where snapshots are, below the root directory.
const SNAPSHOTS: &str = "snapshotter/snapshots";

/// Whether a directory may be ours: it is, or there is none of this name here.
fn may_be_same(ours: &Path, other: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
    match (identity(ours), identity(other)) {
        (Ok(ours), Ok(other)) => ours == other,
        _ => true,
    }
}

/// The numbers of the snapshots that there are.
fn ids(snapshots: &Path) -> io::Result<HashSet<Vec<u8>>> {
    match fs::read_dir(snapshots) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(HashSet::new()),
        entries => entries?.map(|entry| Ok(entry?.file_name().as_bytes().to_owned())).collect(),
    }
}

/// What there is to use.
#[derive(Debug)]
struct Layers {
    snapshots: PathBuf,
    ids: HashSet<Vec<u8>>,
    /// Our own mounts: device, directory of the file system, and where it is below the root directory.
    own: HashSet<(Vec<u8>, PathBuf, PathBuf)>,
    devices: HashSet<Vec<u8>>,
    /// Whether the second directory may be the first by another name.
    may_be_same: fn(&Path, &Path) -> bool,
}

impl Layers {
    fn new(root: &Path, table: &[Line<'_>], ids: HashSet<Vec<u8>>) -> Self {
        let own = |line: &Line<'_>| {
            let below = line.mountpoint.strip_prefix(root).ok()?;
            let is_ours = matches!(line.kind, b"erofs" | b"fuse.soci");
            is_ours.then(|| (line.device.to_owned(), line.root.clone(), below.to_owned()))
        };
        let own: HashSet<_> = table.iter().filter_map(own).collect();
        let devices = own.iter().map(|(device, _, _)| device.clone()).collect();
        Self { snapshots: root.join(SNAPSHOTS), ids, own, devices, may_be_same }
    }

    /// Mountpoints of a namespace that use layers.
    fn users(&self, table: &[Line<'_>]) -> Vec<PathBuf> {
        let uses = |line: &&Line<'_>| match line.kind {
            b"overlay" => self.is_overlay_of_layers(line, table),
            _ => self.devices.contains(line.device) && !self.is_own(line),
        };
        table.iter().filter(uses).map(|line| line.mountpoint.clone()).collect()
    }

    /// Whether a mount is one of ours, or its copy in another namespace, whose root directory may be another one.
    fn is_own(&self, line: &Line<'_>) -> bool {
        self.own.iter().any(|(device, root, below)| {
            device == line.device && *root == line.root && line.mountpoint.ends_with(below)
        })
    }

    fn is_overlay_of_layers(&self, line: &Line<'_>, table: &[Line<'_>]) -> bool {
        let all: Vec<_> = directories(line.options).collect();
        if all.iter().any(|directory| self.is_layer(directory, table)) {
            return true;
        }
        // Another snapshotter's, which has its layers beside what is written.
        let elsewhere = |path: &PathBuf| path.is_absolute() && path.parent().is_some_and(is_of_a_snapshot);
        !all.iter().any(elsewhere) && all.iter().any(|directory| self.may_be_layer(directory))
    }

    /// Whether a directory of an overlay, as its mounter has named it, is a layer or lies in one.
    fn is_layer(&self, directory: &Path, table: &[Line<'_>]) -> bool {
        let is_on =
            |line: &Line<'_>| self.devices.contains(line.device) && directory.starts_with(&line.mountpoint);
        directory.starts_with(&self.snapshots)
            || directory.is_absolute() && table.iter().any(is_on)
            || self.may_be_renamed(directory)
    }

    /// Whether a path may be that of a layer for somebody who has another root directory. It is not if it leads to the snapshots
    /// of another daemon.
    fn may_be_renamed(&self, directory: &Path) -> bool {
        let mut above = directory.ancestors().skip(1).filter(|above| above.ends_with(SNAPSHOTS));
        directory.is_absolute()
            && self.has(directory, &["snapshotter", "snapshots"])
            && above.any(|snapshots| (self.may_be_same)(&self.snapshots, snapshots))
    }

    /// The same of a name whose beginning is not known, because the mounter's working directory is not.
    fn may_be_layer(&self, directory: &Path) -> bool {
        if directory.is_absolute() {
            return false;
        }
        let directory: PathBuf =
            directory.components().skip_while(|part| !matches!(part, Component::Normal(_))).collect();
        directory.as_os_str().is_empty()
            || directory.starts_with("fs")
            || self.has(&Path::new("snapshots").join(directory), &["snapshots"])
    }

    /// Whether a path has names one after the other, then that of a snapshot.
    fn has(&self, path: &Path, before: &[&str]) -> bool {
        let names: Vec<_> = path.components().map(Component::as_os_str).collect();
        names.windows(before.len() + 2).any(|window| {
            let (above, rest) = window.split_at(before.len());
            above.iter().eq(before) && self.ids.contains(rest[0].as_bytes()) && rest[1] == "fs"
        })
    }
}

/// Whether a directory is `snapshots/NUMBER`.
fn is_of_a_snapshot(directory: &Path) -> bool {
    directory.parent().is_some_and(|above| above.ends_with("snapshots"))
}

/// The directories that an overlay's options name.
fn directories(options: &[u8]) -> impl Iterator<Item = PathBuf> {
    options.split(|byte| *byte == b',').flat_map(|option| {
        let mut parts = option.splitn(2, |byte| *byte == b'=');
        let (key, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let value = unescape(value);
        match key {
            b"lowerdir" => list(value.as_os_str().as_bytes()),
            b"lowerdir+" | b"datadir+" | b"upperdir" | b"workdir" => vec![value],
            _ => Vec::new(),
        }
    })
}

/// Paths with colons between them; a backslash takes a character's meaning away.
fn list(text: &[u8]) -> Vec<PathBuf> {
    let (mut paths, mut escaped) = (vec![Vec::new()], false);
    for &byte in text {
        match byte {
            b'\\' if !escaped => escaped = true,
            b':' if !escaped => paths.push(Vec::new()),
            _ => {
                escaped = false;
                paths.last_mut().expect("there is one from the start").push(byte);
            }
        }
    }
    // Two colons begin the list of layers that have only data.
    paths.retain(|path| !path.is_empty());
    paths.iter().map(|path| PathBuf::from(OsStr::from_bytes(path))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "\
        40 1 0:31 / /r/hidden ro - fuse.soci soci ro\n\
        41 1 0:31 /t1 /r/snapshotter/snapshots/7/fs ro - fuse.soci soci ro\n\
        42 1 0:40 / /r/snapshotter/snapshots/8/fs ro - erofs /r/hidden/i1 ro";

    /// The mountpoints of a table that are users.
    fn users(more: &str) -> Vec<String> {
        let ids = ["7", "8"].map(|id| id.as_bytes().to_owned());
        let mut layers = Layers::new(Path::new("/r"), &Line::all(OWN.as_bytes()), ids.into());
        layers.may_be_same = |_, other| !other.starts_with("/another");
        let table = format!("{OWN}\n{more}");
        layers.users(&Line::all(table.as_bytes())).iter().map(|point| point.display().to_string()).collect()
    }

    #[test]
    fn overlays_of_layers_are_users() {
        for (options, is_user) in [
            ("lowerdir=/r/snapshotter/snapshots/7/fs,upperdir=/x,workdir=/y", true),
            ("lowerdir=/a:/r/snapshotter/snapshots/7/fs/usr", true),
            ("lowerdir=/a,upperdir=/r/snapshotter/snapshots/9/fs,workdir=/y", true),
            ("lowerdir+=/r/snapshotter/snapshots/7/fs", true),
            // As containerd names many layers: from a directory above all of them.
            ("lowerdir=8/fs:7/fs", true),
            ("lowerdir=snapshots/8/fs:/a", true),
            ("lowerdir=/a:snapshotter/snapshots/8/fs/usr", true),
            ("lowerdir=./8/fs", true),
            ("lowerdir=../8/fs", true),
            ("lowerdir=fs", true),
            ("lowerdir=.", true),
            // The mounter had another root directory.
            ("lowerdir=/mnt/r/snapshotter/snapshots/7/fs", true),
            ("lowerdir=/another/snapshotter/snapshots/7/fs", false),
            ("lowerdir=/other/snapshots/9/fs", false),
            ("lowerdir=9/fs:10/fs", false),
            ("lowerdir=/other/7/fs", false),
            ("lowerdir=/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/7/fs", false),
            ("lowerdir=8/fs:7/fs,upperdir=/var/lib/containerd/overlayfs/snapshots/9/fs", false),
            ("lowerdir=8/fs:7/fs,upperdir=/home/x", true),
            ("lowerdir=a/b,redirect_dir=on", false),
            ("", false),
        ] {
            let line = format!("50 1 0:50 / /c/rootfs rw - overlay overlay rw,{options}");
            assert_eq!(users(&line) == ["/c/rootfs"], is_user, "{options}");
            assert!(is_user || users(&line).is_empty(), "{options}");
        }
    }

    #[test]
    fn bind_mounts_of_layers_are_users_and_copies_of_a_namespace_are_not() {
        for (line, is_user) in [
            ("50 1 0:40 / /c/rootfs ro - erofs /r/hidden/i1 ro", true),
            ("50 1 0:40 /usr /c/usr ro - erofs /r/hidden/i1 ro", true),
            ("50 1 0:31 /t1 /c/rootfs ro - fuse.soci soci ro", true),
            ("50 1 0:31 /t1/usr /c/usr ro - fuse.soci soci ro", true),
            ("50 1 0:31 /t1 /mnt/r/snapshotter/snapshots/7/fs ro - fuse.soci soci ro", false),
            ("50 1 0:31 / /mnt/r/hidden ro - fuse.soci soci ro", false),
            ("50 1 0:32 /t1 /c/rootfs ro - fuse.soci soci ro", false),
            ("50 1 0:41 / /c/rootfs ro - erofs /other/i1 ro", false),
        ] {
            assert_eq!(!users(line).is_empty(), is_user, "{line}");
        }
        // An overlay of a bind mount.
        let both = "50 1 0:40 / /b ro - erofs /r/hidden/i1 ro\n51 1 0:50 / /c rw - overlay overlay ro,lowerdir=/b:/x";
        assert_eq!(users(both), ["/b", "/c"]);
    }

    #[test]
    fn escapes_in_lists_are_read() {
        let all = directories(br"rw,lowerdir=a\134:b:./c\040d::e,upperdir=/u\054v").collect::<Vec<_>>();
        assert_eq!(all, ["a:b", "./c d", "e", "/u,v"].map(PathBuf::from));
    }
}
