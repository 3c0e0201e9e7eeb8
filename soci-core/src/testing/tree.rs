//! What a directory tree holds, as values that can be compared.
//!
//! Owns nothing. Invariant: two trees that a process inside of them could not tell apart (but for inode numbers,
//! access and change times) have equal descriptions.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::digest::Digest;

/// One name in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Permission bits and file type, as `st_mode`.
    pub mode: u32,
    /// Owner's number.
    pub uid: u32,
    /// Group's number.
    pub gid: u32,
    /// Modification time: seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// Length in bytes; 0 for directories, whose length depends on the filesystem.
    pub size: u64,
    /// Device numbers of a device as `st_rdev`, else 0.
    pub device: u64,
    /// Digest of a regular file's content.
    pub content: Option<Digest>,
    /// Target of a symbolic link.
    pub target: Option<PathBuf>,
    /// For a file with several names: the first of them in path order.
    pub same_as: Option<PathBuf>,
    /// Extended attributes, sorted.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Describes everything below `root` by path relative to it; `root` itself is the empty path.
pub fn describe(root: &Path) -> io::Result<BTreeMap<PathBuf, Node>> {
    let mut nodes = BTreeMap::new();
    let mut first_names = BTreeMap::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let full = root.join(&path);
        let metadata = full.symlink_metadata()?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            for entry in std::fs::read_dir(&full)? {
                pending.push(path.join(entry?.file_name()));
            }
        } else if metadata.nlink() > 1 {
            let names = first_names.entry((metadata.dev(), metadata.ino())).or_insert_with(Vec::new);
            names.push(path.clone());
        }
        let is_device = kind.is_char_device() || kind.is_block_device();
        let node = Node {
            mode: metadata.mode(),
            uid: metadata.uid(),
            gid: metadata.gid(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            size: if kind.is_dir() { 0 } else { metadata.size() },
            device: if is_device { metadata.rdev() } else { 0 },
            content: if kind.is_file() { Some(Digest::of(&std::fs::read(&full)?)) } else { None },
            target: if kind.is_symlink() { Some(std::fs::read_link(&full)?) } else { None },
            same_as: None,
            xattrs: xattrs(&full)?,
        };
        nodes.insert(path, node);
    }
    for mut names in first_names.into_values() {
        names.sort();
        for name in &names {
            if let Some(node) = nodes.get_mut(name) {
                node.same_as = Some(names[0].clone());
            }
        }
    }
    Ok(nodes)
}

fn xattrs(path: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut names = vec![0; 64 << 10];
    let length = match rustix::fs::llistxattr(path, &mut names) {
        Ok(length) => length,
        Err(rustix::io::Errno::NOTSUP) => 0,
        Err(error) => return Err(error.into()),
    };
    let mut value = vec![0; 64 << 10];
    let mut xattrs = BTreeMap::new();
    for name in names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let length = rustix::fs::lgetxattr(path, std::ffi::OsStr::from_bytes(name), &mut value)?;
        xattrs.insert(name.to_vec(), value[..length].to_vec());
    }
    Ok(xattrs)
}
