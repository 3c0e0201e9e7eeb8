//! Many cold starts of one image at once cost the registry what one costs. Needs root, /dev/fuse and overlayfs.

use std::fs;
use std::path::Path;

use harness::disk_image::half_random;
use harness::pull::{mount_at, prepare_container, pull};
use harness::registry::TestRegistry;
use harness::site::{Image, Site};
use rustix::mount::{UnmountFlags, unmount};

const STARTS: usize = 50;
const CONFIG: &str = "[background_fetch]\ndisable = true\n";

/// So many pulls, containers and readers at once; the bytes that the registry gives for them.
fn cost(starts: usize) -> u64 {
    let registry = TestRegistry::start();
    let contents: Vec<_> = (0..6).map(|seed| half_random(1 << 20, seed)).collect();
    let names: Vec<_> = (0..6).map(|number| format!("file{number}")).collect();
    let files: Vec<_> = names.iter().map(String::as_str).zip(contents.iter().map(Vec::as_slice)).collect();
    let (image, _) = Image::new(&registry, "cold", &files, 64 << 10);
    let site = Site::new(CONFIG);
    let before = registry.bytes_served();
    let (image, socket) = (&image, site.daemon.socket());
    let start = |number: usize| {
        let (image, socket) = (image.clone(), socket.clone());
        async move {
            let mut client = soci_core::containerd::snapshots_client(&socket).await.unwrap();
            let pulled = pull(&mut client, &image.published, &image.diff_ids, |_, _| panic!("it is lazy"));
            let (_, top) = pulled.await.unwrap();
            prepare_container(&mut client, &format!("c{number}"), &top).await.unwrap()
        }
    };
    let mounts = site.runtime.block_on(async {
        let mut all = tokio::task::JoinSet::new();
        (0..starts).for_each(|number| drop(all.spawn(start(number))));
        all.join_all().await
    });
    let read = |target: &Path| {
        // Not all of the image: what nobody reads is not to come.
        for (name, content) in files.iter().take(4) {
            assert!(fs::read(target.join(name)).unwrap() == *content, "{name}");
        }
    };
    std::thread::scope(|scope| {
        for (number, mounts) in mounts.iter().enumerate() {
            let target = site.work().join(format!("rootfs-{number}"));
            let read = &read;
            scope.spawn(move || {
                mount_at(mounts, &target);
                read(&target);
                unmount(&target, UnmountFlags::DETACH).unwrap();
            });
        }
    });
    registry.bytes_served() - before
}

#[test]
fn fifty_cold_starts_at_once_cost_what_one_costs() {
    let (one, many) = (cost(1), cost(STARTS));
    println!("one start: {one} bytes, {STARTS} at once: {many}, {:.3}", many as f64 / one as f64);
    assert!(one > 1 << 20 && many * 100 <= one * 105, "{many} bytes for {one}");
}
