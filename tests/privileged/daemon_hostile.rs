//! Images whose indexes, packs and lists claim what no machine has: the daemon's memory stays in bounds, the log says why, and
//! the layer is left to who pulls it whole. Needs root, /dev/fuse and overlayfs.

use std::fs;

use flatbuffers::{FlatBufferBuilder, Table, TableFinishedWIPOffset, WIPOffset};
use harness::companions::{FineParts, PackParts, REPOSITORY};
use harness::faults::{Fault, When};
use harness::image::{LayerSource, TarWriter, publish};
use harness::patience::eventually;
use harness::pull::By;
use harness::registry::TestRegistry;
use harness::site::{Image, Site, words};
use serde_json::json;
use soci_core::digest::Digest;
use soci_core::media_type;
use soci_core::pack::Extent;
use soci_core::pack::testing::{ForgedBlock, forged};
use soci_core::units::ByteRange;
use soci_core::ztoc::{BuildOptions, build_gzip};

/// What the daemon may have above what it had before.
const MOST_MIB: u64 = 256;
const SPAN: u64 = 64 << 10;
const CONFIG: &str = "[pull_modes.soci_v1]\nenable = true\n[background_fetch]\ndisable = true\n";

/// A layer, and its plain tar.
fn layer(seed: u64) -> (LayerSource, Vec<u8>) {
    let tar = TarWriter::default().file(&format!("file{seed}"), &words(300_000, seed)).finish();
    (LayerSource::of_tar(&tar), tar)
}

fn ztoc_of(layer: &LayerSource) -> Vec<u8> {
    let options = BuildOptions { span_size: SPAN, ..BuildOptions::default() };
    build_gzip(layer.gzip.as_slice(), &options).unwrap().ztoc
}

/// The same bytes, with each number `from` made `to`.
fn with_number(bytes: &[u8], from: u64, to: u64) -> Vec<u8> {
    let (mut out, mut changed) = (bytes.to_vec(), 0);
    for at in 0..out.len() - 7 {
        if out[at..at + 8] == from.to_le_bytes() {
            out[at..at + 8].copy_from_slice(&to.to_le_bytes());
            changed += 1;
        }
    }
    assert!(changed > 0, "no number {from}");
    out
}

const fn slot(slot: u16) -> u16 {
    4 + 2 * slot
}

/// A zTOC for this layer, in which one file is there four million times.
fn overlapping(layer: &LayerSource, plain: u64) -> Vec<u8> {
    let mut builder = FlatBufferBuilder::new();
    let name = builder.create_byte_string(b"f");
    let kind = builder.create_string("reg");
    let table = builder.start_table();
    builder.push_slot_always(slot(0), name);
    builder.push_slot_always(slot(1), kind);
    builder.push_slot::<i64>(slot(2), 512, 0);
    let file: WIPOffset<TableFinishedWIPOffset> = builder.end_table(table);
    let file: WIPOffset<Table<'_>> = WIPOffset::new(file.value());
    let files = builder.create_vector(&vec![file; 4 << 20]);
    let table = builder.start_table();
    builder.push_slot_always(slot(0), files);
    let toc = builder.end_table(table);
    let table = builder.start_table();
    builder.push_slot::<i8>(slot(0), 2, 0);
    let compression = builder.end_table(table);
    let table = builder.start_table();
    builder.push_slot::<i64>(slot(2), layer.gzip.len() as i64, 0);
    builder.push_slot::<i64>(slot(3), plain as i64, 0);
    builder.push_slot_always(slot(4), toc);
    builder.push_slot_always(slot(5), compression);
    let root = builder.end_table(table);
    builder.finish_minimal(root);
    builder.finished_data().to_vec()
}

/// The registry, the daemon, and what it had before.
struct Scene {
    registry: TestRegistry,
    site: Site,
    pid: u32,
}

/// A number of `/proc/PID/status`, MiB.
fn status(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() >> 10
}

