//! What a directory tree looks like to its users, and how two of them differ.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use soci_core::digest::Digest;

/// Everything about one name but its inode number. Sizes and times that a file system makes up are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    size: u64,
    device: u64,
    links: u64,
    content: Option<Digest>,
    target: Option<PathBuf>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// First name, in order, of the same inode.
    same_as: PathBuf,
}

impl Item {
    /// Whether only the modification time differs.
    pub fn same_but_time(&self, other: &Self) -> bool {
        Self { mtime: other.mtime, ..self.clone() } == *other
    }

    /// Whether it is a directory like `other`, which was made at another time. One that nobody has described may have the group
    /// of the directory that it was made in.
    pub fn same_but_made(&self, other: &Self) -> bool {
        let mut like = Self { mtime: other.mtime, ..self.clone() };
        if (self.owner, self.mtime) == ((0, 0), (0, 0)) {
            like.owner.1 = other.owner.1;
            like.mode |= other.mode & 0o2000;
        }
        self.is_directory() && like == *other
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.mode & 0o170_000 == 0o040_000
    }

    /// The type bits of its mode.
    pub fn kind(&self) -> u32 {
        self.mode & 0o170_000
    }

    /// Digest of a regular file's content.
    pub fn content(&self) -> Option<Digest> {
        self.content
    }

    /// Whole seconds of its modification time.
    pub fn seconds(&self) -> i64 {
        self.mtime.0
    }

    /// Whether only the number of names differs.
    pub fn same_but_links(&self, other: &Self) -> bool {
        Self { links: other.links, ..self.clone() } == *other
    }
}

/// A tree by relative name.
pub type Tree = BTreeMap<PathBuf, Item>;

/// Looks at everything below `root`, itself included. Names with nothing behind them are left out: overlayfs lists the
/// whiteouts of directories that it does not merge.
pub fn listing(root: &Path) -> Tree {
    let mut names = vec![PathBuf::new()];
    let mut open = vec![PathBuf::new()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(root.join(&directory)).unwrap() {
            let entry = entry.unwrap();
            let name = directory.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                open.push(name.clone());
            }
            names.push(name);
        }
    }
    names.sort();
    let mut inodes = BTreeMap::new();
    names.into_iter().filter_map(|name| Some((name.clone(), item(root, &name, &mut inodes)?))).collect()
}

fn item(root: &Path, name: &Path, inodes: &mut BTreeMap<(u64, u64), PathBuf>) -> Option<Item> {
    let path = root.join(name);
    let meta = match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        meta => meta.unwrap(),
    };
    let kind = meta.file_type();
    let is_device = kind.is_char_device() || kind.is_block_device();
    Some(Item {
        mode: meta.mode(),
        owner: (meta.uid(), meta.gid()),
        mtime: (meta.mtime(), meta.mtime_nsec()),
        size: if kind.is_file() || kind.is_symlink() { meta.size() } else { 0 },
        device: if is_device { meta.rdev() } else { 0 },
        links: if kind.is_dir() { 0 } else { meta.nlink() },
        content: kind.is_file().then(|| Digest::of(&fs::read(&path).unwrap())),
        target: kind.is_symlink().then(|| fs::read_link(&path).unwrap()),
        xattrs: xattrs(&path),
        same_as: if kind.is_dir() {
            name.to_owned()
        } else {
            inodes.entry((meta.dev(), meta.ino())).or_insert_with(|| name.to_owned()).clone()
        },
    })
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 64 << 10];
    let length = match rustix::fs::llistxattr(path, &mut names[..]) {
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        other => other.unwrap(),
    };
    names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 64 << 10];
            let length =
                rustix::fs::lgetxattr(path, std::ffi::OsStr::from_bytes(name), &mut value[..]).unwrap();
            value.truncate(length);
            (name.to_owned(), value)
        })
        .collect()
}

/// The names at which two trees differ, with both sides. The root is left out: nothing describes that of a layer.
pub fn differences(left: &Tree, right: &Tree) -> Vec<String> {
    let names: std::collections::BTreeSet<_> = left.keys().chain(right.keys()).collect();
    names
        .into_iter()
        .filter(|name| !name.as_os_str().is_empty() && left.get(*name) != right.get(*name))
        .map(|name| format!("{}:\n  {:?}\n  {:?}", name.display(), left.get(name), right.get(name)))
        .collect()
}
