//! Packs of images whose layers come in every kind, without an index: what is packed is what the tars have.
//!
//! Needs the program `zstd`.

use std::collections::HashMap;
use std::process::Command;
use std::sync::{Arc, Mutex};

use soci_core::digest::Digest;
use soci_core::image::{Descriptor, Image, ImageSource, Platform};
use soci_core::index::Event;
use soci_core::media_type::{OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, OCI_MANIFEST};
use soci_core::pack::{
    Budget, Destination, PackBuildError, PackHead, PackReport, PackSettings, Purpose, VerifyError, head_pin,
    make, open_block, verify,
};
use soci_core::prefetch::{Plan, PlanItem};
use soci_core::registry::{Registry, RegistryOptions};
use soci_core::store::{ArtifactKind, Artifacts, ContentStore, LayoutStore};
use soci_core::testing::{GzipShape, TarBuilder, TarEntry, TarFormat, content, gzip};
use soci_core::units::ByteRange;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// An image in a layout, and a store beside it.
struct Made {
    image: Image,
    tars: HashMap<Digest, Vec<u8>>,
    store: LayoutStore,
    artifacts: Artifacts,
    runtime: Runtime,
    _dir: TempDir,
}

fn tar(entries: &[TarEntry]) -> Vec<u8> {
    TarBuilder::archive(TarFormat::Pax, entries)
}

impl Made {
    fn new(layers: &[(&str, Vec<u8>, Vec<u8>)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let layout = LayoutStore::open(&path).unwrap();
        let put =
            |kind: &str, bytes: &[u8]| Descriptor::new(kind, layout.put(bytes).unwrap(), bytes.len() as u64);
        let listed: Vec<Descriptor> = layers.iter().map(|(kind, blob, _)| put(kind, blob)).collect();
        let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": put(OCI_CONFIG, config), "layers": listed,
        });
        layout.add_manifest(put(OCI_MANIFEST, manifest.to_string().as_bytes())).unwrap();
        let store = LayoutStore::open(&dir.path().join("content")).unwrap();
        let artifacts = Artifacts::open(&dir.path().join("artifacts")).unwrap();
        let runtime = Runtime::new().unwrap();
        let source = format!("oci:{}", path.display());
        let source = ImageSource::parse(&source, &Registry::new(RegistryOptions::default())).unwrap();
        let image = runtime.block_on(source.resolve(&Platform::new("linux", "amd64"))).unwrap();
        let tars = layers.iter().map(|(_, blob, tar)| (Digest::of(blob), tar.clone())).collect();
        Self { image, tars, store, artifacts, runtime, _dir: dir }
    }

    fn pack(&self, needs: &[(&str, u64, u64)], budget: Option<Budget>) -> Result<PackReport, PackBuildError> {
        let items: Vec<PlanItem> = needs
            .iter()
            .map(|&(path, start, end)| PlanItem {
                path: Arc::from(path.as_bytes()),
                range: ByteRange::new(start, end),
                first_need_ns: 0,
            })
            .collect();
        let plan = Plan { asked: items.len(), must_have: items.len(), items };
        let settings =
            PackSettings { plan, budget, purpose: Purpose::default(), advised_whole: false, optional: false };
        let store = ContentStore::Layout(self.store.clone());
        let (artifacts, runtime) = (&self.artifacts, self.runtime.handle());
        let place = Destination { store: &store, beside: &[], artifacts, name: "image", runtime };
        make(&self.image, &self.image.manifest, None, &settings, place, &|_| {})
    }

    fn blob(&self, report: &PackReport) -> (Descriptor, Vec<u8>) {
        let raw = self.store.read(&report.descriptor.digest).unwrap();
        let manifest = soci_core::image::Manifest::parse(raw, OCI_MANIFEST).unwrap();
        let blob = manifest.layers[0].clone();
        let bytes = self.store.read(&blob.digest).unwrap().to_vec();
        (blob, bytes)
    }

    /// Compares every extent with the tar; gives the layers and lengths of all.
    fn check(&self, report: &PackReport) -> Vec<(Digest, u64)> {
        let (blob, bytes) = self.blob(report);
        let pin = head_pin(&blob).unwrap();
        let head = pin.open(&bytes[..pin.size as usize]).unwrap();
        head.check_layers(|layer| self.tars.get(layer).map(|tar| tar.len() as u64)).unwrap();
        let mut all = Vec::new();
        for (block, it) in head.blocks().iter().enumerate() {
            let plain =
                open_block(&head, block, &bytes[it.stored.start as usize..it.stored.end as usize]).unwrap();
            let mut rest = &plain[..];
            for extent in head.extents(block) {
                let layer = head.layers()[usize::from(extent.layer)];
                let (part, after) = rest.split_at(extent.range.len() as usize);
                assert_eq!(part, &self.tars[&layer][extent.range.start as usize..extent.range.end as usize]);
                rest = after;
                all.push((layer, extent.range.len()));
            }
        }
        self.verify(&head, &bytes).unwrap();
        all
    }

    fn verify(&self, head: &PackHead, bytes: &[u8]) -> Result<(), VerifyError> {
        let read = |range: ByteRange| Ok(bytes[range.start as usize..range.end as usize].to_vec().into());
        verify(head, &self.image, read, self.runtime.handle(), &|_| {})
    }
}