impl Scene {
    fn new() -> Self {
        let (registry, site) = (TestRegistry::start(), Site::new(CONFIG));
        let pid = site.daemon.pid();
        let scene = Self { registry, site, pid };
        let (good, _) = scene.image(vec![layer(1)]);
        scene.site.start("good", &good);
        scene
    }

    fn image(&self, layers: Vec<(LayerSource, Vec<u8>)>) -> (Image, Vec<Vec<u8>>) {
        let (sources, tars): (Vec<_>, Vec<_>) = layers.into_iter().unzip();
        let published = publish(&self.registry, REPOSITORY, &sources, SPAN);
        let diff_ids = tars.iter().map(|tar| Digest::of(tar)).collect();
        (Image { published, diff_ids }, tars)
    }

    /// Does something with the daemon that ends in one of these ways, with a reason in the log.
    #[track_caller]
    fn check(&self, name: &str, image: &Image, by: By, done: impl Fn(&Site) -> bool, reason: &str) {
        let log = self.site.daemon.log().len();
        fs::write(format!("/proc/{}/clear_refs", self.pid), "5").unwrap();
        let before = status(self.pid, "VmRSS:");
        let (found, _) = self.site.pull(image);
        assert!(
            found.iter().all(|found| *found == by),
            "{name}: {found:?}\n{}",
            &self.site.daemon.log()[log..]
        );
        eventually(name, || done(&self.site));
        let peak = status(self.pid, "VmHWM:");
        println!("{name}: {} MiB above {before} MiB", peak.saturating_sub(before));
        assert!(peak <= before + MOST_MIB, "{name}: {before} to {peak} MiB");
        eventually(&format!("{name}: {reason}"), || self.site.daemon.log()[log..].contains(reason));
    }
}

#[test]
fn tables_that_claim_too_much() {
    let scene = Scene::new();
    let whole = |_: &Site| true;
    let (good, tar) = layer(10);
    let (ztoc, size) = (ztoc_of(&good), good.gzip.len() as u64);

    let long = LayerSource { ztoc: Some(with_number(&ztoc, size, 1 << 50)), size: Some(1 << 50), ..good };
    let (image, _) = scene.image(vec![(long, tar)]);
    scene.check("a span of 2^50 bytes", &image, By::Runtime, whole, "layer cannot be served lazily");

    let (good, tar) = layer(11);
    let huge = with_number(&ztoc_of(&good), tar.len() as u64, 1 << 60);
    let (image, _) = scene.image(vec![(LayerSource { ztoc: Some(huge), ..good }, tar)]);
    let count = |site: &Site| site.daemon.metric("soci_layers_total{way=\"whole\"}");
    scene.check(
        "a layer of 2^60 bytes",
        &image,
        By::Snapshotter,
        |site| count(site) == 1,
        "layer cannot be served lazily",
    );

    let layers = (20..24).map(|seed| {
        let (good, tar) = layer(seed);
        (LayerSource { ztoc: Some(overlapping(&good, tar.len() as u64)), ..good }, tar)
    });
    let (image, _) = scene.image(layers.collect());
    scene.check("tables that overlap", &image, By::Snapshotter, |site| count(site) == 5, "ztoc-objects");

    let (good, _) = scene.image(vec![layer(12)]);
    scene.check("a good image after all of that", &good, By::Snapshotter, whole, "layer is served lazily");
}

