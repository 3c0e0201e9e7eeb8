//! `soci create --pack`, `soci convert --pack` and `soci pack`: what a recording needs, in one blob that is checked against
//! the layers.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use harness::disk_image::{self, half_random};
use harness::image::{TarWriter, gzip};
use harness::registry::TestRegistry;
use harness::soci::{Outcome, Soci};
use serde_json::Value;
use soci_core::digest::Digest;
use soci_core::image::{Descriptor, ImageSource, Manifest, Platform};
use soci_core::index::{CompanionKind, companion_of};
use soci_core::media_type::{OCI_LAYER, OCI_LAYER_GZIP, OCI_MANIFEST, PACK, PACK_BLOCKS, PACK_WORKLOAD};
use soci_core::pack::{PackHead, head_pin, open_block};
use soci_core::registry::{Registry, RegistryOptions};
use soci_core::store::LayoutStore;
use soci_core::trace::{Access, AccessKind, End, Header, Outcome as Ended, Phase, Process, TraceWriter};

const KIB: u64 = 1 << 10;

struct Place {
    soci: Soci,
    layers: Vec<Descriptor>,
    /// Plain tars of the layers.
    tars: Vec<Vec<u8>>,
}

/// Two layers of files that a trace reads, and a small one on top that gets no zTOC.
fn place() -> Place {
    let soci = Soci::new();
    let content = |seed| half_random(600_000, seed);
    let low = TarWriter::default().file("low/a", &content(1)).file("low/b", &content(2)).finish();
    let high = TarWriter::default().file("high/c", &content(3)).entry("link", b'2', "low/b", b"").finish();
    let top = TarWriter::default().file("top", b"small layer").finish();
    let tars = vec![low, high, top];
    let blobs =
        [(OCI_LAYER_GZIP, gzip(&tars[0], 6)), (OCI_LAYER, tars[1].clone()), (OCI_LAYER, tars[2].clone())];
    let layers = disk_image::write(&soci.dir().join("image"), "v1", &blobs);
    let place = Place { soci, layers, tars };
    trace(&place.soci.dir().join("run.trace"));
    place
}

/// (path, offset, length, phase, kind) by the millisecond, the order of need among them.
const ACCESSES: &[(&str, u64, u64, Phase, AccessKind)] = &[
    ("high/c", 8 * KIB, 4 * KIB, Phase::Start, AccessKind::Read),
    ("low/a", 200 * KIB, 4 * KIB, Phase::Tail, AccessKind::Read),
    ("low/b", 0, 16 * KIB, Phase::Start, AccessKind::Map),
    ("link", 300 * KIB, 150 * KIB, Phase::Start, AccessKind::Read),
    ("top", 0, 11, Phase::Start, AccessKind::Read),
    ("low/a", 500_000, 100_000, Phase::Start, AccessKind::Fault),
];

fn trace(path: &Path) {
    let header = Header {
        image: "oci:image".into(),
        manifest: None,
        layers: Vec::new(),
        engine: "test".into(),
        argv: Vec::new(),
        started_at: "2026-01-01T00:00:00Z".into(),
        warm: None,
        waits: None,
        partial: false,
    };
    let mut writer = TraceWriter::create(path, &header).unwrap();
    let process = Arc::new(Process { pid: 1, comm: Arc::from(&b"app"[..]) });
    for (at, &(path, offset, len, phase, kind)) in ACCESSES.iter().enumerate() {
        let (t_ns, path, process) =
            (at as u64 * 20_000_000, Arc::from(path.as_bytes()), Arc::clone(&process));
        writer
            .access(&Access { t_ns, phase, kind, path, layer: None, offset, len, process, wait_ns: 0 })
            .unwrap();
    }
    let (outcome, links) = (Ended::Ready, std::collections::BTreeMap::new());
    let end =
        End { dropped: 0, outcome, ready_ns: Some(1), ended_ns: 2, exit_code: None, outside: None, links };
    writer.finish(&end).unwrap();
}

impl Place {
    fn create(&self, more: &[&str]) -> Outcome {
        let args = ["create", "--min-layer-size", "100000", "--trace", "run.trace"];
        let fine: &[&str] = if more.contains(&"--fine") { &[] } else { &["--no-fine"] };
        self.soci.run([&args[..], fine, more, &["oci:image"]].concat())
    }

    fn store(&self) -> LayoutStore {
        LayoutStore::existing(&self.soci.dir().join("root/content")).unwrap()
    }

