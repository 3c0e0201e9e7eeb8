//! What a pack brings is in the kernel before anybody asks, and leaves it when the pack is found to be wrong. Needs root and
//! /dev/fuse.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use harness::companions::PackParts;
use harness::faults::{Fault, When};
use harness::image::{LayerSource, TarWriter};
use harness::node::TestMount;
use harness::pack_lab::{Lab, Running, two_layers};
use harness::patience::eventually;
use harness::way::Way;
use snapshotter::image::Companions;
use snapshotter::layer::MountOptions;
use soci_core::pack::Extent;
use soci_core::pack::testing::{ForgedBlock, forged};
use soci_core::units::ByteRange;

/// Where the content of the file begins in each tar.
const CONTENT: u64 = 512;

/// Bytes of the files that the workload needs: (layer, start, end). The last pages of the first file are among them.
const NEEDS: &[(usize, u64, u64)] =
    &[(1, 4096, 12_288), (0, 700_416, 704_512), (0, 102_400, 352_256), (0, 1_044_480, 1_048_576)];

/// The same as bytes of the tars.
fn in_tars(needs: &[(usize, u64, u64)]) -> Vec<(usize, u64, u64)> {
    needs.iter().map(|&(layer, start, end)| (layer, CONTENT + start, CONTENT + end)).collect()
}

/// Both layers, mounted.
fn mounts(way: Way, here: &Running, dir: &Path) -> Vec<TestMount> {
    let mount = |(at, layer): (usize, &std::sync::Arc<snapshotter::layer::Layer>)| {
        let place = dir.join(at.to_string());
        std::fs::create_dir(&place).unwrap();
        let mounted = TestMount::new(layer, &place, &MountOptions::default()).unwrap();
        way.check(&place);
        mounted
    };
    here.layers.iter().enumerate().map(mount).collect()
}

/// Bytes of the file of a mounted layer.
fn read(mounts: &[TestMount], layer: usize, start: u64, end: u64) -> Vec<u8> {
    let file = File::open(mounts[layer].mountpoint().join(format!("file{}", layer + 1))).unwrap();
    let mut bytes = vec![0; (end - start) as usize];
    file.read_exact_at(&mut bytes, start).unwrap();
    bytes
}

fn truth(lab: &Lab, layer: usize, start: u64, end: u64) -> &[u8] {
    &lab.tars[layer][(CONTENT + start) as usize..(CONTENT + end) as usize]
}

#[track_caller]
fn check(lab: &Lab, mounts: &[TestMount], layer: usize, start: u64, end: u64) {
    // No `assert_eq`: a megabyte of numbers helps nobody.
    assert!(
        read(mounts, layer, start, end) == truth(lab, layer, start, end),
        "layer {layer}, {start}..{end}"
    );
}

fn needed() -> u64 {
    NEEDS.iter().map(|(_, start, end)| end - start).sum()
}

fn check_that_the_kernel_has_it_all(lab: &Lab, here: &Running, mounts: &[TestMount]) {
    eventually("all is given", || here.node.stats.pack_given_bytes.get() == needed());
    for &(layer, start, end) in NEEDS {
        check(lab, mounts, layer, start, end);
    }
    assert_eq!(here.node.stats.reads.get(), 0, "the kernel asks for what it has");
    check(lab, mounts, 0, 0, 1 << 20);
    check(lab, mounts, 1, 0, 1 << 20);
    assert!(here.node.stats.reads.get() > 0, "the kernel does not ask for what it has not");
    assert_eq!(here.node.stats.pack_mismatches.get(), 0);
}

harness::both_ways!(
    a_mount_that_comes_after_the_pack_gets_its_pages,
    the_first_container_after_a_restart_gets_its_pages_without_the_registry,
    a_mount_that_comes_before_the_pack_gets_its_pages,
    readers_wait_for_no_page_that_is_given_meanwhile,
    names_behind_links_and_odd_names_do_no_harm,
    the_kernel_forgets_a_pack_that_was_wrong,
);

fn a_mount_that_comes_after_the_pack_gets_its_pages(way: Way) {
    let lab = Lab::new(two_layers());
    lab.put_fine();
    lab.pack(&in_tars(NEEDS)).put(&lab.registry);
    let here = lab.start(|options| way.ask(options));
    here.packed();
    let dir = tempfile::tempdir().unwrap();
    let mounts = mounts(way, &here, dir.path());
    check_that_the_kernel_has_it_all(&lab, &here, &mounts);
}

fn the_first_container_after_a_restart_gets_its_pages_without_the_registry(way: Way) {
    let mut lab = Lab::new(two_layers());
    lab.put_fine();
    lab.pack(&in_tars(NEEDS)).put(&lab.registry);
    let here = lab.start(|options| way.ask(options));
    here.packed();
    let (fine, pack) = here
        .node
        .runtime
        .block_on(async { (here.image.fine_digest().await, here.image.pack_digest().await) });
    assert!(fine.is_some() && pack.is_some());
    drop(here);
    lab.registry.stop();
    let here = lab.run_with(lab.node(|options| way.ask(options)), Companions::Recorded { fine, pack });
    let dir = tempfile::tempdir().unwrap();
    let mounts = mounts(way, &here, dir.path());
    assert_eq!(here.node.stats.pack_given_bytes.get(), 0, "nobody wants it yet");
    here.node.runtime.block_on(here.image.wanted());
    eventually("all is given", || here.node.stats.pack_given_bytes.get() == needed());
    for &(layer, start, end) in NEEDS {
        check(&lab, &mounts, layer, start, end);
    }
    assert_eq!((here.node.stats.reads.get(), here.node.stats.pack_bytes.get()), (0, 0));
}

