//! EROFS images of layers at the edges of the format, as the kernel reads them, against the same layers answered by FUSE; and
//! what is done about layers that have no image. Needs root and /dev/fuse.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use harness::image::{LayerSource, Published, TarWriter, publish};
use harness::node::{TestMount, TestNode};
use harness::patience::eventually;
use harness::registry::TestRegistry;
use harness::tree::{Tree, differences, listing};
use harness::way::{Way, kind};
use proptest::prelude::*;
use snapshotter::layer::{Layer, MountOptions};
use soci_core::tar::EntryKind;
use soci_core::tree::{Entries, LayerTree};
use tempfile::TempDir;

/// What a mount of the only layer of an image shows.
fn shown(way: Way, image: &Published, look: impl FnOnce(&Path) -> Tree) -> Tree {
    let root = tempfile::tempdir().unwrap();
    let node = TestNode::new(&root.path().join("node"), |options| way.ask(options));
    let mountpoint = root.path().join("mnt");
    fs::create_dir(&mountpoint).unwrap();
    let _mounted = TestMount::new(&node.layer(image, 0), &mountpoint, &MountOptions::default()).unwrap();
    way.check(&mountpoint);
    look(&mountpoint)
}

/// A layer of one file that is asked for as an image, and where it is to be mounted; not yet there.
struct One {
    layer: Arc<Layer>,
    mountpoint: PathBuf,
    node: TestNode,
    _root: TempDir,
    _registry: TestRegistry,
}

fn one() -> One {
    let tar = TarWriter::default().file("a", b"content").finish();
    let registry = TestRegistry::start();
    let image = publish(&registry, "one", &[LayerSource::of_tar(&tar)], 64 << 10);
    let root = tempfile::tempdir().unwrap();
    let node = TestNode::new(root.path(), |options| Way::Image.ask(options));
    let (layer, mountpoint) = (node.layer(&image, 0), root.path().join("mnt"));
    One { layer, mountpoint, node, _root: root, _registry: registry }
}

/// Checks that both ways show the same of a tar. What it is.
#[track_caller]
fn same_in_both_ways(tar: &[u8]) -> Tree {
    let registry = TestRegistry::start();
    let image = publish(&registry, "erofs", &[LayerSource::of_tar(tar)], 64 << 10);
    let by_fuse = shown(Way::Fuse, &image, listing);
    let by_image = shown(Way::Image, &image, listing);
    let differences = differences(&by_fuse, &by_image);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    by_image
}

/// A tar made by GNU tar of what `make` puts into a directory.
fn tar_of(make: impl FnOnce(&Path)) -> Vec<u8> {
    let from = tempfile::tempdir().unwrap();
    make(from.path());
    let options = ["--create", "--format=posix", "--xattrs", "--xattrs-include=*", "--sort=name", "-C"];
    let output = Command::new("tar").args(options).arg(from.path()).arg(".").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn names_around_the_dots_and_directories_around_a_block() {
    let tar = tar_of(|root| {
        let put = |directory: &str, name: &str| {
            let directory = root.join(directory);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join(name), "").unwrap();
        };
        // Names before `.` and between `.` and `..`, and behind them.
        for name in ["!", "-", "+x", ",", ".-", "...", ".a", "..-", "~", "\u{e9}"] {
            put("odd", name);
        }
        // A name of 255 bytes needs 267 of a directory's block; `.` and `..` need 27.
        for (directory, names) in [("below", 14), ("full", 15), ("above", 16), ("more", 200)] {
            for at in 0..names {
                put(directory, &format!("{at:03}{}", "n".repeat(252)));
            }
        }
        // Directories whose entries end at each byte around the room behind an inode, and around a block.
        for size in (3990..4040).chain(4080..4110) {
            for at in 0..15 {
                put(&format!("size{size}"), &format!("{at:02}{}", "n".repeat(246)));
            }
            put(&format!("size{size}"), &"z".repeat(size - 27 - 15 * 260 - 12));
        }
    });
    let shown = same_in_both_ways(&tar);
    assert!(shown.len() > 200 + 80 * 15);
}

