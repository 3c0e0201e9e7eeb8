//! The manners of registries, as a process sees them that reads a file of a mounted layer: no EIO and no wrong byte, also
//! when credentials end, or parts are no longer given, in the middle of a read.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use harness::disk_image::half_random;
use harness::image::{LayerSource, TarWriter, gzip, publish};
use harness::node::{TestMount, TestNode};
use harness::registry::{AuthMode, Habits, Ranges, TestRegistry};
use harness::way::Way;
use snapshotter::layer::MountOptions;
use soci_core::registry::Registry;

const SIZE: usize = 5 << 20;

fn files_are_read_whatever_a_registry_does(way: Way) {
    let content = half_random(SIZE, 1);
    let tar = TarWriter::default().file("a", &content).finish();
    let auths = [AuthMode::Bearer, AuthMode::BearerThenBasic, AuthMode::BearerForPull, AuthMode::Open];
    for (auth, ranges) in
        auths.into_iter().flat_map(|auth| [(auth, Ranges::Honoured), (auth, Ranges::IgnoredFirst)])
    {
        let habits = Habits { auth, ranges, redirect_blobs: ranges == Ranges::Honoured, ..Habits::default() };
        let registry = TestRegistry::with(habits.clone());
        let mut layer = LayerSource::of_tar(&tar);
        layer.gzip = gzip(&tar, 1);
        let image = publish(&registry, "a", &[layer], 256 << 10);
        let root = tempfile::tempdir().unwrap();
        let node = TestNode::new(&root.path().join("node"), |options| {
            way.ask(options);
            options.registry = Registry::new(registry.client());
        });
        let mountpoint = root.path().join("mnt");
        fs::create_dir(&mountpoint).unwrap();
        let mounted = TestMount::new(&node.layer(&image, 0), &mountpoint, &MountOptions::default()).unwrap();
        way.check(&mountpoint);
        let file = File::open(mountpoint.join("a")).unwrap();
        let read = |at: usize, length: usize| {
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, at as u64)
                .unwrap_or_else(|error| panic!("{habits:?}: {at}: {error}"));
            assert!(bytes == content[at..at + length], "{habits:?}: {at}");
        };
        read(SIZE - 4096, 4096);
        registry.revoke_tokens();
        registry.expire_redirects();
        read(1 << 20, 4096);
        registry.change(|habits| habits.ranges = Ranges::Ignored);
        registry.revoke_tokens();
        read(0, SIZE);
        drop(mounted);
    }
}

harness::both_ways!(files_are_read_whatever_a_registry_does);
