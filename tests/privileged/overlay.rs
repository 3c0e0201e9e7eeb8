//! The merged view of an image against the kernel: random stacks of layers are unpacked one by one in overlayfs form,
//! mounted, and every visible path must come from the layer the view says.
//!
//! Each file holds its layer's number and its place in the tar, so what is read through the mount names its origin.
//! Needs root (overlay mounts, whiteout devices, trusted.* attributes). Owns its mounts; they are gone after each case.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat, setxattr};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use soci_core::prefetch::{ImageView, LayerFile, VisibleKind};
use soci_core::tar::EntryKind;
use soci_core::units::ByteRange;

/// One tar entry of a random layer.
#[derive(Debug, Clone)]
enum Op {
    Dir(String),
    File(String),
    Symlink(String, String),
    HardLink(String, String),
    Fifo(String),
    Whiteout(String),
    Opaque(String),
}

/// Few names and little depth, so that layers collide all the time.
fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4).prop_map(|parts| parts.join("/"))
}

fn layer() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        3 => path().prop_map(Op::Dir),
        6 => path().prop_map(Op::File),
        1 => (path(), path()).prop_map(|(at, to)| Op::Symlink(at, to)),
        2 => (path(), path()).prop_map(|(at, to)| Op::HardLink(at, to)),
        1 => path().prop_map(Op::Fifo),
        3 => path().prop_map(Op::Whiteout),
        1 => path().prop_map(Op::Opaque),
    ];
    prop::collection::vec(op, 0..8)
}

/// What a path is, and for a file whose bytes it shows: (layer, entry).
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Dir,
    File(usize, usize),
    Symlink,
    Other,
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// The entry as it stands in the tar. File content is the entry's number, so that the view's answer can be compared.
fn entry(op: &Op, number: usize, prefix: &str) -> LayerFile {
    let marker =
        |path: &str, base: &str| if path.is_empty() { base.to_owned() } else { format!("{path}/{base}") };
    let (name, kind, link) = match op {
        Op::Dir(path) => (format!("{path}/"), EntryKind::Dir, ""),
        Op::File(path) => (path.clone(), EntryKind::Reg, ""),
        Op::Symlink(path, to) => (path.clone(), EntryKind::Symlink, to.as_str()),
        Op::HardLink(path, to) => (path.clone(), EntryKind::HardLink, to.as_str()),
        Op::Fifo(path) => (path.clone(), EntryKind::Fifo, ""),
        Op::Whiteout(path) => {
            let (parent, base) = split(path);
            (marker(parent, &format!(".wh.{base}")), EntryKind::Reg, "")
        }
        Op::Opaque(path) => (marker(path, ".wh..wh..opq"), EntryKind::Reg, ""),
    };
    LayerFile {
        name: Bytes::from(format!("{prefix}{name}")),
        kind,
        content: ByteRange::new(number as u64, number as u64 + 1),
        link: Bytes::copy_from_slice(link.as_bytes()),
    }
}

fn remove(path: &Path) {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}

/// Makes the directories on the way to a path; what is in the way goes.
fn directory(path: &Path, root: &Path) {
    if path != root {
        directory(path.parent().unwrap(), root);
        if !fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()) {
            remove(path);
            fs::create_dir(path).unwrap();
        }
    }
}