#[test]
fn files_and_links_around_a_block() {
    let tar = tar_of(|root| {
        for size in [0, 1, 4095, 4096, 4097, 8191, 8192, 8193, 70_000] {
            let content: Vec<u8> = (0..size).map(|at: usize| (at * 31 / 7) as u8).collect();
            fs::write(root.join(format!("file{size}")), content).unwrap();
        }
        // What stands behind an inode, and what has a block of its own.
        for size in [1, 2, 100, 3000, 4030, 4031, 4032, 4033, 4034, 4095] {
            std::os::unix::fs::symlink("t".repeat(size), root.join(format!("link{size:04}"))).unwrap();
        }
        fs::hard_link(root.join("file4097"), root.join("again")).unwrap();
    });
    assert_eq!(same_in_both_ways(&tar).len(), 21);
}

#[test]
fn attributes_of_all_sizes() {
    let attribute = |name: &str, size: usize| format!("SCHILY.xattr.{name}={}", "v".repeat(size));
    let mut tar = Vec::new();
    let mut put = |name: &str, attributes: &[String]| {
        let mut header = TarWriter::default();
        let records: String = attributes.iter().map(|text| record(text)).collect();
        header.entry("pax", b'x', "", records.as_bytes()).file(name, name.as_bytes());
        let mut entries = header.finish();
        entries.truncate(entries.len() - 1024);
        tar.extend(entries);
    };
    for size in [0, 1, 2, 3, 4, 3900, 3960, 4000, 4096, 20_000, 65_535] {
        put(&format!("a{size}"), &[attribute("user.big", size)]);
    }
    put("b", &(0..50).map(|at| attribute(&format!("user.{at}{}", "n".repeat(200)), 100)).collect::<Vec<_>>());
    put("c", &[attribute("security.x", 20), attribute("trusted.x", 9), attribute("user.x", 3)]);
    tar.extend([0; 1024]);
    assert_eq!(same_in_both_ways(&tar).len(), 14);
}

/// A record of an extended header: its length counts itself.
fn record(text: &str) -> String {
    let rest = text.len() + 2;
    let mut length = rest + 1;
    while length.to_string().len() + rest != length {
        length = length.to_string().len() + rest;
    }
    format!("{length} {text}\n")
}

#[test]
fn a_layer_without_an_image_is_answered_by_fuse() {
    // The longest value that a file can have is one byte longer than the format has room for.
    let header = record(&format!("SCHILY.xattr.user.big={}", "v".repeat(65_536)));
    let tar =
        TarWriter::default().entry("pax", b'x', "", header.as_bytes()).file("file", b"content").finish();
    let registry = TestRegistry::start();
    let image = publish(&registry, "none", &[LayerSource::of_tar(&tar)], 64 << 10);
    let small = publish(
        &registry,
        "some",
        &[LayerSource::of_tar(&TarWriter::default().file("a", b"").finish())],
        64 << 10,
    );
    let root = tempfile::tempdir().unwrap();
    let node = TestNode::new(root.path(), |options| Way::Image.ask(options));
    let mountpoint = root.path().join("mnt");
    fs::create_dir(&mountpoint).unwrap();
    let mounted = TestMount::new(&node.layer(&image, 0), &mountpoint, &MountOptions::default()).unwrap();
    assert_eq!(kind(&mountpoint).as_deref(), Some("fuse.soci"));
    assert_eq!(fs::read(mountpoint.join("file")).unwrap(), b"content");
    assert_eq!(node.stats.erofs_mounts.get(), 0);
    drop(mounted);
    // The next layer is no worse for it.
    let _mounted = TestMount::new(&node.layer(&small, 0), &mountpoint, &MountOptions::default()).unwrap();
    Way::Image.check(&mountpoint);
}

