//! `soci create --trace`: a recording becomes prefetch artifacts in need order, and a span layout that hugs it.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use harness::disk_image::{self, half_random};
use harness::image::{TarWriter, gzip};
use harness::soci::{Outcome, Soci};
use soci_core::digest::Digest;
use soci_core::image::{Descriptor, ImageIndex};
use soci_core::index::SociIndex;
use soci_core::media_type::{OCI_INDEX, OCI_LAYER, OCI_LAYER_GZIP, SOCI_INDEX_V2};
use soci_core::prefetch::PrefetchArtifact;
use soci_core::store::LayoutStore;
use soci_core::trace::{Access, AccessKind, End, Header, Outcome as Ended, Phase, Process, TraceWriter};
use soci_core::units::{ByteRange, SpanId};
use soci_core::ztoc::Ztoc;

const MIB: u64 = 1 << 20;

struct Place {
    soci: Soci,
    layers: Vec<Descriptor>,
}

/// Two gzip layers of 4 MiB files and a small plain one on top that hides a file of the first.
fn place() -> Place {
    let soci = Soci::new();
    let content = |seed| half_random(4 * MIB as usize, seed);
    let low = TarWriter::default()
        .file("low/a", &content(1))
        .file("low/b", &content(2))
        .file("hidden", b"old")
        .finish();
    let high = TarWriter::default()
        .file("./high/c", &content(3))
        .entry("./high/link", b'2', "/low/b", b"")
        .entry("./low/hard", b'1', "./high/c", b"")
        .finish();
    let top = TarWriter::default().file(".wh.hidden", b"").file("top", b"small layer").finish();
    let blobs = [(OCI_LAYER_GZIP, gzip(&low, 6)), (OCI_LAYER_GZIP, gzip(&high, 6)), (OCI_LAYER, top)];
    let layers = disk_image::write(&soci.dir().join("image"), "v1", &blobs);
    Place { soci, layers }
}

/// Writes a trace of (path, offset, length, milliseconds). `lost` accesses were dropped; without it, it is torn.
fn trace(path: &Path, accesses: &[(&str, u64, u64, u64)], lost: Option<u64>) {
    flagged_trace(path, accesses, lost, None);
}

