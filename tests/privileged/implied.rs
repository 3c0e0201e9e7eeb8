//! Directories that a layer only implies look as the layers below say: in a container of the daemon, however the layers
//! came, and after a restart. And the root stays root's.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use harness::daemon::Daemon;
use harness::image::{LayerSource, Published, publish};
use harness::pull::{mount_at, prepare_container, pull};
use harness::registry::TestRegistry;
use rustix::mount::{UnmountFlags, unmount};
use soci_core::digest::Digest;
use soci_core::testing::{TarBuilder, TarEntry, TarFormat};
use soci_core::unpack::{ApplyOptions, LayerFormat, unpack_layer};
use tokio::runtime::Runtime;

const WHOLE: &str = "[pull_modes.parallel_pull_unpack]\nenable = true\n";
const BY_FUSE: &str = "[fuse]\nerofs = false\n";

fn layers() -> Vec<Vec<u8>> {
    let below = [
        TarEntry::dir("./").mode(0o700).owner(1000, 1000).xattr("user.root", "mine"),
        TarEntry::dir("tmp/").mode(0o1777),
        TarEntry::dir("home/"),
        TarEntry::dir("home/app/")
            .mode(0o700)
            .owner(1000, 12)
            .mtime(1_234_567_890, 5)
            .xattr("user.note", "kept"),
        TarEntry::dir("gone/").mode(0o711),
    ];
    let middle = [TarEntry::file("tmp/x", "x"), TarEntry::file("home/app/y", "y").owner(1000, 1000)];
    let top = [
        TarEntry::file("home/app/z", "z"),
        TarEntry::file("new/deep/er", "n"),
        TarEntry::whiteout("gone"),
        TarEntry::file("gone/f", "f"),
    ];
    [&below[..], &middle, &top].map(|entries| TarBuilder::archive(TarFormat::Pax, entries)).into()
}

/// Looks at a container on the image's layers.
fn check(runtime: &Runtime, daemon: &Daemon, top: &str, work: &Path, key: &str) {
    let mounts = runtime.block_on(async { prepare_container(&mut daemon.client().await, key, top).await });
    let root = work.join(key);
    mount_at(&mounts.unwrap(), &root);
    let look = |name: &str| {
        let meta = fs::symlink_metadata(root.join(name)).unwrap();
        (meta.mode() & 0o7777, meta.uid(), meta.gid(), meta.mtime(), meta.mtime_nsec())
    };
    let mut note = [0; 8];
    let length = rustix::fs::lgetxattr(root.join("home/app"), "user.note", &mut note[..]);
    let seen = (look("tmp"), look("home"), look("home/app"), look("new/deep"), look("gone"), look(""));
    let gone: Vec<_> =
        fs::read_dir(root.join("gone")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    unmount(&root, UnmountFlags::DETACH).unwrap();
    let time = 1_700_000_000;
    assert_eq!(seen.0, (0o1777, 0, 0, time, 0), "{key}");
    assert_eq!(seen.1, (0o755, 0, 0, time, 0), "{key}");
    assert_eq!(seen.2, (0o700, 1000, 12, 1_234_567_890, 5), "{key}");
    assert_eq!(seen.3, (0o755, 0, 0, 0, 0), "{key}");
    assert_eq!(seen.4, (0o711, 0, 0, time, 0), "{key}");
    assert_eq!((seen.5.0, seen.5.1, seen.5.2), (0o755, 0, 0), "{key}: the root is root's");
    assert_eq!(length.map(|length| note[..length].to_vec()), Ok(b"kept".to_vec()), "{key}");
    assert_eq!(gone, ["f"], "{key}");
}

#[test]
fn they_look_as_the_layers_below_say_however_those_came() {
    let tars = layers();
    let diff_ids: Vec<_> = tars.iter().map(|tar| Digest::of(tar)).collect();
    let runtime = Runtime::new().unwrap();
    // Layers out of the index are unpacked by us; without any index all are left to the runtime.
    let cases: [(&str, &[usize]); 5] = [("", &[]), (BY_FUSE, &[]), ("", &[0]), (BY_FUSE, &[1]), (WHOLE, &[])];
    for (config, unindexed) in cases {
        let registry = TestRegistry::start();
        let mut sources: Vec<_> = tars.iter().map(|tar| LayerSource::of_tar(tar)).collect();
        for at in unindexed {
            sources[*at].unindexed = true;
        }
        let image: Published = publish(&registry, "app", &sources, 256 << 10);
        let work = tempfile::tempdir().unwrap();
        let mut daemon = Daemon::start(work.path(), config);
        let (_, top) = runtime
            .block_on(async {
                pull(&mut daemon.client().await, &image, &diff_ids, |at, mounts| {
                    panic!("layer {at} is left to the runtime: {mounts:?}")
                })
                .await
            })
            .unwrap();
        check(&runtime, &daemon, &top, work.path(), "before");
        daemon.kill();
        daemon.restart(config);
        check(&runtime, &daemon, &top, work.path(), "after");
    }
}

#[test]
fn an_archive_can_have_acls_that_what_is_made_in_a_directory_does_not_inherit() {
    let acl = [
        &2u32.to_le_bytes()[..],
        &[1, 0, 7, 0, 255, 255, 255, 255],
        &[2, 0, 5, 0, 0xe9, 3, 0, 0],
        &[4, 0, 5, 0, 255, 255, 255, 255],
        &[16, 0, 5, 0, 255, 255, 255, 255],
        &[32, 0, 0, 0, 255, 255, 255, 255],
    ]
    .concat();
    let entries =
        [TarEntry::dir("d/").xattr("system.posix_acl_default", &acl), TarEntry::file("d/f", "f").mode(0o640)];
    let tar = TarBuilder::archive(TarFormat::Pax, &entries);
    let to = tempfile::tempdir().unwrap();
    unpack_layer(tar.as_slice(), LayerFormat::Tar, to.path(), ApplyOptions::default(), None).unwrap();
    let mut value = [0; 100];
    let default = rustix::fs::lgetxattr(to.path().join("d"), "system.posix_acl_default", &mut value[..]);
    assert_eq!(default.map(|length| value[..length].to_vec()), Ok(acl));
    let access = rustix::fs::lgetxattr(to.path().join("d/f"), "system.posix_acl_access", &mut value[..]);
    assert_eq!(access, Err(rustix::io::Errno::NODATA));
}