#[test]
fn reads_around_the_page_cache_are_right_or_refused() {
    let content: Vec<u8> = (0..20_000).map(|at: u32| (at / 7) as u8).collect();
    let registry = TestRegistry::start();
    let tar = TarWriter::default().file("a", &content).finish();
    let image = publish(&registry, "direct", &[LayerSource::of_tar(&tar)], 64 << 10);
    for way in [Way::Fuse, Way::Image] {
        shown(way, &image, |mountpoint| {
            let output = Command::new("dd")
                .args(["iflag=direct", "bs=4096", "status=none"])
                .arg(format!("if={}/a", mountpoint.display()))
                .output()
                .unwrap();
            let refused = String::from_utf8_lossy(&output.stderr).contains("Invalid argument");
            assert!(output.stdout == content || refused && way == Way::Image, "{way:?}: {output:?}");
            Tree::new()
        });
    }
}

#[test]
fn where_read_ahead_cannot_be_set_fuse_answers() {
    const NAME: &str = "where_read_ahead_cannot_be_set_fuse_answers";
    const INSIDE: &str = "SOCI_TEST_WITH_READ_ONLY_SYS";
    if std::env::var_os(INSIDE).is_none() {
        // Again in a mount namespace whose /sys cannot be written, as in most containers.
        let script = "mount -o remount,bind,ro /sys && exec \"$@\"";
        let status = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture"])
            .env(INSIDE, "1")
            .status();
        assert!(status.unwrap().success());
        return;
    }
    let One { node, layer, mountpoint, .. } = &one();
    fs::create_dir(mountpoint).unwrap();
    for _ in 0..2 {
        let _mounted = TestMount::new(layer, mountpoint, &MountOptions::default()).unwrap();
        assert_eq!(kind(mountpoint).as_deref(), Some("fuse.soci"));
        assert_eq!(fs::read(mountpoint.join("a")).unwrap(), b"content");
    }
    assert_eq!((node.stats.erofs_mounts.get(), node.stats.fuse_mounts.get()), (0, 2));
}

#[test]
fn a_place_that_is_not_there_is_no_reason_against_images() {
    let One { layer, mountpoint, .. } = &one();
    TestMount::new(layer, mountpoint, &MountOptions::default()).unwrap_err();
    fs::create_dir(mountpoint).unwrap();
    let _mounted = TestMount::new(layer, mountpoint, &MountOptions::default()).unwrap();
    Way::Image.check(mountpoint);
}

#[test]
fn an_image_is_unmounted_with_all_that_is_behind_it() {
    let One { layer, mountpoint, .. } = &one();
    fs::create_dir(mountpoint).unwrap();
    // What is open, but for sockets: the registry lets go of idle connections when it likes.
    let open = || {
        let of = |entry: std::io::Result<fs::DirEntry>| fs::read_link(entry.unwrap().path()).ok();
        let named = fs::read_dir("/proc/self/fd").unwrap().filter_map(of);
        let mut open: Vec<_> = named.filter(|name| !name.to_string_lossy().starts_with("socket:")).collect();
        open.sort();
        open
    };
    let mounts = || fs::read_to_string("/proc/self/mounts").unwrap().lines().count();
    let alone = Arc::strong_count(layer);
    // The first mount opens the connection, which stays.
    drop(TestMount::new(layer, mountpoint, &MountOptions::default()).unwrap());
    let before = (open(), mounts());
    for _ in 0..20 {
        let mounted = TestMount::new(layer, mountpoint, &MountOptions::default()).unwrap();
        assert_eq!(fs::read(mountpoint.join("a")).unwrap(), b"content");
        assert_eq!(mounts(), before.1 + 1, "there is one mount, and no other");
        drop(mounted);
    }
    assert_eq!((open(), mounts()), before);
    // The kernel says when it has forgotten the last of them.
    eventually("the layer is given up", || Arc::strong_count(layer) == alone);
}