/// Unpacks one layer as overlayfs wants it. Whiteouts come last: they speak about lower layers only.
fn unpack(ops: &[Op], number: usize, root: &Path) {
    let mut whiteouts: Vec<PathBuf> = Vec::new();
    let mut opaque: Vec<PathBuf> = Vec::new();
    for (i, op) in ops.iter().enumerate() {
        let (Op::Dir(at) | Op::File(at) | Op::Symlink(at, _) | Op::HardLink(at, _) | Op::Fifo(at)) = op
        else {
            let (Op::Whiteout(at) | Op::Opaque(at)) = op else { unreachable!() };
            let at = root.join(at);
            if matches!(op, Op::Opaque(_)) {
                directory(&at, root);
                opaque.push(at);
            } else {
                directory(at.parent().unwrap(), root);
                whiteouts.push(at);
            }
            continue;
        };
        let at = root.join(at);
        directory(at.parent().unwrap(), root);
        let content = format!("{number} {i}");
        match op {
            Op::Dir(_) => directory(&at, root),
            Op::HardLink(_, to) => {
                let to = root.join(to);
                // A link to nothing in this layer, or to a directory, is left out of the oracle's tree (see `plain`).
                assert!(fs::symlink_metadata(&to).is_ok_and(|target| !target.is_dir()));
                if to != at {
                    let copy = root.join(".link");
                    fs::hard_link(&to, &copy).unwrap();
                    remove(&at);
                    directory(at.parent().unwrap(), root);
                    fs::rename(&copy, &at).unwrap();
                    remove(&copy); // renaming a link over itself does nothing
                }
            }
            _ => {
                remove(&at);
                match op {
                    Op::File(_) => fs::write(&at, content).unwrap(),
                    Op::Symlink(_, to) => std::os::unix::fs::symlink(to, &at).unwrap(),
                    _ => mknodat(CWD, &at, FileType::Fifo, Mode::RWXU, 0).unwrap(),
                }
            }
        }
    }
    for at in opaque.iter().filter(|at| at.is_dir()) {
        setxattr(at, "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
    }
    for at in whiteouts {
        match fs::symlink_metadata(&at) {
            // The directory that the whiteout was in was replaced later.
            Err(_) if !at.parent().unwrap().is_dir() => {}
            Err(_) => mknodat(CWD, &at, FileType::CharacterDevice, Mode::empty(), makedev(0, 0)).unwrap(),
            Ok(found) if found.is_dir() => {
                setxattr(&at, "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
            }
            Ok(_) => {}
        }
    }
}

/// Leaves out what has no one meaning in a layer's directory of its own: hard links to what the layer does not have, and
/// markers in a directory that a later entry of the same layer replaces.
fn plain(ops: &[Op]) -> Vec<Op> {
    let mut kept: Vec<Op> = Vec::new();
    let mut nodes: BTreeMap<String, bool> = BTreeMap::new(); // path -> is a directory
    let make_parents = |nodes: &mut BTreeMap<String, bool>, path: &str| {
        let parts: Vec<&str> = path.split('/').collect();
        for end in 1..parts.len() {
            let parent = parts[..end].join("/");
            if nodes.get(&parent) != Some(&true) {
                nodes.insert(parent, true);
            }
        }
    };
    let drop_below = |nodes: &mut BTreeMap<String, bool>, path: &str| {
        let below = format!("{path}/");
        nodes.retain(|name, _| !name.starts_with(&below));
    };
    let mut marked: Vec<String> = Vec::new();
    for op in ops {
        let replaces = |path: &str, marked: &[String]| {
            let below = format!("{path}/");
            marked.iter().any(|dir| dir == path || dir.starts_with(&below))
        };
        match op {
            // Also a link that would replace its target's directory, or make a directory of its target.
            Op::HardLink(path, to)
                if nodes.get(to) != Some(&false)
                    || path.starts_with(&format!("{to}/"))
                    || to.starts_with(&format!("{path}/")) =>
            {
                continue;
            }
            Op::HardLink(path, _) | Op::File(path) | Op::Symlink(path, _) | Op::Fifo(path) => {
                if replaces(path, &marked) {
                    continue;
                }
                make_parents(&mut nodes, path);
                drop_below(&mut nodes, path);
                nodes.insert(path.clone(), false);
            }
            Op::Dir(path) => {
                make_parents(&mut nodes, path);
                nodes.insert(path.clone(), true);
            }
            Op::Whiteout(path) => {
                make_parents(&mut nodes, path);
                marked.push(split(path).0.to_owned());
            }
            Op::Opaque(path) => {
                make_parents(&mut nodes, &format!("{path}/x"));
                marked.push(path.clone());
            }
        }
        kept.push(op.clone());
    }
    kept
}

struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// What the kernel shows.
fn kernel(layers: &[Vec<Op>], dir: &Path) -> BTreeMap<Vec<u8>, Seen> {
    // The kernel wants at least two lower directories; an empty one changes nothing.
    let mut lower = vec![dir.join("empty")];
    fs::create_dir(&lower[0]).unwrap();
    for (number, ops) in layers.iter().enumerate() {
        let root = dir.join(number.to_string());
        fs::create_dir(&root).unwrap();
        unpack(ops, number, &root);
        lower.push(root);
    }
    let top_first: Vec<&OsStr> = lower.iter().rev().map(|path| path.as_os_str()).collect();
    let mut options = b"lowerdir=".to_vec();
    options.extend(top_first.join(OsStr::new(":")).as_bytes());
    let target = dir.join("merged");
    fs::create_dir(&target).unwrap();
    let options = std::ffi::CString::new(options).unwrap();
    mount("overlay", &target, "overlay", MountFlags::RDONLY, Some(options.as_c_str()))
        .expect("root can mount overlayfs");
    let mounted = Mounted(target);
    let mut seen = BTreeMap::new();
    walk(&mounted.0, &mounted.0, &mut seen);
    seen
}

fn walk(dir: &Path, root: &Path, seen: &mut BTreeMap<Vec<u8>, Seen>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        // The kernel lists a whiteout of a directory that only one layer has, but does not let anyone look it up.
        let found = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            found => found.unwrap(),
        };
        let what = if found.is_dir() {
            walk(&path, root, seen);
            Seen::Dir
        } else if found.is_file() {
            let content = fs::read_to_string(&path).unwrap();
            let (layer, entry) = content.split_once(' ').unwrap();
            Seen::File(layer.parse().unwrap(), entry.parse().unwrap())
        } else if found.file_type().is_symlink() {
            Seen::Symlink
        } else {
            assert!(
                !(found.file_type().is_char_device() && found.rdev() == 0),
                "a whiteout shows: {}",
                path.display()
            );
            Seen::Other
        };
        seen.insert(path.strip_prefix(root).unwrap().as_os_str().to_owned().into_vec(), what);
    }
}