    fn manifest(&self, pack: &Digest) -> Manifest {
        Manifest::parse(self.store().read(pack).unwrap(), OCI_MANIFEST).unwrap()
    }

    /// (layer, start, end) of all extents, after each was compared with the layer's tar; and how many are to be had first.
    fn extents(&self, pack: &Digest) -> (Vec<(usize, u64, u64)>, usize) {
        let manifest = self.manifest(pack);
        let [blob] = &manifest.layers[..] else { panic!("one blob: {:?}", manifest.layers) };
        assert_eq!(blob.media_type, PACK_BLOCKS);
        let bytes = self.store().read(&blob.digest).unwrap();
        let pin = head_pin(blob).unwrap();
        let head: PackHead = pin.open(&bytes[..pin.size as usize]).unwrap();
        assert_eq!((head.size(), head.image()), (bytes.len() as u64, manifest.subject.unwrap().digest));
        let (mut extents, mut first) = (Vec::new(), 0);
        for (block, it) in head.blocks().iter().enumerate() {
            if block == head.must_have() {
                first = extents.len();
            }
            let plain =
                open_block(&head, block, &bytes[it.stored.start as usize..it.stored.end as usize]).unwrap();
            let mut at = 0;
            for extent in head.extents(block) {
                let digest = head.layers()[usize::from(extent.layer)];
                let layer = self.layers.iter().position(|layer| layer.digest == digest).unwrap();
                let (from, to) = (extent.range.start as usize, extent.range.end as usize);
                assert_eq!(&plain[at..at + to - from], &self.tars[layer][from..to]);
                at += to - from;
                match extents.last_mut() {
                    Some((of, _, end)) if *of == layer && *end == extent.range.start => {
                        *end = extent.range.end;
                    }
                    _ => extents.push((layer, extent.range.start, extent.range.end)),
                }
            }
        }
        (extents, first)
    }
}

/// The digest in the line `pack -> DIGEST`.
fn told(output: &str) -> Digest {
    output.lines().find_map(|line| line.strip_prefix("pack -> ")).expect("a pack is told").parse().unwrap()
}

/// What the trace needs of layers that have a zTOC: what was asked for before the workload was ready, what was only mapped,
/// and the tail. Content of `low/a` and `high/c` is at
/// 512, of `low/b` at 601 088.
const NEEDED: &[(usize, u64, u64)] = &[
    (1, 512 + 8 * KIB, 512 + 12 * KIB),
    (0, 601_088 + 300 * KIB, 601_088 + 452 * KIB),
    (0, 500_224, 600_576),
    (0, 601_088, 601_088 + 16 * KIB),
    (0, 512 + 200 * KIB, 512 + 204 * KIB),
];

#[test]
fn a_pack_holds_what_the_trace_needs_in_its_order() {
    let place = place();
    let outcome = place.create(&["--pack", "--pack-name", "web"]);
    assert!(outcome.stderr.contains("which has no zTOC: they are not in the pack"), "{}", outcome.stderr);
    let pack = told(&outcome.ok());
    let (extents, first) = place.extents(&pack);
    // What was asked for before readiness is a block of its own, in which extents are in the order of their places; so is what was
    // mapped along. Both are to be had first.
    let mut head = NEEDED[..3].to_vec();
    head.sort_unstable();
    head.push(NEEDED[3]);
    assert_eq!((&extents[..first], first), (&head[..], 4));
    let rest = &extents[first..];
    for (layer, start, end) in &NEEDED[4..] {
        let has = |(of, from, to): &(usize, u64, u64)| of == layer && from <= start && end <= to;
        assert!(rest.iter().any(has), "{layer}: {start}..{end}");
    }
    // Beside what is needed: a page on both sides of it, as far as the file goes. `b` is whole in its layer but for its gap.
    let length =
        |extents: &[(usize, u64, u64)]| extents.iter().map(|(_, start, end)| end - start).sum::<u64>();
    assert!(length(rest) > length(&NEEDED[4..]));
    for &(layer, start, end) in rest {
        for at in (start..end).step_by(512) {
            let near = |&(of, from, to): &(usize, u64, u64)| {
                of == layer && (from.saturating_sub(4 * KIB)..to + 4 * KIB).contains(&at)
            };
            assert!(NEEDED.iter().any(near), "{layer}: {at} in {start}..{end}");
        }
    }
    let manifest = place.manifest(&pack);
    let subject = manifest.subject.clone().unwrap().digest;
    assert_eq!(companion_of(&manifest, &subject), Some(CompanionKind::Pack));
    assert_eq!(manifest.annotations[PACK_WORKLOAD], "web");

    let again = told(&place.create(&["--pack", "--pack-name", "web"]).ok());
    assert_eq!(again, pack, "the same needs give the same bytes");
    let alone =
        place.soci.run(["pack", "create", "--trace", "run.trace", "--name", "web", "-q", "oci:image"]);
    assert_eq!(alone.ok().trim(), pack.to_string());
}

