//! Layers mounted for real, in both ways, compared with what GNU tar unpacks. Needs root, /dev/fuse and overlayfs.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use harness::image::{LayerSource, Published, TarWriter, publish};
use harness::node::{TestMount, TestNode};
use harness::patience::eventually;
use harness::registry::TestRegistry;
use harness::tree::{self, Tree, listing};
use harness::way::Way;
use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use snapshotter::layer::MountOptions;

/// A directory with one of everything that a layer may hold.
fn one_of_everything(root: &Path) {
    fs::create_dir_all(root.join("usr/bin")).unwrap();
    fs::create_dir_all(root.join("empty")).unwrap();
    fs::write(root.join("usr/bin/tool"), b"#!/bin/sh\n").unwrap();
    fs::set_permissions(root.join("usr/bin/tool"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::write(root.join("zero"), b"").unwrap();
    fs::write(root.join("unreadable"), b"secret").unwrap();
    fs::set_permissions(root.join("unreadable"), fs::Permissions::from_mode(0o0)).unwrap();
    fs::set_permissions(root.join("empty"), fs::Permissions::from_mode(0o1777)).unwrap();
    let mut state = 88u64;
    let big: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 58) as u8
    })
    .take(3_000_001)
    .collect();
    fs::write(root.join("usr/big"), big).unwrap();
    fs::hard_link(root.join("usr/big"), root.join("usr/big-again")).unwrap();
    symlink("../usr/big", root.join("usr/link")).unwrap();
    symlink("/nowhere/".to_owned() + &"x".repeat(300), root.join("dangling")).unwrap();
    rustix::fs::chown(
        root.join("usr/bin/tool"),
        Some(rustix::fs::Uid::from_raw(70_000)),
        Some(rustix::fs::Gid::from_raw(12)),
    )
    .unwrap();
    fs::set_permissions(root.join("usr/bin/tool"), fs::Permissions::from_mode(0o4755)).unwrap();
    let device = |name: &str, kind, major, minor| {
        mknodat(CWD, root.join(name), kind, Mode::from_raw_mode(0o620), makedev(major, minor)).unwrap();
    };
    device("char", FileType::CharacterDevice, 5, 300);
    device("block", FileType::BlockDevice, 8, 1);
    device("fifo", FileType::Fifo, 0, 0);
    let long = format!("usr/{}/{}", "d".repeat(200), "f".repeat(250));
    fs::create_dir(root.join(&long).parent().unwrap()).unwrap();
    fs::write(root.join(long), b"long name").unwrap();
    fs::write(root.join("h\u{e9}llo w\u{f6}rld"), b"utf-8").unwrap();
    fs::write(root.join(std::ffi::OsString::from(String::from_utf8_lossy(b"plain").into_owned())), b"x")
        .unwrap();
    let set = |name: &str, key: &str, value: &[u8]| {
        rustix::fs::lsetxattr(root.join(name), key, value, XattrFlags::empty()).unwrap();
    };
    set("plain", "user.note", b"binary \0 value \xff");
    set("plain", "user.empty", b"");
    set("usr/bin/tool", "security.capability", b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    set("empty", "user.dir", b"on a directory");
    let many = root.join("many");
    fs::create_dir(&many).unwrap();
    for at in 0..3000 {
        File::create(many.join(format!("entry-{at:05}"))).unwrap();
    }
    let old = "2001-02-03 04:05:06.123456789 UTC";
    assert!(
        Command::new("touch")
            .args(["-h", "-d", old, "plain", "dangling", "many", "usr/link"])
            .current_dir(root)
            .status()
            .unwrap()
            .success()
    );
    assert!(
        Command::new("touch")
            .args(["-d", "1970-01-01 00:00:00 UTC", "zero"])
            .current_dir(root)
            .status()
            .unwrap()
            .success()
    );
}