fn zstd(plain: &[u8]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("plain");
    std::fs::write(&path, plain).unwrap();
    Command::new("zstd").args(["-q", "-c"]).arg(&path).output().unwrap().stdout
}

/// Layers of every kind; the lowest one comes again as the topmost but one, and its file is hidden in between.
fn every_kind() -> Made {
    let low = tar(&[TarEntry::file("a", content(1, 300_000)), TarEntry::hard_link("a2", "a")]);
    let members = tar(&[TarEntry::file("b", content(2, 250_001)), TarEntry::whiteout("a")]);
    let frames = tar(&[
        TarEntry::dir("d/"),
        TarEntry::file("d/c", content(3, 150_000)),
        TarEntry::symlink("e", "d/c"),
    ]);
    let low_blob = gzip(&GzipShape::Level(6), &low);
    Made::new(&[
        (OCI_LAYER_GZIP, low_blob.clone(), low.clone()),
        (OCI_LAYER_GZIP, gzip(&GzipShape::Members(70_000), &members), members),
        (OCI_LAYER_ZSTD, zstd(&frames), frames.clone()),
        (OCI_LAYER_GZIP, low_blob, low),
        (OCI_LAYER, tar(&[TarEntry::file("f", "plain")]), tar(&[TarEntry::file("f", "plain")])),
    ])
}

#[test]
fn layers_of_every_kind_are_packed_and_verified() {
    let place = every_kind();
    let layer = |n: usize| place.image.layers()[n].digest;
    let needs = [
        ("e", 1000, 2000),
        ("f", 0, 5),
        ("a", 0, 512),
        ("a2", 0, 1024),
        ("b", 200_000, 250_001),
        ("no", 0, 1),
        ("a", 100, 2000),
    ];
    let report = place.pack(&needs, None).unwrap();
    // `a` and `a2` are the same bytes: the second name brings what the first has not; records of 512 bytes.
    let b = 250_001_u64.next_multiple_of(512) - 200_000 / 512 * 512;
    assert_eq!(
        place.check(&report),
        [
            // In a block by place: both needs of `a` are one extent.
            (layer(0), 2048),
            (layer(1), b),
            (layer(2), 1536),
            (layer(4), 512),
            // A page beside each: of `a` behind `a2`'s and behind its second, of `b` before, of `d/c` before and behind.
            (layer(0), 4096),
            (layer(1), 4096),
            (layer(2), 512),
            (layer(2), 4096),
        ]
    );
    assert_eq!((report.blocks, report.cut, report.left_out), ((2, 1), 0, Vec::new()));
    let records = place.artifacts.list().unwrap();
    assert_eq!(
        (records.len(), records[0].kind, records[0].digest),
        (1, ArtifactKind::Pack, report.descriptor.digest)
    );

    let again = place.pack(&needs[..2], None).unwrap();
    let records = place.artifacts.list().unwrap();
    assert_eq!((records.len(), records[0].digest), (1, again.descriptor.digest), "one pack for each name");
}

