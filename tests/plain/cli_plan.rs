//! What `soci create` makes of recordings: the order of need in prefetch artifacts and packs, and the same bytes for the same
//! recordings.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use harness::disk_image::{self, half_random};
use harness::image::{TarWriter, gzip};
use harness::soci::Soci;
use soci_core::digest::Digest;
use soci_core::image::Manifest;
use soci_core::index::SociIndex;
use soci_core::media_type::{OCI_LAYER, OCI_LAYER_GZIP, OCI_MANIFEST, PREFETCH};
use soci_core::pack::head_pin;
use soci_core::prefetch::PrefetchArtifact;
use soci_core::store::LayoutStore;
use soci_core::trace::{Access, AccessKind, End, Header, Outcome, Phase, Process, TraceWriter};
use soci_core::units::{ByteRange, SpanId};

const KIB: u64 = 1 << 10;
/// A long file is read in such steps, one every 4 ms: the pauses are shorter than what counts as one need.
const STEP: u64 = 16 * KIB;
const STEP_MS: u64 = 4;
/// A small file is needed at this moment by another thread.
const SMALL_MS: u64 = 300;
/// Reads of the long file.
const STEPS: u64 = 400;

/// (millisecond, path, offset, length).
type Need = (u64, &'static str, u64, u64);

fn write_trace(path: &Path, started_at: &str, needs: &[Need]) {
    let header = Header {
        image: "oci:image".into(),
        manifest: None,
        layers: Vec::new(),
        engine: "test".into(),
        argv: Vec::new(),
        started_at: started_at.into(),
        warm: None,
        waits: None,
        partial: false,
    };
    let mut writer = TraceWriter::create(path, &header).unwrap();
    let process = Arc::new(Process { pid: 1, comm: Arc::from(&b"app"[..]) });
    for &(t_ms, path, offset, len) in needs {
        let access = Access {
            t_ns: t_ms * 1_000_000,
            phase: Phase::Start,
            kind: AccessKind::Read,
            path: Arc::from(path.as_bytes()),
            layer: None,
            offset,
            len,
            process: Arc::clone(&process),
            wait_ns: 0,
        };
        writer.access(&access).unwrap();
    }
    let ready_ns = Some(2_000_000_000);
    let end = End {
        dropped: 0,
        outcome: Outcome::Ready,
        ready_ns,
        ended_ns: 2_000_000_001,
        exit_code: None,
        outside: None,
        links: BTreeMap::new(),
    };
    writer.finish(&end).unwrap();
}

/// A long read that goes on while another file is needed.
fn two_threads() -> Vec<Need> {
    let mut needs: Vec<Need> =
        (0..STEPS).map(|step| (step * STEP_MS, "data/long", step * STEP, STEP)).collect();
    needs.push((SMALL_MS, "data/small", 0, 4 * KIB));
    needs.sort_unstable();
    needs
}

struct Place {
    soci: Soci,
    /// Digest of each layer, and where the content of the small file and of the long one is in it.
    long: (Digest, ByteRange),
    small: (Digest, ByteRange),
}

/// Both files in one layer, or the small one in a layer above.
fn place(in_one_layer: bool) -> Place {
    let soci = Soci::new();
    let long = half_random((STEPS * STEP) as usize, 1);
    let small = half_random(4 * KIB as usize, 2);
    let tars = if in_one_layer {
        vec![TarWriter::default().file("data/long", &long).file("data/small", &small).finish()]
    } else {
        let layer = |path, content: &[u8]| TarWriter::default().file(path, content).finish();
        vec![layer("data/long", &long), layer("data/small", &small)]
    };
    let blobs: Vec<_> = tars
        .iter()
        .map(|tar| if in_one_layer { (OCI_LAYER, tar.clone()) } else { (OCI_LAYER_GZIP, gzip(tar, 6)) })
        .collect();
    let layers = disk_image::write(&soci.dir().join("image"), "v1", &blobs);
    let find = |content: &[u8]| {
        let at = |tar: &Vec<u8>| {
            (0..tar.len() / 512).map(|record| record * 512).find(|&at| tar[at..].starts_with(content))
        };
        let (layer, start) =
            tars.iter().enumerate().find_map(|(layer, tar)| Some((layer, at(tar)?))).unwrap();
        (layers[layer].digest, ByteRange::new(start as u64, (start + content.len()) as u64))
    };
    let (long, small) = (find(&long), find(&small));
    Place { soci, long, small }
}

impl Place {
    fn store(&self) -> LayoutStore {
        LayoutStore::existing(&self.soci.dir().join("root/content")).unwrap()
    }

    /// What the prefetch artifacts of an index have fetched, in their order: layer and needed bytes.
    fn prefetched(&self, index: &Digest) -> Vec<(Digest, ByteRange)> {
        let index = SociIndex::parse(self.store().read(index).unwrap()).unwrap();
        let mut ranked = Vec::new();
        for blob in index.layers.iter().filter(|blob| blob.media_type == PREFETCH) {
            let bytes = self.store().read(&blob.digest).unwrap();
            let layer = soci_core::index::layer_of(blob).unwrap();
            for span in PrefetchArtifact::parse(&bytes, SpanId(u32::MAX)).unwrap().prefetch_spans {
                ranked.push((span.priority, layer, span.ranges));
            }
        }
        ranked.sort();
        ranked
            .into_iter()
            .flat_map(|(_, layer, ranges)| {
                ranges.into_iter().map(move |[start, end]| (layer, ByteRange::new(start, end)))
            })
            .collect()
    }

    /// The extents of a pack, block by block.
    fn packed(&self, pack: &Digest) -> Vec<Vec<(Digest, ByteRange)>> {
        let manifest = Manifest::parse(self.store().read(pack).unwrap(), OCI_MANIFEST).unwrap();
        let pin = head_pin(&manifest.layers[0]).unwrap();
        let bytes = self.store().read(&manifest.layers[0].digest).unwrap();
        let head = pin.open(&bytes[..pin.size as usize]).unwrap();
        let extents = |block| {
            let extents = head.extents(block).iter();
            extents.map(|extent| (head.layers()[usize::from(extent.layer)], extent.range)).collect()
        };
        (0..head.blocks().len()).map(extents).collect()
    }

    /// How many bytes of the long file are fetched before all of the small one is here.
    fn before_the_small_one(&self, fetched: &[Vec<(Digest, ByteRange)>]) -> u64 {
        let mut small = self.small.1.len();
        let mut long = 0;
        for together in fetched {
            for (layer, range) in together {
                let of = |(of, content): (Digest, ByteRange)| {
                    if of == *layer { content.intersect(range).map_or(0, |both| both.len()) } else { 0 }
                };
                small -= of(self.small);
                long += of(self.long);
            }
            if small == 0 {
                return long;
            }
        }
        panic!("{small} bytes of the small file are not fetched")
    }
}

#[test]
fn what_is_needed_soon_is_fetched_before_what_a_long_read_needs_later() {
    let read_until_then = (SMALL_MS / STEP_MS + 1) * STEP;
    for in_one_layer in [true, false] {
        let place = place(in_one_layer);
        let needs = two_threads();
        write_trace(&place.soci.dir().join("a.trace"), "2026-01-01T00:00:00Z", &needs);
        write_trace(&place.soci.dir().join("b.trace"), "2026-01-01T00:01:00Z", &needs);
        // A trace as it is, and two as a profile.
        for traces in [&["--trace", "a.trace"][..], &["--trace", "a.trace", "--trace", "b.trace"]] {
            let args =
                ["create", "--json", "--force", "--pack", "--min-layer-size", "0", "--span-size", "64KiB"];
            let made = place.soci.run([&args[..], traces, &["oci:image"]].concat()).ok();
            let made: serde_json::Value = serde_json::from_str(&made).unwrap();
            let digest = |value: &serde_json::Value| value["digest"].as_str().unwrap().parse().unwrap();
            let made = &made["indexes"][0];
            let prefetched: Vec<_> =
                place.prefetched(&digest(made)).into_iter().map(|range| vec![range]).collect();
            // 10 ms of the long file are one need, and spans do not end where needs do.
            let slack = 64 * KIB + 3 * STEP;
            let before = place.before_the_small_one(&prefetched);
            assert!(before <= read_until_then + slack, "{before} bytes are prefetched first");
            let blocks = place.packed(&digest(&made["packs"][0]));
            assert!(blocks.len() > 10, "{} blocks", blocks.len());
            let before = place.before_the_small_one(&blocks);
            assert!(before <= read_until_then + 512 * KIB, "{before} bytes are packed first");
        }
    }
}

/// Names of all blobs that a root has.
fn blobs(root: &Path) -> BTreeSet<std::ffi::OsString> {
    let blobs = std::fs::read_dir(root.join("content/blobs/sha256")).unwrap();
    blobs.map(|blob| blob.unwrap().file_name()).collect()
}

#[test]
fn the_same_traces_give_the_same_bytes_in_any_order() {
    let soci = Soci::new();
    let content = |seed| half_random(200_000, seed);
    let low = TarWriter::default().file("low/a", &content(1)).file("low/b", &content(2)).finish();
    let high = TarWriter::default().file("high/c", &content(3)).finish();
    disk_image::write(&soci.dir().join("image"), "v1", &[(OCI_LAYER_GZIP, gzip(&low, 6)), (OCI_LAYER, high)]);
    // Runs that agree in part, of which two began in the same second and two have a need at the same moment.
    let runs: [(&str, &[Need]); 3] = [
        ("2026-01-01T00:00:00Z", &[(1, "low/a", 0, 8192), (2, "high/c", 4096, 4096), (9, "low/b", 0, 4096)]),
        ("2026-01-01T00:00:00Z", &[(1, "low/b", 0, 8192), (1, "low/a", 0, 4096), (30, "high/c", 0, 20_000)]),
        ("2026-01-01T00:01:00Z", &[(1, "high/c", 0, 4096), (5, "low/a", 4096, 100_000), (6, "low/b", 0, 1)]),
    ];
    for ((started_at, needs), name) in runs.iter().zip(["x.trace", "y.trace", "z.trace"]) {
        write_trace(&soci.dir().join(name), started_at, needs);
    }
    let orders = ["xyz", "xzy", "yxz", "yzx", "zxy", "zyx"];
    let made = orders.map(|order| {
        let names: Vec<String> = order.chars().map(|name| format!("{name}.trace")).collect();
        let traces: Vec<&str> = names.iter().flat_map(|name| ["--trace", name]).collect();
        let (profile, root) = (format!("{order}.profile"), format!("root-{order}"));
        let image = ["--image", "oci:image", "-o", &profile];
        soci.run([&["profile", "create"], &traces[..], &image].concat()).ok();
        let args = [
            "--root",
            &root,
            "create",
            "--min-layer-size",
            "0",
            "--fine",
            "--pack",
            "--span-layout",
            "trace",
        ];
        soci.run([&args[..], &traces, &["oci:image"]].concat()).ok();
        (std::fs::read(soci.dir().join(profile)).unwrap(), blobs(&soci.dir().join(root)))
    });
    assert!(
        made[0].1.len() >= 7,
        "zTOCs, prefetch artifacts, fine indexes, a pack and their manifests: {:?}",
        made[0].1
    );
    for (other, order) in made.iter().zip(orders) {
        assert!(*other == made[0], "{order} differs from {}", orders[0]);
    }
}