#[test]
fn with_fine_indexes_a_pack_has_what_is_needed_of_small_layers_too() {
    let place = place();
    let outcome = place.create(&["--fine", "--pack"]);
    assert!(!outcome.stderr.contains("not in the pack"), "{}", outcome.stderr);
    let pack = told(&outcome.ok());
    let small = (2, 512, 1024);
    assert!(place.extents(&pack).0.contains(&small), "{:?}", place.extents(&pack).0);
    let alone = place.soci.run(["pack", "create", "--trace", "run.trace", "-q", "oci:image"]);
    assert_eq!(alone.ok().trim(), pack.to_string());
}

#[test]
fn packs_of_one_name_are_told_apart_by_the_nodes_that_they_are_for() {
    let place = place();
    let all = told(&place.create(&["--pack", "--pack-name", "web"]).ok());
    let gpu = ["--pack", "--pack-name", "web", "--pack-selector", "gpu=a100", "--pack-selector", "zone=1"];
    let gpu = told(&place.create(&gpu).ok());
    let again = [
        "pack",
        "create",
        "--trace",
        "run.trace",
        "--name",
        "web",
        "--selector",
        "zone=1",
        "--selector",
        "gpu=a100",
        "-q",
        "oci:image",
    ];
    assert_eq!(place.soci.run(again).ok().trim(), gpu.to_string(), "the order does not matter");
    let listed: Value = serde_json::from_str(&place.soci.run(["pack", "ls", "--json"]).ok()).unwrap();
    let rows: BTreeSet<(String, String)> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["digest"].as_str().unwrap().to_owned(), row["selectors"].to_string()))
        .collect();
    let nodes = r#"{"gpu":"a100","zone":"1"}"#.to_owned();
    assert_eq!(rows, [(all.to_string(), "{}".to_owned()), (gpu.to_string(), nodes)].into());
    let table = place.soci.run(["pack", "list"]).ok();
    assert!(table.contains("gpu=a100,zone=1"), "{table}");
    let info = place.soci.run(["pack", "info", &gpu.to_string()]).ok();
    assert!(info.contains("For nodes:     gpu=a100,zone=1"), "{info}");
    let wrong = place.create(&["--pack", "--pack-selector", "gpu"]);
    assert!(wrong.stderr.contains("is not NAME=VALUE"), "{}", wrong.stderr);
}

#[test]
fn packs_are_told_apart_by_name_and_listed_and_shown() {
    let place = place();
    let web = told(&place.create(&["--pack", "--pack-name", "web"]).ok());
    let tool = told(&place.create(&["--pack", "--pack-name", "tool", "--pack-budget", "50%"]).ok());
    let info: Value =
        serde_json::from_str(&place.soci.run(["pack", "info", "--json", &web.to_string()]).ok()).unwrap();
    let budget = info["size"].as_u64().unwrap() - 1;
    let cut = place.create(&["--pack", "--pack-name", "web", "--pack-budget", &budget.to_string()]);
    assert!(cut.stderr.contains("note: the budget keeps "), "{}", cut.stderr);
    let cut = told(&cut.ok());
    assert!(cut != web, "the budget changes the pack");
    let listed: Value = serde_json::from_str(&place.soci.run(["pack", "ls", "--json"]).ok()).unwrap();
    let mut rows: Vec<(&str, String)> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["workload"].as_str().unwrap(), row["digest"].as_str().unwrap().to_owned()))
        .collect();
    rows.sort();
    assert_eq!(rows, [("tool", tool.to_string()), ("web", cut.to_string())]);
    let table = place.soci.run(["pack", "list"]).ok();
    assert!(table.lines().count() == 3 && table.starts_with("DIGEST"), "{table}");

    let info: Value =
        serde_json::from_str(&place.soci.run(["pack", "info", "--json", &tool.to_string()]).ok()).unwrap();
    let plain: u64 = place.extents(&tool).0.iter().map(|(_, start, end)| end - start).sum();
    assert_eq!((info["plain_size"].as_u64(), info["must_have_blocks"].as_u64()), (Some(plain), Some(2)));
    assert_eq!(info["layers"].as_array().unwrap().len(), 2);
    let info: Value =
        serde_json::from_str(&place.soci.run(["pack", "info", "--json", &cut.to_string()]).ok()).unwrap();
    assert!(info["size"].as_u64().unwrap() <= budget, "{info}");
    let text = place.soci.run(["pack", "info", &tool.to_string()]).ok();
    assert!(text.contains("Workload:      tool\n") && text.contains("to be had first"), "{text}");

    let index = place.soci.run(["index", "ls", "-q"]).ok();
    let index = index.lines().next().unwrap();
    assert_eq!(place.soci.run(["pack", "info", index]).failed(), "soci: the provided digest is not a pack");
    assert!(
        place.create(&["--no-pack", "--pack-name", "web"]).failed().is_empty(),
        "a usage error: there is no pack to name"
    );
}

