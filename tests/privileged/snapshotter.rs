//! The daemon as containerd meets it: a process on a socket, an image pulled layer by layer, the overlay it gives compared
//! with what GNU tar unpacks. Needs root, /dev/fuse and overlayfs.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::daemon::Daemon;
use harness::faults::{Fault, When};
use harness::image::{LayerSource, Published, publish};
use harness::machine::mounts_mentioning;
use harness::pull::{By, chain_ids, labels, mount_at, prepare_container, pull};
use harness::registry::TestRegistry;
use rustix::fs::{CWD, FileType, Gid, Mode, Uid, XattrFlags, makedev, mknodat};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;
use soci_core::containerd::SnapshotsClient;
use soci_core::containerd::snapshots::{
    CleanupRequest, ListSnapshotsRequest, MountsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest,
};
use soci_core::containerd::types::Mount;
use soci_core::digest::Digest;
use soci_core::testing::{self, Node, reference};
use tokio::runtime::Runtime;
use tonic::Code;

/// Every layer by the snapshotter itself.
pub(crate) const WHOLE: &str = "[pull_modes.parallel_pull_unpack]\nenable = true\n";

fn write(root: &Path, name: &str, content: &[u8]) {
    fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
    fs::write(root.join(name), content).unwrap();
}

/// The tar of a directory that `fill` makes.
fn layer(fill: impl FnOnce(&Path)) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fill(dir.path());
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
        .arg(dir.path())
        .arg(".")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Three layers with one of everything, and every kind of whiteout between them.
pub(crate) fn layers() -> Vec<Vec<u8>> {
    let base = layer(|root| {
        write(root, "etc/passwd", b"root:x:0:0::/:/bin/sh\n");
        write(root, "etc/gone", b"hidden by the next layer");
        write(root, "usr/bin/tool", b"#!/bin/sh\n");
        rustix::fs::chown(root.join("usr/bin/tool"), Some(Uid::from_raw(70_000)), Some(Gid::from_raw(12)))
            .unwrap();
        fs::set_permissions(root.join("usr/bin/tool"), fs::Permissions::from_mode(0o6755)).unwrap();
        let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        write(root, "usr/bin/ping", b"x");
        rustix::fs::setxattr(
            root.join("usr/bin/ping"),
            "security.capability",
            capability,
            XattrFlags::empty(),
        )
        .unwrap();
        let big: Vec<u8> =
            (0..500_000u32).flat_map(|at| (at.wrapping_mul(2_654_435_761) >> 11).to_le_bytes()).collect();
        write(root, "usr/lib/big", &big);
        fs::hard_link(root.join("usr/lib/big"), root.join("usr/lib/again")).unwrap();
        symlink("../bin/tool", root.join("usr/lib/link")).unwrap();
        symlink("/nowhere", root.join("dangling")).unwrap();
        write(root, "opaque/old/deep", b"old");
        write(root, "opaque/older", b"older");
        write(root, "dir-to-file/x", b"x");
        write(root, "file-to-dir", b"x");
        write(root, "removed-tree/a/b", b"x");
        for (name, kind, major, minor) in [
            ("dev/char", FileType::CharacterDevice, 5, 300),
            ("dev/block", FileType::BlockDevice, 8, 1),
            ("dev/fifo", FileType::Fifo, 0, 0),
        ] {
            fs::create_dir_all(root.join("dev")).unwrap();
            mknodat(CWD, root.join(name), kind, Mode::from_raw_mode(0o620), makedev(major, minor)).unwrap();
        }
        fs::create_dir(root.join("tmp")).unwrap();
        fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        write(root, "secret/key", b"k");
        fs::set_permissions(root.join("secret"), fs::Permissions::from_mode(0o700)).unwrap();
        rustix::fs::setxattr(root.join("secret"), "user.note", b"a \0 b", XattrFlags::empty()).unwrap();
        let touched = Command::new("touch")
            .args(["-h", "-d", "2001-02-03 04:05:06.123456789 UTC", "secret", "dangling", "usr/bin/tool"])
            .current_dir(root)
            .status();
        assert!(touched.unwrap().success());
    });
    let middle = layer(|root| {
        write(root, "etc/.wh.gone", b"");
        write(root, "opaque/.wh..wh..opq", b"");
        write(root, "opaque/new", b"new");
        write(root, "dir-to-file", b"a file now");
        write(root, "file-to-dir/inside", b"y");
        write(root, ".wh.removed-tree", b"");
        write(root, "usr/bin/tool", b"#!/bin/sh\necho newer\n");
    });
    let top = layer(|root| {
        write(root, "removed-tree/reborn", b"z");
        write(root, "etc/gone", b"back again");
        write(root, "usr/lib/.wh.again", b"");
    });
    vec![base, middle, top]
}