#[test]
fn a_budget_and_nothing_to_pack() {
    let place = every_kind();
    let all = [("a", 0, 300_000), ("b", 0, 250_001), ("e", 0, 150_000)];
    let whole = place.pack(&all, None).unwrap();
    assert_eq!(place.check(&whole).iter().map(|(_, length)| length).sum::<u64>(), whole.plain);
    let stored: u64 = place.image.layers().iter().map(|layer| layer.size).sum();
    let cut = place.pack(&all, Some(Budget::Percent(60))).unwrap();
    assert!(
        cut.size <= stored * 60 / 100 && cut.cut > 0 && cut.plain + cut.cut == whole.plain,
        "{cut:?} of {stored}"
    );
    assert_eq!(cut.cut, cut.cut_must_have);
    place.check(&cut);
    assert!(matches!(place.pack(&[("no", 0, 5)], None), Err(PackBuildError::Nothing)));
    assert!(matches!(place.pack(&all, Some(Budget::Bytes(50))), Err(PackBuildError::Budget(50))));
}

#[test]
fn a_wrong_block_is_named() {
    let plain = tar(&[TarEntry::file("a", content(1, 1_300_000))]);
    let place = Made::new(&[(OCI_LAYER, plain.clone(), plain)]);
    let report = place.pack(&[("a", 0, 1_300_000)], None).unwrap();
    let (blob, mut bytes) = place.blob(&report);
    let pin = head_pin(&blob).unwrap();
    let head = pin.open(&bytes[..pin.size as usize]).unwrap();
    assert_eq!(head.blocks().len(), 3);
    bytes[head.blocks()[1].stored.start as usize + 9] ^= 4;
    assert!(matches!(place.verify(&head, &bytes), Err(VerifyError::Block { block: 1, .. })));
    let other = Made::new(&[(OCI_LAYER, tar(&[TarEntry::file("x", "y")]), Vec::new())]);
    assert!(matches!(other.verify(&head, &bytes), Err(VerifyError::Image { .. })));
}

#[test]
fn what_is_read_is_told() {
    let place = every_kind();
    let plan = Plan {
        items: vec![PlanItem {
            path: Arc::from(&b"gone"[..]),
            range: ByteRange::new(0, 1),
            first_need_ns: 0,
        }],
        asked: 1,
        must_have: 1,
    };
    let settings = PackSettings {
        plan,
        budget: None,
        purpose: Purpose::default(),
        advised_whole: false,
        optional: false,
    };
    let store = ContentStore::Layout(place.store.clone());
    let at = Destination {
        store: &store,
        beside: &[],
        artifacts: &place.artifacts,
        name: "image",
        runtime: place.runtime.handle(),
    };
    let told = Mutex::new((0, 0));
    let tell = |event: Event<'_>| match event {
        Event::Read { bytes, .. } => told.lock().unwrap().0 += bytes,
        Event::PathsNotFound { count, .. } => told.lock().unwrap().1 += count,
        _ => {}
    };
    let made = make(&place.image, &place.image.manifest, None, &settings, at, &tell);
    assert!(matches!(made, Err(PackBuildError::Nothing)));
    let stored: u64 = place.image.layers().iter().map(|layer| layer.size).sum();
    assert_eq!(*told.lock().unwrap(), (stored, 1), "each layer once for its files, none for its bytes");
}