fn a_mount_that_comes_before_the_pack_gets_its_pages(way: Way) {
    let lab = Lab::new(two_layers());
    lab.put_fine();
    let pack = lab.pack(&in_tars(NEEDS)).put(&lab.registry);
    lab.registry.faults().add(When::path(pack.blob.to_string()), Fault::Throttle(400_000));
    let here = lab.start(|options| way.ask(options));
    let dir = tempfile::tempdir().unwrap();
    let mounts = mounts(way, &here, dir.path());
    assert_eq!(here.node.stats.packs.get(), 0, "the pack was here first");
    check_that_the_kernel_has_it_all(&lab, &here, &mounts);
}

fn readers_wait_for_no_page_that_is_given_meanwhile(way: Way) {
    // The whole file is needed and read in one go while it arrives: the kernel locks many pages for one read, of which the
    // pack brings some early and some late.
    let lab = Lab::new(two_layers());
    lab.put_fine();
    let whole = [(0, 0, 1 << 20)];
    let pack = lab.pack(&in_tars(&whole)).put(&lab.registry);
    lab.registry.faults().add(When::path(pack.blob.to_string()), Fault::Throttle(1_000_000));
    let here = lab.start(|options| {
        way.ask(options);
        options.mounts.fuse.read_ahead = 128 << 10;
        options.spans.pack_patience = std::time::Duration::from_mins(10);
    });
    let dir = tempfile::tempdir().unwrap();
    let mounts = mounts(way, &here, dir.path());
    // What nothing has promised yet is asked for.
    eventually("the pack has begun", || here.node.stats.pack_blocks.get() > 0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| check(&lab, &mounts, 0, 0, 1 << 20));
        }
    });
    assert_eq!((lab.layer_ranges(), here.node.stats.read_failures.get()), (0, 0));
}

fn names_behind_links_and_odd_names_do_no_harm(way: Way) {
    let tar = TarWriter::default()
        .entry("outside", b'2', "/proc/self", &[])
        .file("./dir//file1", &vec![7; 8192])
        .file("outside/status", &vec![8; 8192])
        .finish();
    let lab = Lab::new(vec![(LayerSource::of_tar(&tar), tar)]);
    lab.put_fine();
    lab.pack(&[(0, 0, lab.tars[0].len() as u64)]).put(&lab.registry);
    let here = lab.start(|options| way.ask(options));
    here.packed();
    let dir = tempfile::tempdir().unwrap();
    let mounts = mounts(way, &here, dir.path());
    let file = mounts[0].mountpoint().join("dir/file1");
    eventually("the file is given", || here.node.stats.pack_given_bytes.get() >= 8192);
    assert!(std::fs::read(file).unwrap() == vec![7; 8192]);
}

fn the_kernel_forgets_a_pack_that_was_wrong(way: Way) {
    const PACKED: (u64, u64) = (204_800, 266_240);
    const WRONG: u64 = 250_001;
    let lab = Lab::new(two_layers());
    lab.put_fine();
    let mut plain = truth(&lab, 0, PACKED.0, PACKED.1).to_vec();
    plain[(WRONG - PACKED.0) as usize] ^= 0xff;
    let extent = Extent { layer: 0, range: ByteRange::new(CONTENT + PACKED.0, CONTENT + PACKED.1) };
    let block = ForgedBlock::of_plain(&[extent], &plain);
    let (blob, head) = forged(&lab.image.manifest, &lab.image.layers[..1], &[block]);
    PackParts::of_blob(lab.image.manifest, blob, head).put(&lab.registry);
    let here = lab.start(|options| {
        way.ask(options);
        options.spans.read_ahead = 0;
    });
    here.packed();
    let dir = tempfile::tempdir().unwrap();
    let mounts = mounts(way, &here, dir.path());
    eventually("the lie is given", || here.node.stats.pack_given_bytes.get() == PACKED.1 - PACKED.0);
    assert!(
        read(&mounts, 0, PACKED.0, PACKED.1) == plain,
        "nobody can know yet, and the kernel has what was given"
    );
    assert_eq!(here.node.stats.reads.get(), 0);

    // A read beside the packed bytes brings the span that has the wrong one.
    check(&lab, &mounts, 0, PACKED.1, PACKED.1 + 4096);
    let table = here.layers[0].spans().ztoc().spans();
    let span = table.spans_covering(ByteRange::new(CONTENT + WRONG, CONTENT + WRONG + 1)).next().unwrap();
    here.check(0, here.span(0, span).end - 1, here.span(0, span).end);
    eventually("the span is compared", || here.node.stats.pack_mismatches.get() == 1);
    eventually("the kernel asks again", || {
        read(&mounts, 0, PACKED.0, PACKED.1) == truth(&lab, 0, PACKED.0, PACKED.1)
    });
}
