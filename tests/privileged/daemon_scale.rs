//! Many layers on one daemon: what it holds, and how soon it answers after the node was rebooted. Needs root, /dev/fuse and
//! overlayfs.

use std::fs;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use harness::daemon::Daemon;
use harness::image::{LayerSource, Published, TarWriter, publish};
use harness::machine::mounts_mentioning;
use harness::pull::{By, mount_at, prepare_container, pull};
use harness::registry::TestRegistry;
use soci_core::digest::Digest;
use tokio::runtime::Runtime;

use crate::snapshotter::Rootfs;

/// Layers in all, and in one image.
const LAYERS: usize = 500;
const IN_IMAGE: usize = 50;
/// Containers on each image.
const CONTAINERS: usize = 5;

/// What a process has.
#[derive(Debug)]
struct Size {
    descriptors: usize,
    threads: usize,
    kibibytes: usize,
}

fn size(pid: u32) -> Size {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    Size { descriptors, threads: of("Threads:"), kibibytes: of("VmRSS:") }
}

fn images(registry: &TestRegistry) -> Vec<(Published, Vec<Digest>)> {
    let image = |image: usize| {
        let tar = |layer: usize| {
            TarWriter::default().file(&format!("f{layer}"), format!("{image} {layer}").as_bytes()).finish()
        };
        let tars: Vec<_> = (0..IN_IMAGE).map(tar).collect();
        let sources: Vec<_> = tars.iter().map(|tar| LayerSource::of_tar(tar)).collect();
        let published = publish(registry, &format!("scale{image}"), &sources, 64 << 10);
        (published, tars.iter().map(|tar| Digest::of(tar)).collect())
    };
    (0..LAYERS / IN_IMAGE).map(image).collect()
}

#[test]
fn five_hundred_layers_need_no_thread_and_two_descriptors_each() {
    const CONFIG: &str = "[background_fetch]\ndisable = true\n";
    let registry = TestRegistry::start();
    let images = images(&registry);
    let work = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(work.path(), CONFIG);
    let runtime = Runtime::new().unwrap();
    let mut client = runtime.block_on(daemon.client());
    let before = size(daemon.pid());
    let mut rootfs = Vec::new();
    for (number, (image, diff_ids)) in images.iter().enumerate() {
        let pulled = pull(&mut client, image, diff_ids, |at, _| panic!("layer {at} was left to the runtime"));
        let (by, top) = runtime.block_on(pulled).unwrap();
        assert_eq!(by, [By::Snapshotter; IN_IMAGE]);
        for of_image in 0..CONTAINERS {
            let key = format!("c{number}-{of_image}");
            let mounts = runtime.block_on(prepare_container(&mut client, &key, &top)).unwrap();
            let target = work.path().join(key);
            mount_at(&mounts, &target);
            let container = Rootfs(target);
            let last = fs::read_to_string(container.0.join(format!("f{}", IN_IMAGE - 1))).unwrap();
            assert_eq!(last, format!("{number} {}", IN_IMAGE - 1));
            rootfs.push(container);
        }
    }
    let after = size(daemon.pid());
    println!("before {before:?}, with {LAYERS} layers {after:?}");
    assert!(after.descriptors <= before.descriptors + 2 * LAYERS, "{before:?} {after:?}");
    assert!(after.threads <= 40, "{after:?}");
    // What is kept for each layer, its cache and its image, in a debug build.
    assert!(after.kibibytes < 200 << 10, "{after:?}");
    drop(rootfs);
    // As after a reboot: nothing is mounted.
    daemon.kill();
    daemon.unmount(&["--force"]).unwrap();
    let begun = Instant::now();
    daemon.begin(CONFIG);
    while UnixStream::connect(daemon.socket()).is_err() {
        assert!(begun.elapsed() < Duration::from_mins(1));
        std::thread::sleep(Duration::from_millis(5));
    }
    println!("the socket answers after {:?}", begun.elapsed());
    let mut client = runtime.block_on(daemon.client());
    let (image, diff_ids) = &images[0];
    let (_, top) =
        runtime.block_on(pull(&mut client, image, diff_ids, |_, _| panic!("it is there"))).unwrap();
    assert_eq!(daemon.mounts().len(), 0);
    runtime.block_on(prepare_container(&mut client, "after", &top)).unwrap();
    assert_eq!(daemon.mounts().len(), IN_IMAGE, "what is wanted is mounted, and nothing else");
    drop(daemon);
    assert_eq!(mounts_mentioning(work.path().to_str().unwrap()), Vec::<String>::new());
}