type Tree = BTreeMap<PathBuf, Node>;

/// What a directory holds. A file with one name in it is its own, even if a lower layer has more names for its inode.
fn describe(root: &Path) -> Tree {
    let mut tree = testing::describe(root).unwrap();
    let mut names = BTreeMap::new();
    for first in tree.values().filter_map(|node| node.same_as.clone()) {
        *names.entry(first).or_insert(0) += 1;
    }
    for node in tree.values_mut() {
        node.same_as.take_if(|first| names[first] == 1);
    }
    tree
}

/// Unpacks tars with GNU tar, the lowest first.
fn unpack(tars: &[Vec<u8>], to: &Path) {
    let files = tempfile::tempdir().unwrap();
    let paths: Vec<_> = (0..tars.len()).map(|at| files.path().join(at.to_string())).collect();
    tars.iter().zip(&paths).for_each(|(tar, path)| fs::write(path, tar).unwrap());
    fs::create_dir_all(to).unwrap();
    reference::unpack(&paths, to).unwrap();
}

/// A registry with an image, a daemon, and what the image's file system should be.
pub(crate) struct Lab {
    pub(crate) daemon: Daemon,
    pub(crate) registry: TestRegistry,
    pub(crate) image: Published,
    pub(crate) diff_ids: Vec<Digest>,
    expected: Tree,
    pub(crate) runtime: Runtime,
    work: tempfile::TempDir,
}

impl Lab {
    pub(crate) fn new(tars: &[Vec<u8>], config: &str, change: impl FnOnce(&mut Vec<LayerSource>)) -> Self {
        let mut sources: Vec<_> = tars.iter().map(|tar| LayerSource::of_tar(tar)).collect();
        change(&mut sources);
        let registry = TestRegistry::start();
        let image = publish(&registry, "app", &sources, 256 << 10);
        let work = tempfile::tempdir().unwrap();
        let reference = work.path().join("reference");
        unpack(tars, &reference);
        Self {
            daemon: Daemon::start(work.path(), config),
            registry,
            image,
            diff_ids: tars.iter().map(|tar| Digest::of(tar)).collect(),
            expected: describe(&reference),
            runtime: Runtime::new().unwrap(),
            work,
        }
    }

    pub(crate) fn client(&self) -> SnapshotsClient {
        self.runtime.block_on(self.daemon.client())
    }

    /// Pulls; layers that are left to the runtime are unpacked as containerd would.
    pub(crate) fn pull(&self) -> (Vec<By>, String) {
        self.runtime
            .block_on(pull(&mut self.client(), &self.image, &self.diff_ids, |_, mounts| {
                panic!("left to the runtime: {mounts:?}")
            }))
            .unwrap()
    }

    pub(crate) fn container(&self, key: &str, parent: &str) -> Rootfs {
        let mounts = self.runtime.block_on(prepare_container(&mut self.client(), key, parent)).unwrap();
        self.mounted(key, &mounts)
    }

    pub(crate) fn mounted(&self, key: &str, mounts: &[Mount]) -> Rootfs {
        Rootfs::mount(mounts, self.work.path().join(format!("rootfs-{key}")))
    }

    pub(crate) fn assert_served(&self, rootfs: &Rootfs) {
        let mut served = describe(&rootfs.0);
        // The root of an overlay with a writable layer is that of the writable layer.
        let (mut expected, root) = (self.expected.clone(), PathBuf::new());
        assert!(expected.remove(&root).is_some() && served.remove(&root).is_some());
        assert!(expected.len() > 20);
        for name in expected.keys().chain(served.keys()) {
            assert_eq!(expected.get(name), served.get(name), "{}", name.display());
        }
    }
}

/// A mounted snapshot.
pub(crate) struct Rootfs(pub(crate) PathBuf);

impl Rootfs {
    fn mount(mounts: &[Mount], target: PathBuf) -> Self {
        mount_at(mounts, &target);
        Self(target)
    }
}