fn tar_of(root: &Path, names: &[&str]) -> Vec<u8> {
    let output = Command::new("tar")
        .args([
            "--create",
            "--format=posix",
            "--xattrs",
            "--xattrs-include=*",
            "--numeric-owner",
            "--sort=name",
            "-C",
        ])
        .arg(root)
        .args(names)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn untar(tar: &[u8], to: &Path) {
    use std::io::Write;
    let mut child = Command::new("tar")
        .args(["--extract", "--xattrs", "--xattrs-include=*", "--numeric-owner", "--same-owner", "-p", "-C"])
        .arg(to)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(tar).unwrap();
    assert!(child.wait().unwrap().success());
}

struct Lab {
    node: TestNode,
    image: Published,
    registry: TestRegistry,
    root: tempfile::TempDir,
    way: Way,
}

impl Lab {
    fn new(way: Way, tars: &[Vec<u8>]) -> Self {
        Self::of(way, &tars.iter().map(|tar| LayerSource::of_tar(tar)).collect::<Vec<_>>())
    }

    fn of(way: Way, sources: &[LayerSource]) -> Self {
        let registry = TestRegistry::start();
        let image = publish(&registry, "fuse", sources, 256 << 10);
        let root = tempfile::tempdir().unwrap();
        Self { node: TestNode::new(root.path(), |options| way.ask(options)), image, registry, root, way }
    }

    fn mount(&self, at: usize) -> TestMount {
        self.mount_with(at, &MountOptions::default())
    }

    fn mount_with(&self, at: usize, options: &MountOptions) -> TestMount {
        let mountpoint = self.root.path().join(format!("mnt{at}"));
        fs::create_dir_all(&mountpoint).unwrap();
        let mounted = TestMount::new(&self.node.layer(&self.image, at), &mountpoint, options).unwrap();
        self.way.check(&mountpoint);
        mounted
    }
}

/// An overlay of layers, the topmost first.
struct Overlay(PathBuf);

impl Overlay {
    fn new(mountpoint: &Path, lower: &[&Path], extra: &str) -> Self {
        fs::create_dir_all(mountpoint).unwrap();
        let lower: Vec<_> = lower.iter().map(|path| path.to_str().unwrap()).collect();
        let options = std::ffi::CString::new(format!("lowerdir={}{extra}", lower.join(":"))).unwrap();
        mount("overlay", mountpoint, "overlay", MountFlags::empty(), options.as_c_str()).unwrap();
        Self(mountpoint.to_owned())
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        unmount(&self.0, UnmountFlags::DETACH).unwrap();
    }
}

/// Takes a mount away at the end of a test.
struct Unmount(PathBuf);
impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

fn assert_same(left: &Tree, right: &Tree) {
    let differences = tree::differences(left, right);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

harness::both_ways!(
    a_mounted_layer_is_what_gnu_tar_unpacks,
    a_mounted_zstd_layer_is_what_gnu_tar_unpacks,
    whiteouts_hide_through_overlayfs,
    the_answers_of_a_read_only_file_system,
    many_readers_at_once,
    a_reader_that_waits_for_the_registry_can_be_killed,
    a_dead_registry_is_eio_and_a_live_one_heals_it,
    a_full_disk_keeps_nobody_from_reading,
    unmount_leaves_nothing_behind,
);

fn a_mounted_layer_is_what_gnu_tar_unpacks(way: Way) {
    let work = tempfile::tempdir().unwrap();
    let (from, unpacked) = (work.path().join("from"), work.path().join("unpacked"));
    fs::create_dir_all(&from).unwrap();
    fs::create_dir_all(&unpacked).unwrap();
    one_of_everything(&from);
    let tar = tar_of(&from, &["."]);
    untar(&tar, &unpacked);
    let lab = Lab::new(way, &[tar]);
    let mounted = lab.mount(0);
    let want = listing(&unpacked);
    assert!(want.len() > 3015);
    assert_same(&want, &listing(mounted.mountpoint()));
    // Again from the kernel's caches, and through an overlay.
    assert_same(&want, &listing(mounted.mountpoint()));
    let empty = work.path().join("empty-lower");
    fs::create_dir(&empty).unwrap();
    let overlay = Overlay::new(&work.path().join("merged"), &[mounted.mountpoint(), &empty], "");
    assert_same(&want, &listing(&overlay.0));
}

fn a_mounted_zstd_layer_is_what_gnu_tar_unpacks(way: Way) {
    let work = tempfile::tempdir().unwrap();
    let (from, unpacked) = (work.path().join("from"), work.path().join("unpacked"));
    fs::create_dir_all(&from).unwrap();
    fs::create_dir_all(&unpacked).unwrap();
    one_of_everything(&from);
    let tar = tar_of(&from, &["."]);
    untar(&tar, &unpacked);
    let lab = Lab::of(way, &[LayerSource::of_frames(&tar, 300_000)]);
    assert_same(&listing(&unpacked), &listing(lab.mount(0).mountpoint()));
}

fn whiteouts_hide_through_overlayfs(way: Way) {
    let work = tempfile::tempdir().unwrap();
    let (lower, upper, merged) =
        (work.path().join("lower"), work.path().join("upper"), work.path().join("want"));
    for dir in ["lower/keep", "lower/gone", "lower/opaque/deep", "upper/opaque", "upper/keep", "want"] {
        fs::create_dir_all(work.path().join(dir)).unwrap();
    }
    for file in [
        "lower/keep/a",
        "lower/keep/b",
        "lower/gone/x",
        "lower/opaque/old",
        "lower/opaque/deep/old",
        "lower/replaced",
    ] {
        fs::write(work.path().join(file), file).unwrap();
    }
    for file in [
        "upper/keep/.wh.b",
        "upper/keep/c",
        "upper/.wh.gone",
        "upper/opaque/.wh..wh..opq",
        "upper/opaque/new",
        "upper/.wh.replaced",
        "upper/replaced",
        "upper/.wh..wh.orph",
    ] {
        fs::write(work.path().join(file), file).unwrap();
    }
    // What an OCI runtime makes of it: the lower layer, the deletions, then the upper layer.
    let (lower_tar, upper_tar) = (tar_of(&lower, &["."]), tar_of(&upper, &["."]));
    untar(&lower_tar, &merged);
    for gone in ["keep/b", "replaced"] {
        fs::remove_file(merged.join(gone)).unwrap();
    }
    fs::remove_dir_all(merged.join("gone")).unwrap();
    fs::remove_dir_all(merged.join("opaque")).unwrap();
    untar(&upper_tar, &merged);
    for marker in ["keep/.wh.b", ".wh.gone", "opaque/.wh..wh..opq", ".wh.replaced", ".wh..wh.orph"] {
        fs::remove_file(merged.join(marker)).unwrap();
    }
    for dir in ["keep", "opaque", "."] {
        let time = fs::metadata(upper.join(dir)).unwrap().modified().unwrap();
        File::open(merged.join(dir)).unwrap().set_modified(time).unwrap();
    }
    let want = listing(&merged);

    let lab = Lab::new(way, &[lower_tar, upper_tar]);
    {
        let layers = [lab.mount(0), lab.mount(1)];
        let upper = layers[1].mountpoint();
        let whiteout = fs::symlink_metadata(upper.join("gone")).unwrap();
        assert_eq!((whiteout.mode(), whiteout.rdev()), (0o020_000, 0));
        let mut value = [0u8; 8];
        assert_eq!(
            rustix::fs::lgetxattr(upper.join("opaque"), "trusted.overlay.opaque", &mut value[..]).unwrap(),
            1
        );
        assert_eq!(value[0], b'y');
        assert!(!upper.join(".wh.gone").exists());
        let overlay = Overlay::new(&work.path().join("merged"), &[upper, layers[0].mountpoint()], "");
        assert_same(&want, &listing(&overlay.0));
    }
    let options =
        MountOptions { opaque: snapshotter::fs::xattr::OpaqueMark::User, ..MountOptions::default() };
    let layers = [lab.mount_with(0, &options), lab.mount_with(1, &options)];
    let overlay = Overlay::new(
        &work.path().join("merged-user"),
        &[layers[1].mountpoint(), layers[0].mountpoint()],
        ",userxattr",
    );
    assert_same(&want, &listing(&overlay.0));
}

fn the_answers_of_a_read_only_file_system(way: Way) {
    let work = tempfile::tempdir().unwrap();
    one_of_everything(work.path());
    let lab = Lab::new(way, &[tar_of(work.path(), &["."])]);
    let mounted = lab.mount(0);
    let root = mounted.mountpoint();
    let errno = |error: io::Error| Errno::from_io_error(&error).unwrap();
    assert_eq!(errno(File::create(root.join("new")).unwrap_err()), Errno::ROFS);
    assert_eq!(errno(fs::remove_file(root.join("plain")).unwrap_err()), Errno::ROFS);
    assert_eq!(errno(File::open(root.join("absent")).unwrap_err()), Errno::NOENT);
    assert_eq!(errno(File::open(root.join("plain/below")).unwrap_err()), Errno::NOTDIR);
    assert_eq!(errno(fs::read_link(root.join("plain")).unwrap_err()), Errno::INVAL);
    let mut small = [0u8; 3];
    assert_eq!(
        rustix::fs::lgetxattr(root.join("plain"), "user.note", &mut small[..]).unwrap_err(),
        Errno::RANGE
    );
    assert_eq!(
        rustix::fs::lgetxattr(root.join("plain"), "user.absent", &mut small[..]).unwrap_err(),
        Errno::NODATA
    );
    assert_eq!(rustix::fs::llistxattr(root.join("plain"), &mut small[..]).unwrap_err(), Errno::RANGE);
    let statfs = rustix::fs::statvfs(root).unwrap();
    assert!(statfs.f_files > 3000 && statfs.f_blocks > 0);
    // The kernel says of any EROFS image that it is full.
    let is_image = harness::way::kind(root).as_deref() == Some("erofs");
    assert_eq!(statfs.f_bavail == 0, is_image, "a layer is not a full disk");

    let big = File::open(root.join("usr/big")).unwrap();
    let want = fs::read(work.path().join("usr/big")).unwrap();
    let mut part = [0; 5000];
    big.read_exact_at(&mut part, 1_499_000).unwrap();
    assert_eq!(part[..], want[1_499_000..1_504_000]);
    assert_eq!(big.read_at(&mut part, 3_000_000).unwrap(), 1);
    assert_eq!(big.read_at(&mut part, 3_000_001).unwrap(), 0);
    assert_eq!(big.read_at(&mut part, 1 << 40).unwrap(), 0);
    let mut tail = Vec::new();
    let mut big = big;
    big.seek(SeekFrom::End(-10)).unwrap();
    big.read_to_end(&mut tail).unwrap();
    assert_eq!(tail, want[want.len() - 10..]);
}

fn many_readers_at_once(way: Way) {
    let work = tempfile::tempdir().unwrap();
    one_of_everything(work.path());
    let want = fs::read(work.path().join("usr/big")).unwrap();
    let lab = Lab::new(way, &[tar_of(work.path(), &["."])]);
    let mounted = lab.mount(0);
    let path = mounted.mountpoint().join("usr/big");
    std::thread::scope(|scope| {
        for start in 0..16usize {
            let (path, want) = (&path, &want);
            scope.spawn(move || {
                let file = File::open(path).unwrap();
                let mut part = vec![0; 40_000];
                for step in 0..16usize {
                    let at = (start * 187_500 + step * 911_111) % 2_900_000;
                    file.read_exact_at(&mut part, at as u64).unwrap();
                    assert!(part == want[at..at + 40_000], "wrong bytes at {at}");
                }
            });
        }
    });
    let spans = u64::from(lab.node.layer(&lab.image, 0).spans().ztoc().spans().len());
    assert!(lab.node.stats.demand_spans.get() <= spans, "every span is fetched once");
}

fn a_reader_that_waits_for_the_registry_can_be_killed(way: Way) {
    // Bytes come, but not before the reader's time-out of 30 seconds.
    let tar = TarWriter::default().file("a", &vec![7; 300_000]).finish();
    let lab = Lab::new(way, &[tar]);
    let mounted = lab.mount(0);
    let layer = lab.image.layers[0].to_string();
    lab.registry.faults().add(harness::faults::When::path(layer), harness::faults::Fault::Throttle(1));
    let mut reader = Command::new("cat").arg(mounted.mountpoint().join("a")).spawn().unwrap();
    eventually("it waits", || lab.node.stats.read_waits.get() > 0);
    let killed = std::time::Instant::now();
    reader.kill().unwrap();
    let status = reader.wait().unwrap();
    assert_eq!(status.signal(), Some(9), "{status}");
    assert!(
        killed.elapsed() < std::time::Duration::from_secs(15),
        "it waited for its bytes: {:?}",
        killed.elapsed()
    );
    lab.registry.faults().clear();
}

fn a_dead_registry_is_eio_and_a_live_one_heals_it(way: Way) {
    let tar = TarWriter::default().file("a", &vec![7; 300_000]).finish();
    let lab = Lab::new(way, &[tar]);
    let mounted = lab.mount(0);
    let path = mounted.mountpoint().join("a");
    let layer = lab.image.layers[0].to_string();
    lab.registry.faults().add(harness::faults::When::path(layer), harness::faults::Fault::Status(500, None));
    let error = fs::read(&path).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::IO.raw_os_error()));
    lab.registry.faults().clear();
    assert_eq!(fs::read(&path).unwrap(), vec![7; 300_000]);
}