#[test]
fn a_pack_with_one_wrong_byte_is_named() {
    let place = place();
    let pack = told(&place.create(&["--pack"]).ok());
    let right = place.soci.run(["pack", "verify", &pack.to_string(), "oci:image"]).ok();
    assert!(right.contains(": all 3 blocks are right"), "{right}");

    let blob = place.manifest(&pack).layers[0].digest;
    let path = place.store().blob_path(&blob);
    let bytes = std::fs::read(&path).unwrap();
    let damage = |at: usize| {
        let mut wrong = bytes.clone();
        wrong[at] ^= 1;
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, wrong).unwrap();
        place.soci.run(["pack", "verify", &pack.to_string(), "oci:image"]).failed()
    };
    let said = damage(bytes.len() - 1);
    assert!(said.contains("block 2 is wrong: block 2 has digest"), "{said}");
    let head = head_pin(&place.manifest(&pack).layers[0]).unwrap().size as usize;
    let said = damage(head);
    assert!(said.contains("block 0 is wrong"), "{said}");
    let said = damage(head - 1);
    assert!(said.contains("pack head has digest"), "{said}");

    let other = TarWriter::default().file("other", b"image").finish();
    disk_image::write(&place.soci.dir().join("other"), "v1", &[(OCI_LAYER, other)]);
    std::fs::write(&path, &bytes).unwrap();
    let said = place.soci.run(["pack", "verify", &pack.to_string(), "oci:other"]).failed();
    assert!(said.contains("pack is of image manifest"), "{said}");
}

/// Whoever makes a pack can pin any bytes at all: only the layers tell that they are wrong.
#[test]
fn bytes_that_are_not_the_layers_are_found_though_all_digests_fit() {
    let place = place();
    let pack = told(&place.create(&["--pack"]).ok());
    // The same image but for one byte of the first file that is needed.
    let mut forged = place.tars[1].clone();
    let at = NEEDED[0].1 + 77;
    forged[at as usize] ^= 0x40;
    let said = {
        let liar = Soci::new();
        let blobs = [
            (OCI_LAYER_GZIP, gzip(&place.tars[0], 6)),
            (OCI_LAYER, forged),
            (OCI_LAYER, place.tars[2].clone()),
        ];
        disk_image::write(&liar.dir().join("image"), "v1", &blobs);
        trace(&liar.dir().join("run.trace"));
        let made = told(
            &liar
                .run([
                    "create",
                    "--min-layer-size",
                    "100000",
                    "--trace",
                    "run.trace",
                    "--no-fine",
                    "oci:image",
                ])
                .ok(),
        );
        let store = LayoutStore::existing(&liar.dir().join("root/content")).unwrap();
        let manifest = Manifest::parse(store.read(&made).unwrap(), OCI_MANIFEST).unwrap();
        let mut lie = store.read(&manifest.layers[0].digest).unwrap().to_vec();
        // It claims to be of the right image and the right layer, with a head pinned to match.
        let ours = place.store().read(&place.manifest(&pack).layers[0].digest).unwrap();
        let their_head = head_pin(&manifest.layers[0]).unwrap().size as usize;
        // Image and layers are at fixed places.
        for same in [32..64, 80..144] {
            lie[same.clone()].copy_from_slice(&ours[same]);
        }
        let head = Digest::of(&lie[..their_head]);
        place.store().put(&lie).unwrap();
        let mut text: Value = serde_json::from_slice(&place.store().read(&pack).unwrap()).unwrap();
        text["layers"][0]["digest"] = Digest::of(&lie).to_string().into();
        text["layers"][0]["size"] = lie.len().into();
        text["layers"][0]["annotations"]["soci.pack.head-size"] = their_head.to_string().into();
        text["layers"][0]["annotations"]["soci.pack.head-digest"] = head.to_string().into();
        let raw = text.to_string();
        let digest = place.store().put(raw.as_bytes()).unwrap();
        let records = place.soci.dir().join("root/artifacts");
        let record = std::fs::read_to_string(records.join(format!("{}.json", pack.hex()))).unwrap();
        let record = record.replace(&pack.hex(), &digest.hex());
        std::fs::write(records.join(format!("{}.json", digest.hex())), record).unwrap();
        place.soci.run(["pack", "verify", &digest.to_string(), "oci:image"]).failed()
    };
    let layer = place.layers[1].digest;
    assert!(
        said.contains(&format!("block 0 is wrong: byte {at} of layer {layer} is another one in the layer")),
        "{said}"
    );
}