impl Drop for Rootfs {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.0, UnmountFlags::DETACH) {
            eprintln!("{} stays mounted: {error}", self.0.display());
        }
    }
}

#[test]
fn lazy_layers_are_the_image() {
    let lab = Lab::new(&layers(), "", |_| {});
    let (by, top) = lab.pull();
    assert_eq!(by, [By::Snapshotter; 3]);
    assert_eq!(lab.daemon.mounts().len(), 3);
    lab.assert_served(&lab.container("a", &top));
    assert_eq!(lab.daemon.metric("soci_layers_total{way=\"lazy\"}"), 3);
    assert_eq!(lab.daemon.metric("soci_layers_total{way=\"whole\"}"), 0);
    assert_eq!(lab.daemon.metric("soci_fuse_mounts_total"), 3);
}

#[test]
fn whole_layers_are_the_image() {
    let lab = Lab::new(&layers(), WHOLE, |_| {});
    let (by, top) = lab.pull();
    assert_eq!(by, [By::Snapshotter; 3]);
    assert_eq!(lab.daemon.mounts(), Vec::<PathBuf>::new());
    lab.assert_served(&lab.container("a", &top));
    assert_eq!(lab.daemon.metric("soci_layers_total{way=\"whole\"}"), 3);
    assert_eq!(fs::read_dir(lab.daemon.root().join("unpack")).unwrap().count(), 0);
    // Each byte came once, and nothing for a laziness that is off.
    let layers: u64 =
        lab.image.layers.iter().map(|layer| lab.registry.blob(layer).unwrap().len() as u64).sum();
    let received = lab.daemon.metric("soci_registry_bytes_total");
    assert!(received < layers + 10_000, "{received} bytes for {layers}");
    assert_eq!(
        lab.registry.requests().iter().filter(|request| request.path.contains("manifests")).count(),
        1
    );
}