fn a_full_disk_keeps_nobody_from_reading(way: Way) {
    let work = tempfile::tempdir().unwrap();
    let small = work.path().join("small");
    fs::create_dir(&small).unwrap();
    mount("tmpfs", &small, "tmpfs", MountFlags::empty(), c"size=1500k").unwrap();
    let _unmount = Unmount(small.clone());
    one_of_everything(&{
        let from = work.path().join("from");
        fs::create_dir(&from).unwrap();
        from
    });
    let want = fs::read(work.path().join("from/usr/big")).unwrap();
    let registry = TestRegistry::start();
    let source = LayerSource::of_tar(&tar_of(&work.path().join("from"), &["usr/big"]));
    let image = publish(&registry, "full", &[source], 256 << 10);
    let node = TestNode::new(&small, |options| way.ask(options));
    let layer = node.layer(&image, 0);
    let mountpoint = work.path().join("mnt");
    fs::create_dir(&mountpoint).unwrap();
    let mounted = TestMount::new(&layer, &mountpoint, &MountOptions::default()).unwrap();
    let file = File::open(mountpoint.join("usr/big")).unwrap();
    let mut part = vec![0; 64 << 10];
    for at in (0..want.len() - part.len()).step_by(128 << 10) {
        file.read_exact_at(&mut part, at as u64).unwrap_or_else(|error| panic!("{at}: {error}"));
        assert!(part == want[at..at + part.len()], "wrong bytes at {at}");
    }
    assert!(node.stats.spans_not_written.get() > 0, "3 MB do not fit into 1.5 MB");
    rustix::mount::mount_remount(&small, MountFlags::empty(), c"size=20m").unwrap();
    let mut whole = Vec::new();
    File::open(mountpoint.join("usr/big")).unwrap().read_to_end(&mut whole).unwrap();
    assert!(whole == want, "with room everything can be read");
    drop((file, mounted, layer));
    drop(node);
}

fn unmount_leaves_nothing_behind(way: Way) {
    let tar = TarWriter::default().file("a", b"content").finish();
    let lab = Lab::new(way, &[tar]);
    let mounted = lab.mount(0);
    let mountpoint = mounted.mountpoint().to_owned();
    assert_eq!(fs::read(mountpoint.join("a")).unwrap(), b"content");
    drop(mounted);
    assert_eq!(fs::read_dir(&mountpoint).unwrap().count(), 0);
    // In use: it leaves the tree at once and stays readable for who has it open.
    let mounted = lab.mount(0);
    let open = File::open(mountpoint.join("a")).unwrap();
    drop(mounted);
    assert_eq!(fs::read_dir(&mountpoint).unwrap().count(), 0);
    let mut text = String::new();
    (&open).read_to_string(&mut text).unwrap();
    assert_eq!(text, "content");
    let layers = Arc::strong_count(lab.node.layer(&lab.image, 0).spans());
    assert!(layers > 1);
}
