//! Layers written to directories, mounted as an overlay, against GNU tar; and archives that try to get out. Needs root.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use soci_core::digest::Digest;
use soci_core::testing::{Node, TarBuilder, TarEntry, TarFormat, describe, reference};
use soci_core::unpack::{ApplyOptions, Below, LayerFormat, UnpackError, Unpacked, inherit, unpack_layer};

/// Names that meet each other: as files, directories, links and whiteouts, in all layers.
const NAMES: [&str; 6] = ["a", "b", "a/c", "a/d", "a/c/e", "b/f"];

/// An entry, in a form in which each name comes at most once in a layer.
#[derive(Debug, Clone)]
enum Thing {
    File(u8),
    Directory(u32),
    Symlink(usize),
    Fifo,
    Device,
    Whiteout,
    OpaqueDirectory,
}

fn thing() -> impl Strategy<Value = Thing> {
    prop_oneof![
        3 => any::<u8>().prop_map(Thing::File),
        4 => prop_oneof![Just(0o755u32), Just(0o1777), Just(0o2700)].prop_map(Thing::Directory),
        1 => (0..NAMES.len()).prop_map(Thing::Symlink),
        1 => Just(Thing::Fifo),
        1 => Just(Thing::Device),
        3 => Just(Thing::Whiteout),
        1 => Just(Thing::OpaqueDirectory),
    ]
}

/// The tar of a layer in which every parent is a listed directory, as image builders write them.
fn layer(things: &BTreeMap<usize, Thing>) -> Vec<u8> {
    let mut things: BTreeMap<_, _> = things.iter().map(|(&at, thing)| (NAMES[at], thing.clone())).collect();
    for name in things.keys().copied().collect::<Vec<_>>() {
        let mut above = name;
        while let Some((parent, _)) = above.rsplit_once('/') {
            above = parent;
            let is_directory =
                matches!(things.get(above), Some(Thing::Directory(_) | Thing::OpaqueDirectory));
            if !is_directory {
                things.insert(above, Thing::Directory(0o755));
            }
        }
    }
    let mut entries = Vec::new();
    for (at, (name, thing)) in things.into_iter().enumerate() {
        let time = 1_600_000_000 + at as i64;
        let entry = match thing {
            Thing::File(byte) => TarEntry::file(name, vec![byte; usize::from(byte)]).mode(0o4750).owner(7, 8),
            Thing::Directory(mode) => TarEntry::dir(format!("{name}/")).mode(mode).owner(3, 4),
            Thing::Symlink(target) => TarEntry::symlink(name, NAMES[target]),
            Thing::Fifo => TarEntry::fifo(name),
            Thing::Device => TarEntry::char_device(name, 5, 1),
            Thing::Whiteout => TarEntry::whiteout(name),
            Thing::OpaqueDirectory => {
                entries.push(TarEntry::dir(format!("{name}/")).mtime(time, 5));
                TarEntry::opaque(name)
            }
        };
        entries.push(entry.mtime(time, 123_456_789));
    }
    TarBuilder::archive(TarFormat::Pax, &entries)
}

/// Takes out whiteouts in directories that hide nothing below: overlayfs lists their names, since it reads such a
/// directory as it is. Image builders do not write them.
fn drop_idle_whiteouts(things: &mut BTreeMap<usize, Thing>, below: &Path) {
    let opaque: Vec<_> = things
        .iter()
        .filter(|(_, thing)| matches!(thing, Thing::OpaqueDirectory))
        .map(|(&at, _)| Path::new(NAMES[at]))
        .collect();
    let merges = |directory: &Path| {
        let is_directory =
            |path: &Path| fs::symlink_metadata(below.join(path)).is_ok_and(|found| found.is_dir());
        directory.ancestors().all(|path| is_directory(path) && !opaque.contains(&path))
    };
    things.retain(|&at, thing| {
        !matches!(thing, Thing::Whiteout) || merges(Path::new(NAMES[at]).parent().unwrap())
    });
}

fn unpack(tar: &[u8], to: &Path) -> Result<Unpacked, UnpackError> {
    fs::create_dir_all(to).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).unwrap();
    unpack_layer(tar, LayerFormat::Tar, to, ApplyOptions::default(), Some(Digest::of(tar)))
}

/// A mounted overlay.
struct Overlay(PathBuf);

impl Overlay {
    fn mount(layers: &[PathBuf], at: PathBuf) -> Self {
        fs::create_dir_all(&at).unwrap();
        let lower: Vec<_> = layers.iter().rev().map(|path| path.to_str().unwrap()).collect();
        let options = CString::new(format!("lowerdir={}", lower.join(":"))).unwrap();
        mount("overlay", &at, "overlay", MountFlags::empty(), options.as_c_str()).unwrap();
        Self(at)
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.0, UnmountFlags::DETACH) {
            eprintln!("{} stays mounted: {error}", self.0.display());
        }
    }
}

fn tree(root: &Path) -> BTreeMap<PathBuf, Node> {
    let mut tree = describe(root).unwrap();
    tree.remove(Path::new(""));
    tree
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_overlay_of_unpacked_layers_is_what_gnu_tar_unpacks(
        layers in proptest::collection::vec(proptest::collection::btree_map(0..NAMES.len(), thing(), 0..6), 2..5)
    ) {
        let work = tempfile::tempdir().unwrap();
        let expected = work.path().join("expected");
        fs::create_dir(&expected).unwrap();
        let mut directories = Vec::new();
        for (at, mut things) in layers.into_iter().enumerate() {
            drop_idle_whiteouts(&mut things, &expected);
            let (tar, directory) = (work.path().join(format!("{at}.tar")), work.path().join(at.to_string()));
            let bytes = layer(&things);
            fs::write(&tar, &bytes).unwrap();
            unpack(&bytes, &directory).unwrap();
            directories.push(directory);
            reference::unpack(&[tar], &expected).unwrap();
        }
        let overlay = Overlay::mount(&directories, work.path().join("merged"));
        prop_assert_eq!(tree(&expected), tree(&overlay.0));
    }
}

