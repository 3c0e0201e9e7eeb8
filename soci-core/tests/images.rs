//! Images written by the test builder are read by the product as what they were described to be.

use serde_json::json;
use soci_core::digest::Digest;
use soci_core::image::{ImageConfig, Manifest};
use soci_core::store::LayoutStore;
use soci_core::testing::{GzipShape, ImageBuilder, LayerFormat, TarBuilder, TarEntry, TarFormat, gunzip};

#[test]
fn two_images_in_one_layout() {
    let dir = tempfile::tempdir().unwrap();
    let tar = |name: &str| TarBuilder::archive(TarFormat::Pax, &[TarEntry::file(name, *b"content")]);
    let first = ImageBuilder::new()
        .layer(&tar("a"), &LayerFormat::Gzip(GzipShape::Named))
        .layer(&tar("b"), &LayerFormat::Tar)
        .config("Env", json!(["PATH=/bin"]));
    let written = first.write(dir.path(), "first").unwrap();
    let other = ImageBuilder::new().architecture("arm64").write(dir.path(), "other").unwrap();
    assert_ne!(written.manifest, other.manifest);
    assert_eq!(first.write(dir.path(), "first").unwrap(), written);

    let store = LayoutStore::open(dir.path()).unwrap();
    let raw = store.read(&written.manifest).unwrap();
    let manifest = Manifest::parse(raw, "application/vnd.oci.image.manifest.v1+json").unwrap();
    let digests: Vec<Digest> = manifest.layers.iter().map(|layer| layer.digest).collect();
    assert_eq!(digests, [written.layers[0].digest, written.layers[1].digest]);
    assert_eq!(gunzip(&store.read(&digests[0]).unwrap()), tar("a"));
    assert_eq!(store.read(&digests[1]).unwrap(), tar("b"));
    let config = ImageConfig::parse(&store.read(&written.config).unwrap()).unwrap();
    assert_eq!(config.diff_ids, [Digest::of(&tar("a")), Digest::of(&tar("b"))]);
    assert_eq!(config.env, ["PATH=/bin"]);
    let index = std::fs::read_to_string(dir.path().join("index.json")).unwrap();
    assert_eq!(index.matches("org.opencontainers.image.ref.name").count(), 2);
}
