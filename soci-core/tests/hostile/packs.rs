//! Heads of packs that unpack to much, and packs that are larger than the memory in which they are made and compared.

use std::sync::Arc;

use soci_core::digest::Digest;
use soci_core::image::{Descriptor, ImageSource, Manifest, Platform};
use soci_core::media_type::{OCI_CONFIG, OCI_LAYER, OCI_MANIFEST};
use soci_core::pack::{Destination, PackSettings, Purpose, head_pin, make, verify};
use soci_core::pack::{
    Extent, PackHead,
    testing::{ForgedBlock, forged},
};
use soci_core::prefetch::{Plan, PlanItem};
use soci_core::store::{Artifacts, ContentStore, LayoutStore};
use soci_core::testing::{TarBuilder, TarEntry, TarFormat};
use soci_core::units::ByteRange;

/// As many extents as a head may have, all alike: the table is packed to nearly nothing.
#[test]
fn a_short_head_of_a_million_extents_is_read_in_bounds() {
    let _one = crate::ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let extents: Vec<Extent> = (0..1 << 20)
        .map(|at| Extent { layer: 0, range: ByteRange::new(at * 4096, at * 4096 + 512) })
        .collect();
    let blocks: Vec<ForgedBlock> =
        extents.chunks(2048).map(|extents| ForgedBlock::of_plain(extents, b"")).collect();
    let (blob, head) = forged(&Digest::of(b"image"), &[Digest::of(b"layer")], &blocks);
    drop((extents, blocks));
    let head = &blob[..head as usize];
    let open = crate::measured(head.len(), || PackHead::open(head)).unwrap();
    assert_eq!(open.all_extents().len(), 1 << 20);
}

#[test]
fn a_pack_is_made_and_verified_in_less_memory_than_it_has_bytes() {
    const LENGTH: u64 = 96 << 20;
    let _one = crate::ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let dir = tempfile::tempdir().unwrap();
    let layout = LayoutStore::open(&dir.path().join("image")).unwrap();
    let put =
        |kind: &str, bytes: &[u8]| Descriptor::new(kind, layout.put(bytes).unwrap(), bytes.len() as u64);
    let layer = {
        let file = TarEntry::file("f", vec![7; LENGTH as usize]);
        put(OCI_LAYER, &TarBuilder::archive(TarFormat::Ustar, &[file]))
    };
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": [layer],
        "config": put(OCI_CONFIG, br#"{"architecture":"amd64","os":"linux"}"#),
    });
    layout.add_manifest(put(OCI_MANIFEST, manifest.to_string().as_bytes())).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let source = ImageSource::layout(&dir.path().join("image")).unwrap();
    let image = runtime.block_on(source.resolve(&Platform::new("linux", "amd64"))).unwrap();
    let store = ContentStore::Layout(LayoutStore::open(&dir.path().join("content")).unwrap());
    let artifacts = Artifacts::open(&dir.path().join("artifacts")).unwrap();
    let range = ByteRange::new(0, LENGTH);
    let items = vec![PlanItem { path: Arc::from(&b"f"[..]), range, first_need_ns: 0 }];
    let settings = PackSettings {
        plan: Plan { asked: 1, must_have: 1, items },
        budget: None,
        purpose: Purpose::default(),
        advised_whole: false,
        optional: false,
    };
    let place = Destination {
        store: &store,
        beside: &[],
        artifacts: &artifacts,
        name: "image",
        runtime: runtime.handle(),
    };
    let report =
        crate::measured(0, || make(&image, &image.manifest, None, &settings, place, &|_| {})).unwrap();
    assert_eq!(report.plain, LENGTH);
    let raw = store.read(&report.descriptor.digest).unwrap();
    let pack = Manifest::parse(raw, OCI_MANIFEST).unwrap().layers.remove(0);
    let pin = head_pin(&pack).unwrap();
    let head = pin.open(&store.read_range(&pack.digest, ByteRange::new(0, pin.size)).unwrap()).unwrap();
    let read = |range| store.read_range(&pack.digest, range);
    crate::measured(0, || verify(&head, &image, read, runtime.handle(), &|_| {})).unwrap();
}