fn flagged_trace(path: &Path, accesses: &[(&str, u64, u64, u64)], lost: Option<u64>, warm: Option<bool>) {
    let header = Header {
        image: "oci:image".into(),
        manifest: Some(Digest::of(b"another build of the image")),
        layers: Vec::new(),
        engine: "test".into(),
        argv: Vec::new(),
        started_at: "2026-01-01T00:00:00Z".into(),
        warm,
        waits: None,
        partial: false,
    };
    let mut writer = TraceWriter::create(path, &header).unwrap();
    let process = Arc::new(Process { pid: 1, comm: Arc::from(&b"app"[..]) });
    for &(path, offset, len, ms) in accesses {
        let access = Access {
            t_ns: ms * 1_000_000,
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
    if let Some(dropped) = lost {
        writer
            .finish(&End {
                dropped,
                outcome: Ended::Ready,
                ready_ns: Some(1),
                ended_ns: 2,
                exit_code: None,
                outside: None,
                links: std::collections::BTreeMap::new(),
            })
            .unwrap();
    } else {
        writer.flush().unwrap();
    }
}

impl Place {
    fn create(&self, more: &[&str]) -> Outcome {
        let args = ["create", "--min-layer-size", "100000", "--trace", "run.trace"];
        let alone = ["--span-layout", "upstream", "--no-fine", "--no-pack"];
        self.soci.run([&args[..], &alone, more, &["oci:image"]].concat())
    }

    fn read(&self, digest: &Digest) -> Bytes {
        LayoutStore::existing(&self.soci.dir().join("root/content")).unwrap().read(digest).unwrap()
    }

    fn index(&self) -> SociIndex {
        let newest = self.soci.run(["index", "ls", "-q"]).ok();
        SociIndex::parse(self.read(&newest.lines().next().unwrap().parse().unwrap())).unwrap()
    }

    fn ztoc(&self, index: &SociIndex, layer: usize) -> Ztoc {
        Ztoc::open(self.read(&index.ztoc_of(&self.layers[layer].digest).unwrap().digest)).unwrap()
    }

    /// (start, end, priority) of a layer's artifact.
    fn spans(&self, index: &SociIndex, layer: usize) -> Vec<(u32, u32, u64)> {
        let Some(artifact) = index.prefetch_of(&self.layers[layer].digest) else { return Vec::new() };
        let artifact = PrefetchArtifact::parse(&self.read(&artifact.digest), SpanId(u32::MAX)).unwrap();
        artifact.prefetch_spans.iter().map(|s| (s.start_span, s.end_span, s.priority)).collect()
    }
}

/// Where a file's bytes are in its layer.
fn bytes_of(ztoc: &Ztoc, name: &str, offset: u64, len: u64) -> ByteRange {
    let file = ztoc.files().iter().find(|file| file.name == name.as_bytes()).unwrap();
    ByteRange::new(file.content_offset + offset, file.content_offset + offset + len)
}

const ACCESSES: &[(&str, u64, u64, u64)] = &[
    ("high/link", 3 * MIB, 4096, 10), // through a link into the lowest layer
    ("low/hard", 0, 8192, 20),        // a hard link of the middle one
    ("low/a", MIB, 100_000, 30),
    ("gone/for/ever", 0, 1, 40),
    ("hidden", 0, 3, 50),
    ("top", 0, 100, 60),
    ("low/b", 3 * MIB, 4096, 70), // known already
];

#[test]
fn of_several_traces_what_any_needs_is_taken_at_the_earliest_moment() {
    let place = place();
    trace(&place.soci.dir().join("run.trace"), &[("low/a", 0, 4096, 10), ("high/c", 0, 4096, 30)], Some(0));
    trace(&place.soci.dir().join("other.trace"), &[("high/c", 0, 4096, 5), ("low/b", 0, 4096, 20)], Some(0));
    place.create(&["--trace", "other.trace", "--span-size", "262144"]).ok();
    let index = place.index();
    let (low, high) = (place.ztoc(&index, 0), place.ztoc(&index, 1));
    let one = |ztoc: &Ztoc, range| ztoc.spans().spans_covering(range);
    let a = one(&low, bytes_of(&low, "low/a", 0, 4096));
    let b = one(&low, bytes_of(&low, "low/b", 0, 4096));
    let c = one(&high, bytes_of(&high, "./high/c", 0, 4096));
    assert_eq!(place.spans(&index, 1), [(c.start, c.end - 1, 1)]);
    assert_eq!(place.spans(&index, 0), [(a.start, a.end - 1, 2), (b.start, b.end - 1, 3)]);

    // Each of them must be whole.
    trace(&place.soci.dir().join("torn.trace"), &[("low/b", 0, 4096, 20)], None);
    let refused = place.create(&["--trace", "torn.trace"]);
    assert!(refused.stderr.contains("trace torn.trace is incomplete"), "{}", refused.stderr);
    assert_ne!(refused.code, 0);
}

#[test]
fn needs_become_exact_spans_in_order_over_all_layers() {
    let place = place();
    trace(&place.soci.dir().join("run.trace"), ACCESSES, Some(2));
    let outcome = place.create(&["--span-size", "262144", "--allow-incomplete"]);
    for text in [
        "2 accesses were lost",
        "trace run.trace was recorded on image manifest",
        "warning: 2 paths of the trace are no files of this image (the first: gone/for/ever)",
        "note: 11 bytes of the trace lie in layers without a zTOC",
    ] {
        assert!(outcome.stderr.contains(text), "{text}: {}", outcome.stderr);
    }
    outcome.ok();
    let index = place.index();
    let (low, high) = (place.ztoc(&index, 0), place.ztoc(&index, 1));
    let one = |ztoc: &Ztoc, range| ztoc.spans().spans_covering(range);
    let b = one(&low, bytes_of(&low, "low/b", 3 * MIB, 4096));
    let a = one(&low, bytes_of(&low, "low/a", MIB, 100_000));
    let c = one(&high, bytes_of(&high, "./high/c", 0, 8192));
    assert_eq!(place.spans(&index, 0), [(b.start, b.end - 1, 1), (a.start, a.end - 1, 3)]);
    assert_eq!(place.spans(&index, 1), [(c.start, c.end - 1, 2)]);
    assert_eq!(place.spans(&index, 2), []);
    // The pages that are needed of these spans; those of `low/b` once.
    let ranges = |layer: usize| {
        let artifact = index.prefetch_of(&place.layers[layer].digest).unwrap();
        let artifact = PrefetchArtifact::parse(&place.read(&artifact.digest), SpanId(u32::MAX)).unwrap();
        artifact.prefetch_spans.into_iter().map(|span| span.ranges).collect::<Vec<_>>()
    };
    let needed = |range: ByteRange| vec![[range.start, range.end]];
    let (b, a) = (bytes_of(&low, "low/b", 3 * MIB, 4096), bytes_of(&low, "low/a", MIB, 102_400));
    assert_eq!(ranges(0), [needed(b), needed(a)]);
    assert_eq!(ranges(1), [needed(bytes_of(&high, "./high/c", 0, 8192))]);
}

#[test]
fn a_trace_layout_hugs_what_is_needed_and_is_not_taken_for_upstreams() {
    let place = place();
    trace(&place.soci.dir().join("run.trace"), ACCESSES, Some(0));
    place.create(&[]).ok();
    let default = place.index();
    place.create(&["--span-layout", "trace"]).ok();
    let hugged = place.index();
    let moved = |index: &SociIndex| {
        let bytes = |layer| {
            let ztoc = place.ztoc(index, layer);
            let spans = place.spans(index, layer).into_iter().flat_map(|(start, end, _)| start..=end);
            spans.map(|span| ztoc.spans().compressed_range(SpanId(span)).len()).sum::<u64>()
        };
        bytes(0) + bytes(1)
    };
    let needed: u64 = 4096 + 8192 + 100_000;
    let (wide, tight) = (moved(&default), moved(&hugged));
    assert!(tight * 5 < wide, "{tight} of {wide} bytes");
    // At most the rest of a deflate block at each end of three ranges.
    assert!(tight < needed + 6 * 70_000, "{tight} bytes for {needed}");
    let order: Vec<u64> = place.spans(&hugged, 0).iter().map(|s| s.2).collect();
    assert_eq!(order, [1, 3]);

    assert_eq!(place.create(&["--span-layout", "trace"]).ok().matches("(already exists)").count(), 2);
    let again = place.soci.run(["create", "--min-layer-size", "100000", "oci:image"]).ok();
    assert_eq!(again.matches("(already exists)").count(), 2, "upstream's zTOCs are still known");
    let ztocs = |index: &SociIndex| index.ztocs().map(|ztoc| ztoc.digest).collect::<Vec<_>>();
    assert_eq!(ztocs(&place.index()), ztocs(&default));
    assert_ne!(ztocs(&hugged), ztocs(&default));
}

#[test]
fn a_converted_image_has_the_layout_and_the_order_of_the_trace() {
    let place = place();
    trace(&place.soci.dir().join("run.trace"), ACCESSES, Some(0));
    place.create(&["--span-layout", "trace"]).ok();
    let created = place.index();
    let convert = |more: &[&str], to: &str| {
        let words =
            ["convert", "--standalone", "--format", "oci-dir", "--min-layer-size", "100000", "--no-fine"];
        place.soci.run([&words[..], more, &["--trace", "run.trace", "oci:image", to]].concat()).ok();
        let made = LayoutStore::existing(&place.soci.dir().join(to)).unwrap();
        let listed = made.index().unwrap()[0].digest;
        let image = ImageIndex::parse(made.read(&listed).unwrap(), OCI_INDEX).unwrap();
        let index =
            image.manifests.iter().find(|entry| entry.artifact_type.as_deref() == Some(SOCI_INDEX_V2));
        let index = SociIndex::parse(made.read(&index.unwrap().digest).unwrap()).unwrap();
        assert!(
            index.layers.iter().all(|entry| made.has(&entry.digest)),
            "all that the index names is there"
        );
        index
    };
    let hugged = convert(&["--span-layout", "trace"], "hugged");
    assert_eq!(hugged.layers, created.layers, "zTOCs and prefetch artifacts are those of create");
    let plain = convert(&["--span-layout", "upstream", "--no-pack"], "plain");
    let ztocs = |index: &SociIndex| index.ztocs().map(|ztoc| ztoc.digest).collect::<Vec<_>>();
    assert_ne!(ztocs(&plain), ztocs(&hugged));
    assert_eq!(plain.prefetch_artifacts().count(), hugged.prefetch_artifacts().count());
}

#[test]
fn a_torn_trace_gives_what_is_left_and_an_empty_one_is_refused() {
    let place = place();
    trace(&place.soci.dir().join("run.trace"), &ACCESSES[..2], None);
    let outcome = place.create(&["--allow-incomplete"]);
    assert!(outcome.stderr.contains("is cut after byte"), "{}", outcome.stderr);
    outcome.ok();
    assert_eq!(place.spans(&place.index(), 1).len(), 1);

    trace(&place.soci.dir().join("run.trace"), &[], Some(0));
    assert_eq!(place.create(&[]).failed(), "soci: trace run.trace has no accesses");
    std::fs::write(place.soci.dir().join("run.trace"), "no trace at all").unwrap();
    assert_eq!(
        place.create(&[]).failed(),
        "soci: cannot read trace run.trace: not a trace file (wrong magic)"
    );
    let both = place.create(&["--prefetch-file", "x"]);
    assert_eq!(both.code, 1);
    assert!(both.stderr.contains("cannot be used with"), "{}", both.stderr);
}

#[test]
fn a_trace_that_may_lack_something_is_refused_unless_that_is_allowed() {
    let place = place();
    let path = place.soci.dir().join("run.trace");
    for (lost, warm, text) in [
        (Some(7), None, "trace run.trace is incomplete: 7 accesses were lost while recording"),
        (None, None, "trace run.trace is incomplete: it is cut after byte"),
        (Some(0), Some(true), "trace run.trace is incomplete: the page cache was warm"),
    ] {
        flagged_trace(&path, &ACCESSES[..2], lost, warm);
        let refused = place.create(&[]);
        assert!(refused.stderr.contains("--allow-incomplete"), "{}", refused.stderr);
        let said = refused.failed();
        assert!(said.starts_with(&format!("soci: {text}")), "{said}");
        let taken = place.create(&["--allow-incomplete"]);
        assert!(taken.stderr.contains(&format!("warning: {text}")), "{}", taken.stderr);
        taken.ok();
    }
    flagged_trace(&path, &ACCESSES[..2], Some(0), Some(false));
    assert!(!place.create(&[]).stderr.contains("incomplete"));
}