#[test]
fn the_first_prepare_starts_all_whole_layers() {
    for (config, unindexed) in [(WHOLE, vec![]), ("", vec![1, 2]), ("", vec![0, 2])] {
        let lab = Lab::new(&layers(), config, |sources| {
            for &at in &unindexed {
                sources[at].unindexed = true;
            }
        });
        let first = PrepareSnapshotRequest {
            snapshotter: String::new(),
            key: "first".to_owned(),
            parent: String::new(),
            labels: labels(&lab.image, 0, &chain_ids(&lab.diff_ids)[0]),
        };
        let status =
            lab.runtime.block_on(async { lab.daemon.client().await.prepare(first).await }).unwrap_err();
        assert_eq!(status.code(), Code::AlreadyExists);
        let top = lab.image.layers[2].to_string();
        let start = std::time::Instant::now();
        while !lab.registry.requests().iter().any(|request| request.path.ends_with(&top)) {
            assert!(start.elapsed() < std::time::Duration::from_mins(1), "the top layer is not begun");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

#[test]
fn layers_without_a_ztoc_are_unpacked_between_lazy_ones() {
    for unindexed in 0..3 {
        let lab = Lab::new(&layers(), "", |sources| sources[unindexed].unindexed = true);
        let (by, top) = lab.pull();
        assert_eq!(by, [By::Snapshotter; 3]);
        lab.assert_served(&lab.container("a", &top));
        assert_eq!(lab.daemon.metric("soci_layers_total{way=\"lazy\"}"), 2);
        assert_eq!(lab.daemon.metric("soci_layers_total{way=\"whole\"}"), 1);
    }
}

#[test]
fn a_broken_ztoc_costs_the_laziness_of_its_layer_only() {
    let lab = Lab::new(&layers(), "", |sources| sources[1].ztoc = Some(b"not a zTOC".to_vec()));
    let (by, top) = lab.pull();
    assert_eq!(by, [By::Snapshotter; 3]);
    lab.assert_served(&lab.container("a", &top));
    assert_eq!(lab.daemon.metric("soci_layers_total{way=\"whole\"}"), 1);
    assert_eq!(lab.daemon.metric("soci_layer_failures_total{way=\"lazy\"}"), 1);
}

#[test]
fn directories_that_a_whole_layer_implies_keep_the_attributes_they_had() {
    let base = layer(|root| {
        for directory in ["a", "a/b"] {
            fs::create_dir(root.join(directory)).unwrap();
            fs::set_permissions(root.join(directory), fs::Permissions::from_mode(0o2750)).unwrap();
            rustix::fs::chown(root.join(directory), Some(Uid::from_raw(5)), Some(Gid::from_raw(6))).unwrap();
            fs::set_permissions(root.join(directory), fs::Permissions::from_mode(0o2750)).unwrap();
        }
        (0..20).for_each(|at| write(root, &format!("filler/{at}"), b"x"));
    });
    let mut upper = harness::image::TarWriter::default();
    let upper = upper.file("a/b/c", b"new").finish();
    let lab = Lab::new(&[base, upper], WHOLE, |_| {});
    let (_, top) = lab.pull();
    let rootfs = lab.container("a", &top);
    for directory in ["a", "a/b"] {
        let metadata = fs::metadata(rootfs.0.join(directory)).unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.uid(), metadata.gid()), (0o2750, 5, 6), "{directory}");
    }
    assert_eq!(fs::read(rootfs.0.join("a/b/c")).unwrap(), b"new");
}

#[test]
fn images_without_an_index_are_left_to_the_runtime_unless_configured() {
    let tars = layers();
    let unindexed =
        |sources: &mut Vec<LayerSource>| sources.iter_mut().for_each(|source| source.unindexed = true);
    let lab = Lab::new(&tars, "[pull_modes.soci_v2]\nenable = false\n", unindexed);
    let (by, top) = lab
        .runtime
        .block_on(pull(&mut lab.client(), &lab.image, &lab.diff_ids, |at, mounts| {
            // The runtime writes overlay's form of whiteouts; the lowest layer, a bind mount, has none.
            if at == 0 {
                let target = Rootfs::mount(mounts, lab.work.path().join("extract"));
                unpack(&tars[..1], &target.0);
            }
        }))
        .unwrap();
    assert_eq!(by, [By::Runtime; 3]);
    assert_eq!(lab.daemon.metric("soci_layers_total{way=\"runtime\"}"), 3);
    assert!(lab.container("a", &top).0.join("etc/gone").exists());

    let fallback = "[pull_modes.soci_v2]\nenable = false\n[pull_modes.parallel_pull_unpack]\n\
                    experimental_parallel_pull_as_fallback = true\n";
    let lab = Lab::new(&tars, fallback, unindexed);
    let (by, top) = lab.pull();
    assert_eq!(by, [By::Snapshotter; 3]);
    lab.assert_served(&lab.container("a", &top));
}

#[test]
fn a_layer_that_is_not_what_the_image_says_is_never_committed() {
    let lie = |sources: &mut Vec<LayerSource>| {
        sources[1].unindexed = true;
        sources[1].diff_id = Some(Digest::of(b"something else"));
    };
    let tars = layers();
    let lab = Lab::new(&tars, "", lie);
    let mut asked = Vec::new();
    let (by, _) = lab
        .runtime
        .block_on(pull(&mut lab.client(), &lab.image, &lab.diff_ids, |at, mounts| {
            let upper = mounts[0].options.iter().find_map(|option| option.strip_prefix("upperdir=")).unwrap();
            asked.push((at, fs::read_dir(upper).unwrap().count()));
        }))
        .unwrap();
    assert_eq!(by, [By::Snapshotter, By::Runtime, By::Snapshotter]);
    assert_eq!(asked, [(1, 0)], "the runtime gets an empty snapshot");
    assert_eq!(lab.daemon.metric("soci_layer_failures_total{way=\"whole\"}"), 1);
    assert_eq!(fs::read_dir(lab.daemon.root().join("unpack")).unwrap().count(), 0);
    assert!(lab.daemon.log().contains("something") || lab.daemon.log().contains("expected"));
}

#[test]
fn bytes_of_another_layer_are_refused() {
    let lab = Lab::new(&layers(), WHOLE, |_| {});
    let blob = format!("/blobs/{}", lab.image.layers[2]);
    lab.registry.faults().add(When::path(blob), Fault::Corrupt);
    let mut left = Vec::new();
    let (by, _) = lab
        .runtime
        .block_on(pull(&mut lab.client(), &lab.image, &lab.diff_ids, |at, _| left.push(at)))
        .unwrap();
    assert_eq!((by[2], left), (By::Runtime, vec![2]));
    assert_eq!(lab.daemon.metric("soci_layer_failures_total{way=\"whole\"}"), 1);
}

#[test]
fn a_second_pull_finds_everything() {
    let lab = Lab::new(&layers(), "", |_| {});
    lab.pull();
    lab.registry.forget_requests();
    let (by, top) = lab.pull();
    assert_eq!(by, [By::Snapshotter; 3]);
    lab.assert_served(&lab.container("a", &top));
    assert_eq!(lab.daemon.mounts().len(), 3);
    assert_eq!(lab.daemon.metric("soci_layers_total{way=\"lazy\"}"), 3);
}

#[test]
fn a_killed_daemon_serves_again_without_the_registry() {
    let mut lab = Lab::new(&layers(), "[background_fetch]\ndisable = true\n", |_| {});
    let (_, top) = lab.pull();
    lab.assert_served(&lab.container("a", &top));
    lab.daemon.kill();
    lab.registry.stop();
    lab.daemon.restart("mount_timeout_sec = 5\n[http]\nMaxRetries = -1\n");
    // The container that was prepared before is still there, and a new one can be made.
    let mounts = MountsRequest { snapshotter: String::new(), key: "a".to_owned() };
    let mounts = lab.runtime.block_on(async { lab.daemon.client().await.mounts(mounts).await }).unwrap();
    let again = Rootfs::mount(&mounts.into_inner().mounts, lab.work.path().join("again"));
    lab.assert_served(&again);
    lab.assert_served(&lab.container("b", &top));
    assert_eq!(lab.daemon.metric("soci_layer_failures_total{way=\"restore\"}"), 0);
}

#[test]
fn a_layer_that_cannot_be_restored_is_unavailable_and_nothing_else_is() {
    let mut lab = Lab::new(&layers(), "", |_| {});
    let (_, top) = lab.pull();
    lab.daemon.kill();
    lab.registry.stop();
    fs::remove_dir_all(lab.daemon.root().join("content")).unwrap();
    lab.daemon.restart("mount_timeout_sec = 1\n[http]\nMaxRetries = -1\n");
    let mut client = lab.client();
    let status = lab.runtime.block_on(prepare_container(&mut client, "a", &top)).unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    // Not AlreadyExists: the failed attempt left no snapshot.
    let status = lab.runtime.block_on(prepare_container(&mut client, "a", &top)).unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(lab.runtime.block_on(prepare_container(&mut client, "b", "")).is_ok());
}

#[test]
fn stopping_unmounts_everything_where_nothing_is_kept() {
    const KEEP_NOTHING: &str = "[restart]\nkeep_mounts = false\n";
    for signal in [Signal::INT, Signal::TERM] {
        let mut lab = Lab::new(&layers(), KEEP_NOTHING, |_| {});
        let (_, top) = lab.pull();
        assert_eq!(lab.daemon.mounts().len(), 3);
        assert_eq!(lab.daemon.stop(signal).code(), Some(0));
        assert_eq!(mounts_mentioning(lab.daemon.root().to_str().unwrap()), Vec::<String>::new());
        lab.daemon.restart(KEEP_NOTHING);
        assert_eq!(lab.daemon.mounts().len(), 0, "nobody has wanted them yet");
        lab.assert_served(&lab.container("a", &top));
        assert_eq!(lab.daemon.mounts().len(), 3);
    }
}

#[test]
fn removed_snapshots_leave_nothing() {
    let lab = Lab::new(&layers(), "", |sources| sources[1].unindexed = true);
    let (_, top) = lab.pull();
    drop(lab.container("a", &top));
    lab.runtime.block_on(async {
        let mut client = lab.daemon.client().await;
        let mut remove = async |key: &str| {
            let request = RemoveSnapshotRequest { snapshotter: String::new(), key: key.to_owned() };
            client.remove(request).await.map(drop)
        };
        let chain = chain_ids(&lab.diff_ids);
        assert_eq!(remove(&chain[0]).await.unwrap_err().code(), Code::FailedPrecondition);
        for key in ["a", &chain[2], &chain[1], &chain[0]] {
            remove(key).await.unwrap();
        }
        assert_eq!(remove("a").await.unwrap_err().code(), Code::NotFound);
    });
    assert_eq!(lab.daemon.mounts(), Vec::<PathBuf>::new());
    let snapshots = lab.daemon.root().join("snapshotter/snapshots");
    assert_eq!(fs::read_dir(&snapshots).unwrap().count(), 0);
    // Cleanup takes what belongs to nobody, and only that.
    let kept = lab.container("b", "");
    fs::create_dir_all(snapshots.join("999/fs")).unwrap();
    fs::create_dir_all(snapshots.join("new-12")).unwrap();
    let cleanup = CleanupRequest { snapshotter: String::new() };
    lab.runtime.block_on(async { lab.daemon.client().await.cleanup(cleanup).await }).unwrap();
    assert_eq!(fs::read_dir(&snapshots).unwrap().count(), 1);
    drop(kept);
}

#[test]
fn containerd_finds_a_layer_by_its_target_label() {
    let lab = Lab::new(&layers(), "", |_| {});
    lab.pull();
    let chain = chain_ids(&lab.diff_ids);
    let filter = format!("labels.\"containerd.io/snapshot.ref\"=={},parent==\"{}\"", chain[1], chain[0]);
    let request = ListSnapshotsRequest { snapshotter: String::new(), filters: vec![filter] };
    let found = lab.runtime.block_on(async {
        let mut stream = lab.daemon.client().await.list(request).await.unwrap().into_inner();
        stream.message().await.unwrap().unwrap().info
    });
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].name, chain[1]);
    assert_eq!(found[0].labels["containerd.io/snapshot/remote"], "remote snapshot");
    assert_eq!(
        found[0].labels["containerd.io/snapshot/remote/soci.index.digest"],
        lab.image.index.to_string()
    );
    assert_eq!(found[0].labels["containerd.io/snapshot/remote/namespace"], "default");
}