#[test]
fn an_image_survives_whoever_looks_through_it() {
    // The kernel's own checks of a whole tree, by a program that reads every byte and attribute of it.
    let tar = tar_of(|root| {
        for directory in 0..40 {
            let directory = root.join(format!("d{directory}"));
            fs::create_dir(&directory).unwrap();
            for file in 0..100 {
                fs::write(directory.join(format!("f{file}")), vec![file as u8; file * 97]).unwrap();
            }
        }
    });
    let registry = TestRegistry::start();
    let image = publish(&registry, "tar", &[LayerSource::of_tar(&tar)], 64 << 10);
    let again = |mountpoint: &Path| {
        let options = ["--create", "--format=posix", "--xattrs", "--xattrs-include=*", "--sort=name", "-C"];
        let tar =
            Command::new("tar").args(options).arg(mountpoint).arg(".").stderr(Stdio::inherit()).output();
        tar.unwrap().stdout
    };
    let mut out = Vec::new();
    shown(Way::Image, &image, |mountpoint| {
        out = again(mountpoint);
        Tree::new()
    });
    let (want, got) = (unpacked(&tar), unpacked(&out));
    let differences = differences(&want, &got);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

fn unpacked(tar: &[u8]) -> Tree {
    use std::io::Write;
    let to = tempfile::tempdir().unwrap();
    let mut child = Command::new("tar")
        .args(["--extract", "--xattrs", "--xattrs-include=*", "--same-owner", "-p", "-C"])
        .arg(to.path())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(tar).unwrap();
    assert!(child.wait().unwrap().success());
    listing(to.path())
}

/// One entry of a tar.
#[derive(Debug, Clone)]
struct Entry {
    name: String,
    kind: u8,
    link: String,
    size: usize,
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let part = prop_oneof![
        "[a-c]",
        "[!-~&&[^/]]{1,3}",
        "[a-b]{60}",
        Just(".wh.a".to_owned()),
        Just(".wh..wh..opq".to_owned())
    ];
    let name = proptest::collection::vec(part, 1..4).prop_map(|parts| parts.join("/"));
    let kind = prop_oneof![4 => Just(b'0'), 3 => Just(b'5'), 1 => Just(b'1'), 1 => Just(b'2'), 1 => Just(b'3'), 1 => Just(b'6')];
    let entry = (name.clone(), kind, name, 0..9000usize).prop_map(|(name, kind, link, size)| Entry {
        name,
        kind,
        link,
        size,
    });
    proptest::collection::vec(entry, 0..60)
}

/// What of them a layer can have.
struct Kept<'a>(Vec<&'a Entry>);

impl Entries for Kept<'_> {
    fn name(&self, entry: u32) -> &[u8] {
        self.0[entry as usize].name.as_bytes()
    }
    fn kind(&self, entry: u32) -> EntryKind {
        match self.0[entry as usize].kind {
            b'5' => EntryKind::Dir,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::Char,
            b'6' => EntryKind::Fifo,
            _ => EntryKind::Reg,
        }
    }
    fn link(&self, entry: u32) -> &[u8] {
        self.0[entry as usize].link.as_bytes()
    }
    fn device(&self, _: u32) -> (u32, u32) {
        (0, 0)
    }
    fn xattrs(&self, _: u32) -> impl Iterator<Item = (&[u8], &[u8])> {
        std::iter::empty()
    }
}

impl<'a> Kept<'a> {
    fn of(entries: &'a [Entry]) -> Self {
        let fits = |entry: &&Entry| entry.name.len() <= 99 && entry.link.len() <= 99;
        let mut kept = Self(entries.iter().filter(fits).collect());
        while let Some(refused) = LayerTree::build(&kept, kept.0.len()).refused().first() {
            kept.0.remove(refused.entry as usize);
        }
        kept
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_the_layer_both_ways_show_the_same(entries in entries()) {
        let mut tar = TarWriter::default();
        for (at, entry) in Kept::of(&entries).0.into_iter().enumerate() {
            let content = vec![at as u8; if entry.kind == b'0' { entry.size } else { 0 }];
            tar.entry(&entry.name, entry.kind, &entry.link, &content);
        }
        same_in_both_ways(&tar.finish());
    }
}
