//! What conversion changes of a manifest's entry, and what it leaves; and that the bytes are upstream's.

use super::*;
use crate::{image::ImageSource, index::SociIndex, store::LayoutStore};

macro_rules! golden {
    ($name:literal) => {
        include_bytes!(concat!("../../../tests/golden/convert/", $name, ".json"))
    };
}

/// The image and what upstream's tool made of it; layers have no part in this.
#[test]
fn manifests_are_upstreams_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let layout = LayoutStore::open(dir.path()).unwrap();
    let (config, manifest) = (golden!("config"), golden!("manifest"));
    layout.put(config).unwrap();
    let digest = layout.put(manifest).unwrap();
    let listed = Descriptor::new(media_type::OCI_MANIFEST, digest, manifest.len() as u64);
    layout.add_manifest(listed).unwrap();
    let theirs: Value = serde_json::from_slice(golden!("converted-index")).unwrap();
    let index: Descriptor = serde_json::from_value(theirs["manifests"][1].clone()).unwrap();
    let index = Descriptor { platform: None, annotations: [].into(), ..index };

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let source = ImageSource::layout(dir.path()).unwrap();
    let (original, image) = runtime.block_on(async {
        let original = Original::read(&source, false).await.unwrap();
        let images = original.images(&source, &Selection::Default).await.unwrap();
        (original, images.into_iter().next().unwrap())
    });
    let soci_index = SociIndex::new(IndexVersion::V2, Vec::new(), None);
    let report = BuildReport { index: soci_index, descriptor: index, fine: None, plan: None };
    let bound = bind(&image, &report, &ContentStore::Layout(layout)).unwrap();
    assert_eq!(&bound.manifest.raw[..], &golden!("converted-manifest")[..]);
    assert_eq!(assemble(original, &[bound]), golden!("converted-index"));
}

fn object(value: Value) -> Map<String, Value> {
    let Value::Object(object) = value else { panic!("an object") };
    object
}

fn bound() -> Bound {
    let digest = Digest::of(b"{}");
    let raw = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"c","digest":"{digest}","size":2}},"layers":[],"annotations":{{"{}":"x","own":"manifest","title":"t"}}}}"#,
        media_type::INDEX_DIGEST
    );
    Bound {
        old: Digest::of(b"old"),
        manifest: Manifest::parse(raw.into(), media_type::OCI_MANIFEST).unwrap(),
        index: Descriptor {
            artifact_type: Some(media_type::SOCI_INDEX_V2.to_owned()),
            ..Descriptor::new(media_type::OCI_MANIFEST, Digest::of(b"index"), 7)
        },
        fine: None,
        pack: None,
        platform: Platform::new("linux", "arm64"),
        own: Platform::new("linux", "arm64"),
    }
}

#[test]
fn an_entry_keeps_what_it_says() {
    let mut entry = object(serde_json::json!({
        "mediaType": media_type::DOCKER_MANIFEST, "digest": Digest::of(b"old").to_string(), "size": 3, "data": "b2xk",
        "x.unknown": 1, "annotations": {"own": "entry", media_type::INDEX_DIGEST: "stale"},
        "platform": {"os": "linux", "architecture": "arm64"}
    }));
    let bound = bound();
    assert!(names(&entry, &bound.old));
    point_to(&mut entry, &bound.manifest);
    let want = format!(
        r#"{{"mediaType":"{}","digest":"{}","size":{},"annotations":{{"{}":"x","own":"entry","title":"t"}},"platform":{{"architecture":"arm64","os":"linux"}},"x.unknown":1}}"#,
        media_type::OCI_MANIFEST,
        bound.manifest.digest,
        bound.manifest.raw.len(),
        media_type::INDEX_DIGEST,
    );
    assert_eq!(String::from_utf8(encode(&entry, Shape::Descriptor)).unwrap(), want);
}

#[test]
fn an_index_takes_the_place_of_the_older_one_of_its_platform() {
    let other = serde_json::json!({"mediaType": "m", "digest": Digest::of(b"a").to_string(), "size": 1,
        "artifactType": media_type::SOCI_INDEX_V2, "platform": {"os": "linux", "architecture": "amd64"}});
    let older = serde_json::json!({"mediaType": "m", "digest": Digest::of(b"b").to_string(), "size": 1,
        "artifactType": media_type::SOCI_INDEX_V2, "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}});
    let mut entries = vec![older, other.clone()];
    list(&mut entries, &bound(), &bound().index);
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[0]["digest"], Digest::of(b"index").to_string());
    assert_eq!(entries[1], other);
    entries.truncate(0);
    list(&mut entries, &bound(), &bound().index);
    assert_eq!(entries.len(), 1);
}

#[test]
fn companions_are_for_no_platform_and_take_the_place_of_their_images_older_ones() {
    let bound = bound();
    let entry = |name: &str, image: &Digest, platform: &str| {
        serde_json::json!({"mediaType": "m", "digest": Digest::of(name.as_bytes()).to_string(), "size": 1,
            "artifactType": CompanionKind::Pack.artifact_type(), "platform": {"os": "linux", "architecture": platform},
            "annotations": {media_type::IMAGE_MANIFEST_DIGEST: image.to_string()}})
    };
    // As an earlier version has listed it, and one of another image.
    let mut entries = vec![
        entry("earlier", &bound.manifest.digest, "arm64"),
        entry("other", &Digest::of(b"other image"), "arm64"),
    ];
    let other = entries[1].clone();
    let pack = Descriptor {
        artifact_type: Some(CompanionKind::Pack.artifact_type().to_owned()),
        ..Descriptor::new(media_type::OCI_MANIFEST, Digest::of(b"pack"), 7)
    };
    list(&mut entries, &bound, &pack);
    assert_eq!((entries.len(), &entries[1]), (2, &other));
    assert_eq!(entries[0]["digest"], Digest::of(b"pack").to_string());
    assert_eq!(entries[0]["platform"], serde_json::json!({"os": "unknown", "architecture": "unknown"}));
    list(&mut entries, &bound, &pack);
    assert_eq!(entries.len(), 2, "the same again changes nothing");
}