#[test]
fn a_million_places_for_each_of_127_layers() {
    let scene = Scene::new();
    let artifact = |ranges: usize| {
        let all = vec![r#"{"start_span":0,"end_span":3}"#; ranges].join(",");
        format!("{{\"version\":\"1.0\",\"prefetch_spans\":[{all}]}}").into_bytes()
    };
    // Of four places each. Most have less than a million, because it takes so long otherwise.
    let (few, many) = (artifact(1 << 14), artifact(1 << 18));
    let layers = (100..227).map(|seed| {
        let (good, tar) = layer(seed);
        let artifact = if seed % 32 == 0 { &many } else { &few };
        // Each has one of its own: what is fetched once counts once.
        let artifact = [artifact, " ".repeat(seed as usize).as_bytes()].concat();
        (LayerSource { artifact: Some(artifact), ..good }, tar)
    });
    let (image, _) = scene.image(layers.collect());
    let taken = |site: &Site| {
        let count = |name: &str| site.daemon.metric(name);
        count("soci_prefetch_artifacts_total") + count("soci_prefetch_artifact_failures_total") == 127
    };
    scene.check("a million places for each layer", &image, By::Snapshotter, taken, "layer is served lazily");
    eventually("each span comes once", || {
        scene.registry.requests().iter().filter(|request| request.range.is_some()).count() >= 127
    });
}

#[test]
fn companions_and_lists_that_claim_too_much() {
    let scene = Scene::new();
    let (image, _) = scene.image(vec![layer(300)]);
    let extents: Vec<Extent> = (0..1 << 20)
        .map(|at| Extent { layer: 0, range: ByteRange::new(at * 4096, at * 4096 + 512) })
        .collect();
    let blocks: Vec<ForgedBlock> =
        extents.chunks(2048).map(|extents| ForgedBlock::of_plain(extents, b"")).collect();
    let (blob, head) = forged(&image.published.manifest, &image.published.layers, &blocks);
    PackParts::of_blob(image.published.manifest, blob, head).put(&scene.registry);
    let failed = |site: &Site| site.daemon.metric("soci_pack_failures_total") == 1;
    scene.check(
        "a pack of a million extents",
        &image,
        By::Snapshotter,
        failed,
        "pack failed, continuing without",
    );

    // A table of 256 MiB that is packed to nothing.
    let (good, tar) = layer(301);
    let plain = tar.len() as u64;
    let (image, _) = scene.image(vec![(good.clone(), tar)]);
    let mut fine = FineParts::build(&image.published, std::slice::from_ref(&good), SPAN, SPAN);
    let packed = zstd::bulk::compress(&vec![0; 256 << 20], 1).unwrap();
    let mut forged = b"SOCIFINE".to_vec();
    forged.extend([1_u32, 0].into_iter().flat_map(u32::to_le_bytes));
    forged.extend(image.published.layers[0].as_bytes());
    forged.extend([good.gzip.len() as u64, plain, SPAN].into_iter().flat_map(u64::to_le_bytes));
    forged.extend([0; 40]);
    forged.extend([2_u32, 0, 0, 0, 0, 256 << 20].into_iter().flat_map(u32::to_le_bytes));
    forged.extend(packed);
    fine.tables[0].1 = forged.into();
    fine.put(&scene.registry);
    scene.check("a fine table of 256 MiB", &image, By::Snapshotter, |_| true, "fine");

    // A list of referrers that never ends.
    let (image, _) = scene.image(vec![layer(302)]);
    let page = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
    scene.registry.faults().add(When::path("/referrers/"), Fault::Page(page));
    scene.check("referrers without an end", &image, By::Snapshotter, |_| true, "layer is served lazily");
    scene.registry.faults().clear();

    // As large a manifest as may be.
    let (mut image, _) = scene.image(vec![layer(303)]);
    let (kind, raw) = scene.registry.manifest(REPOSITORY, &image.published.manifest.to_string()).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_slice(&raw).unwrap();
    manifest["annotations"]["padding"] = json!("x".repeat((8 << 20) - 4096));
    assert_eq!(kind, media_type::OCI_MANIFEST);
    image.published.manifest =
        scene.registry.put_manifest(REPOSITORY, None, media_type::OCI_MANIFEST, manifest.to_string());
    scene.check("a manifest of 8 MiB", &image, By::Snapshotter, |_| true, "layer is served lazily");
}