#[test]
fn layers_with_unusable_labels_are_left_to_the_runtime() {
    let lab = Lab::new(&layers(), "", |_| {});
    let mut bad = labels(&lab.image, 0, "sha256:target");
    bad.insert("containerd.io/snapshot/cri.layer-digest".to_owned(), "sha256:short".to_owned());
    let request = PrepareSnapshotRequest {
        snapshotter: String::new(),
        key: "a".to_owned(),
        parent: String::new(),
        labels: bad,
    };
    let answer = lab.runtime.block_on(async { lab.daemon.client().await.prepare(request).await }).unwrap();
    assert_eq!(answer.into_inner().mounts.len(), 1);
    assert_eq!(lab.registry.requests().len(), 0);
}

/// The image that upstream's tools were run on.
#[cfg(feature = "shared")]
#[test]
fn the_golden_image_is_served_in_every_mode() {
    let shared =
        PathBuf::from(std::env::var_os("SOCI_SHARED").expect("SOCI_SHARED names the reference material"));
    let (sources, tars) = golden::image(&shared.join("golden/image-small"));
    for (config, unindexed) in [("", None), ("", Some(0)), ("", Some(1)), (WHOLE, None)] {
        let lab = Lab::new(&tars, config, |made| {
            made.clone_from(&sources);
            if let Some(at) = unindexed {
                made[at].unindexed = true;
            }
        });
        let (by, top) = lab.pull();
        assert!(by.iter().all(|by| *by == By::Snapshotter), "{by:?}");
        // The top layer puts files into /data without listing it.
        lab.assert_served(&lab.container("a", &top));
    }
}

/// Reading an image layout, without the product's code.
#[cfg(feature = "shared")]
mod golden {
    use super::*;
    use std::io::Read;

    /// The layers of a layout's first image: as published, and as plain tars.
    pub(super) fn image(layout: &Path) -> (Vec<LayerSource>, Vec<Vec<u8>>) {
        let blob = |digest: &serde_json::Value| {
            let digest = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
            fs::read(layout.join("blobs/sha256").join(digest)).unwrap()
        };
        let json = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
        let index = json(&fs::read(layout.join("index.json")).unwrap());
        let manifest = json(&blob(&index["manifests"][0]["digest"]));
        let mut sources = Vec::new();
        let mut tars = Vec::new();
        for layer in manifest["layers"].as_array().unwrap() {
            let gzip = blob(&layer["digest"]);
            let mut tar = Vec::new();
            flate2::read::MultiGzDecoder::new(gzip.as_slice()).read_to_end(&mut tar).unwrap();
            sources.push(LayerSource { gzip, diff_id: Some(Digest::of(&tar)), ..LayerSource::default() });
            tars.push(tar);
        }
        (sources, tars)
    }
}