#[test]
fn a_converted_image_has_a_pack_of_its_own_manifest() {
    let place = place();
    let args = ["convert", "--standalone", "--format", "oci-dir", "--min-layer-size", "100000"];
    let more = ["--trace", "run.trace", "--pack", "oci:image", "converted"];
    let pack = told(&place.soci.run([&args[..], &more].concat()).ok());
    assert_ne!(pack, told(&place.create(&["--pack"]).ok()), "the subject is the new manifest");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_pack_is_pushed_and_found_as_a_referrer() {
    let place = place();
    let pack = told(&place.create(&["--pack", "--pack-name", "web"]).ok());
    let registry = TestRegistry::start();
    let reference = format!("{}/app:v1", registry.host());
    place.soci.run(["push", "--image", "oci:image", &reference]).ok();
    let out = place.soci.run(["pack", "push", "-q", &pack.to_string(), &reference]).ok();
    assert_eq!(out.trim(), pack.to_string());
    let json = place.soci.run(["pack", "push", "--json", &pack.to_string(), &reference]).ok();
    let pushed: serde_json::Value = serde_json::from_str(&json).unwrap();
    let expected =
        serde_json::json!({"image": reference, "pushed": [{"digest": pack.to_string(), "kind": "pack"}]});
    assert_eq!(pushed, expected);

    let client = Registry::new(RegistryOptions::default());
    let source = ImageSource::parse(&reference, &client).unwrap();
    let manifest = source.resolve(&Platform::host()).await.unwrap().manifest;
    let listed = source.repository().unwrap().referrers(&manifest.digest, Some(PACK)).await.unwrap();
    assert!(
        listed.iter().any(|found| found.digest == pack && found.annotations[PACK_WORKLOAD] == "web"),
        "{listed:?}"
    );
    let blob = &place.manifest(&pack).layers[0];
    assert_eq!(registry.blob(&blob.digest).map(|bytes| bytes.len() as u64), Some(blob.size));
    let verified = place.soci.run(["pack", "verify", "-q", &pack.to_string(), &reference]);
    verified.ok();
}

#[test]
fn a_removed_pack_gives_its_bytes_back() {
    let place = place();
    let pack = told(&place.create(&["--fine", "--pack"]).ok());
    let blob = place.manifest(&pack).layers[0].digest;
    let (index, fine) = (place.soci.run(["index", "ls", "-q"]).ok(), place.store().index().unwrap().len());
    assert_eq!(fine, 3, "index, fine index, pack");
    assert!(place.soci.run(["pack", "rm", index.trim_end()]).failed().ends_with("is not a pack"));
    place.soci.run(["pack", "rm", &pack.to_string()]).ok();
    assert!(!place.store().has(&pack) && !place.store().has(&blob));
    assert_eq!(place.store().index().unwrap().len(), 2);
    assert!(place.soci.run(["pack", "rm", &pack.to_string()]).failed().contains("no pack"));
    // A pack takes the place of the one with the same name, bytes and all.
    let first = told(&place.create(&["--pack"]).ok());
    let budget = (place.manifest(&first).layers[0].size - 1).to_string();
    let second = told(&place.create(&["--pack", "--pack-budget", &budget]).ok());
    assert_ne!(first, second, "the budget cuts something");
    assert!(!place.store().has(&first) && place.store().has(&second));
    // A record whose blob is gone stops nothing.
    std::fs::remove_file(place.store().blob_path(&second)).unwrap();
    place.create(&["--pack"]).ok();
}