/// What the view says.
fn view(layers: &[Vec<Op>], prefix: &str) -> BTreeMap<Vec<u8>, Seen> {
    let tables: Vec<Vec<LayerFile>> = layers
        .iter()
        .map(|ops| ops.iter().enumerate().map(|(i, op)| entry(op, i, prefix)).collect())
        .collect();
    let view = ImageView::build(tables.iter().enumerate());
    let what = |(path, _, kind): (Vec<u8>, usize, VisibleKind)| {
        let seen = match kind {
            VisibleKind::Dir => Seen::Dir,
            VisibleKind::File => {
                let located = view.locate(&path).expect("a visible file has content");
                Seen::File(located.layer, located.content.start as usize)
            }
            VisibleKind::Symlink => Seen::Symlink,
            VisibleKind::Other => Seen::Other,
        };
        (path, seen)
    };
    view.visible().map(what).collect()
}

#[test]
fn the_view_shows_what_overlayfs_shows() {
    let config = Config { cases: 400, failure_persistence: None, ..Config::default() };
    let strategy = (prop::collection::vec(layer(), 1..5), prop::sample::select(vec!["", "./", "/"]));
    TestRunner::new(config)
        .run(&strategy, |(layers, prefix)| {
            let layers: Vec<Vec<Op>> = layers.iter().map(|ops| plain(ops)).collect();
            let dir = tempfile::tempdir().unwrap();
            prop_assert_eq!(view(&layers, prefix), kernel(&layers, dir.path()));
            Ok(())
        })
        .unwrap();
}