#[test]
fn nothing_of_a_hostile_archive_lands_outside() {
    let work = tempfile::tempdir().unwrap();
    let (to, outside) = (work.path().join("to"), work.path().join("outside"));
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("victim"), "untouched").unwrap();
    let out = outside.to_str().unwrap();
    let entries = [
        TarEntry::file("../outside/up", b"x".to_vec()),
        TarEntry::file(format!("{out}/absolute"), b"x".to_vec()),
        TarEntry::symlink("link", out),
        TarEntry::file("link/through", b"x".to_vec()),
        TarEntry::symlink("relative", "../../../../../../../../../../../../".to_owned() + out),
        TarEntry::file("relative/through", b"x".to_vec()),
        TarEntry::symlink("chain", "link"),
        TarEntry::dir("chain/").mode(0o777),
        TarEntry::symlink("over", format!("{out}/victim")),
        TarEntry::file("over", b"replaces the link".to_vec()),
        TarEntry::symlink("one", "two"),
        TarEntry::symlink("two", out),
        TarEntry::file("one/sub/file", b"x".to_vec()),
        TarEntry::whiteout("link/victim"),
    ];
    unpack(&TarBuilder::archive(TarFormat::Pax, &entries), &to).unwrap();
    let left: Vec<_> = fs::read_dir(&outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["victim"]);
    assert_eq!(fs::read(outside.join("victim")).unwrap(), b"untouched");
    assert_eq!(fs::metadata(&outside).unwrap().permissions().mode() & 0o7777, 0o755);
    assert_eq!(fs::read(to.join("over")).unwrap(), b"replaces the link");
    // What was aimed at a place outside has its counterpart inside.
    let inside = to.join(out.strip_prefix('/').unwrap());
    assert!(
        inside.join("through").exists() && inside.join("absolute").exists() && to.join("outside/up").exists()
    );
}

#[test]
fn hard_links_reach_files_of_the_layer_only() {
    let work = tempfile::tempdir().unwrap();
    let outside = work.path().join("secret");
    fs::write(&outside, "secret").unwrap();
    for target in [outside.to_str().unwrap(), "../secret", "../../../../etc/passwd", "absent"] {
        let to = work.path().join("to");
        let entries = [TarEntry::hard_link("stolen", target)];
        let error = unpack(&TarBuilder::archive(TarFormat::Pax, &entries), &to).unwrap_err();
        assert!(matches!(error, UnpackError::Entry { .. }), "{target}: {error}");
        fs::remove_dir_all(&to).unwrap();
    }
    assert_eq!(fs::metadata(&outside).unwrap().nlink(), 1);
}

#[test]
fn links_in_a_circle_are_an_error() {
    let work = tempfile::tempdir().unwrap();
    let entries =
        [TarEntry::symlink("a", "b"), TarEntry::symlink("b", "a"), TarEntry::file("a/file", b"x".to_vec())];
    unpack(&TarBuilder::archive(TarFormat::Pax, &entries), &work.path().join("to")).unwrap_err();
}

#[test]
fn other_content_than_announced_and_half_archives_are_errors() {
    let work = tempfile::tempdir().unwrap();
    let tar = TarBuilder::archive(TarFormat::Pax, &[TarEntry::file("a", vec![1; 5000])]);
    let half = &tar[..2000];
    let options = ApplyOptions::default;
    for (number, result) in [
        unpack_layer(&tar[..], LayerFormat::Tar, &dir(&work, 1), options(), Some(Digest::of(b"other"))),
        unpack_layer(half, LayerFormat::Tar, &dir(&work, 2), options(), Some(Digest::of(half))),
        unpack_layer(&tar[..], LayerFormat::Gzip, &dir(&work, 3), options(), Some(Digest::of(&tar))),
    ]
    .into_iter()
    .enumerate()
    {
        assert!(result.is_err(), "{number}");
    }
}

fn dir(work: &tempfile::TempDir, number: u32) -> PathBuf {
    let path = work.path().join(number.to_string());
    fs::create_dir(&path).unwrap();
    path
}

#[test]
fn implied_directories_are_told_and_can_be_described_later() {
    let work = tempfile::tempdir().unwrap();
    let (below, above) = (work.path().join("below"), work.path().join("above"));
    fs::create_dir_all(below.join("x/y")).unwrap();
    fs::set_permissions(below.join("x"), fs::Permissions::from_mode(0o2710)).unwrap();
    symlink("x", below.join("z")).unwrap();
    let entries = [
        TarEntry::file("x/y/file", b"1".to_vec()),
        TarEntry::file("z/file", b"2".to_vec()),
        TarEntry::dir("x/y/").mode(0o711),
        TarEntry::file("new/file", b"3".to_vec()),
    ];
    let unpacked = unpack(&TarBuilder::archive(TarFormat::Pax, &entries), &above).unwrap();
    let mut implied = unpacked.applied.implied;
    implied.sort();
    assert_eq!(implied, [&b"new"[..], b"x", b"z"]);
    inherit(&above, &implied, &Below::open(&[below]).unwrap()).unwrap();
    let mode = |name: &str| fs::metadata(above.join(name)).unwrap().mode() & 0o7777;
    assert_eq!([mode("x"), mode("x/y"), mode("new")], [0o2710, 0o711, 0o755]);
}
