//! Containers whose images do not fit on the disk together: all that they read is right, and the disk is not overrun. Needs root,
//! /dev/fuse and overlayfs.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use harness::daemon::Daemon;
use harness::image::{LayerSource, Published, TarWriter, publish};
use harness::machine::drop_caches;
use harness::patience::eventually;
use harness::pull::{By, mount_at, prepare_container, pull};
use harness::registry::TestRegistry;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use soci_core::containerd::snapshots::UsageRequest;
use soci_core::digest::Digest;
use tokio::runtime::Runtime;

const MIB: u64 = 1 << 20;
/// Images, and files in each, of a MiB.
const IMAGES: u64 = 3;
const FILES: u64 = 8;
/// How often everything is read.
const ROUNDS: u64 = 4;

/// The bytes of a file: no two are the same, and none gets smaller.
fn content(image: u64, file: u64) -> Vec<u8> {
    let mut state = image << 32 | file;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    (0..MIB / 4).flat_map(|_| next().to_le_bytes()).collect()
}

/// A small file system, gone with this.
struct Small(tempfile::TempDir);

impl Small {
    fn new(mib: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let size = std::ffi::CString::new(format!("size={mib}m")).unwrap();
        mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), size.as_c_str()).unwrap();
        Self(dir)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        if let Err(error) = unmount(self.0.path(), UnmountFlags::DETACH) {
            eprintln!("{} stays mounted: {error}", self.0.path().display());
        }
    }
}

/// A daemon and containers on all images.
struct Lab {
    runtime: Runtime,
    registry: TestRegistry,
    images: Vec<(Published, Digest)>,
}

/// A mounted container.
struct Container<'a>(&'a Path);

impl Drop for Container<'_> {
    fn drop(&mut self) {
        if let Err(error) = unmount(self.0, UnmountFlags::DETACH) {
            eprintln!("{} stays mounted: {error}", self.0.display());
        }
    }
}

impl Lab {
    fn new() -> Self {
        let registry = TestRegistry::start();
        let image = |number| {
            let mut tar = TarWriter::default();
            (0..FILES).for_each(|file| _ = tar.file(&format!("{file}"), &content(number, file)));
            let tar = tar.finish();
            let published =
                publish(&registry, &format!("image-{number}"), &[LayerSource::of_tar(&tar)], MIB / 4);
            (published, Digest::of(&tar))
        };
        Self { images: (0..IMAGES).map(image).collect(), runtime: Runtime::new().unwrap(), registry }
    }

    /// Reads everything in all containers at once, again and again from what the daemon has. Gives what `seen` has seen after
    /// each round.
    fn read_all<T>(&self, daemon: &Daemon, rootfs: &Path, seen: impl Fn() -> T) -> Vec<T> {
        let mut client = self.runtime.block_on(daemon.client());
        let mut tops = Vec::new();
        for (number, (image, diff_id)) in self.images.iter().enumerate() {
            let (by, top) = self
                .runtime
                .block_on(pull(&mut client, image, &[*diff_id], |_, mounts| {
                    panic!("left to the runtime: {mounts:?}")
                }))
                .unwrap();
            assert_eq!(by, [By::Snapshotter]);
            tops.push(top.clone());
            let mounts =
                self.runtime.block_on(prepare_container(&mut client, &format!("c{number}"), &top)).unwrap();
            mount_at(&mounts, &rootfs.join(number.to_string()));
        }
        let places: Vec<_> = (0..IMAGES).map(|number| rootfs.join(number.to_string())).collect();
        let _containers: Vec<_> = places.iter().map(|place| Container(place)).collect();
        let mut all = Vec::new();
        for _ in 0..ROUNDS {
            std::thread::scope(|scope| {
                for number in 0..IMAGES {
                    let place = &places[number as usize];
                    scope.spawn(move || {
                        for file in 0..FILES {
                            let read = fs::read(place.join(file.to_string()));
                            let read =
                                read.unwrap_or_else(|error| panic!("image {number}, file {file}: {error}"));
                            assert!(
                                read == content(number, file),
                                "image {number}, file {file}: wrong bytes"
                            );
                        }
                    });
                }
            });
            drop_caches();
            all.push(seen());
        }
        assert_eq!(daemon.metric("soci_read_failures_total"), 0);
        assert_eq!(daemon.metric("soci_layers_total{way=\"lazy\"}"), IMAGES);
        assert!(!self.registry.requests().is_empty());
        let used: u64 = tops.iter().map(|top| self.usage(daemon, top)).sum();
        let cached = on_disk(&daemon.root().join("cache"));
        assert!(used <= cached + MIB && cached <= used + MIB, "Usage says {used}, and {cached} are on disk");
        all
    }

    fn usage(&self, daemon: &Daemon, key: &str) -> u64 {
        let request = UsageRequest { snapshotter: String::new(), key: key.to_owned() };
        let answer =
            self.runtime.block_on(async { daemon.client().await.usage(request).await }).unwrap().into_inner();
        assert!(answer.size > 0 && answer.inodes > 0);
        answer.size as u64
    }
}

/// Bytes that the files below a directory take.
fn on_disk(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => on_disk(&entry.path()),
        metadata => metadata.map_or(0, |metadata| metadata.blocks() * 512),
    });
    bytes.sum()
}

#[test]
fn images_that_are_larger_than_the_limit_are_read_right_and_the_limit_holds() {
    const LIMIT: u64 = 10 * MIB;
    let lab = Lab::new();
    for erofs in [true, false] {
        let work = tempfile::tempdir().unwrap();
        let daemon =
            Daemon::start(work.path(), &format!("[cache]\nmax_bytes = {LIMIT}\n[fuse]\nerofs = {erofs}\n"));
        let cache = daemon.root().join("cache");
        let peaks = lab.read_all(&daemon, work.path(), || {
            eventually("the limit holds", || on_disk(&cache) <= LIMIT);
            daemon.metric("soci_cache_given_back_bytes_total")
        });
        println!("given back after each round: {peaks:?}");
        assert!(peaks[0] >= IMAGES * FILES * MIB - LIMIT, "no more than the limit is there");
        assert!(daemon.metric("soci_cache_bytes") <= LIMIT);
    }
}

#[test]
fn images_that_are_larger_than_the_disk_are_read_right() {
    let lab = Lab::new();
    // The second has no reserve, so that writes are refused.
    for config in ["", "[storage]\nmin_free_percent = 0\n"] {
        let small = Small::new(12);
        let work = tempfile::tempdir().unwrap();
        let daemon = Daemon::start(small.0.path(), config);
        let given = lab.read_all(&daemon, work.path(), || daemon.metric("soci_cache_given_back_bytes_total"));
        println!(
            "{config:?}: given back {given:?}, not written {}",
            daemon.metric("soci_spans_not_written_total")
        );
        assert!(given[ROUNDS as usize - 1] >= (IMAGES * FILES - 12) * MIB);
    }
}
