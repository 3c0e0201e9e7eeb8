//! Images found in layouts and archives: tags, platforms, damage.

use std::{fs, io::Read, path::Path};

use super::*;
use crate::{
    digest::Digest,
    media_type,
    registry::{Registry, RegistryOptions},
    store::LayoutStore,
};

fn registry() -> Registry {
    Registry::new(RegistryOptions::default())
}

/// Puts an image of one layer into a layout; gives its manifest's descriptor.
fn put_image(store: &LayoutStore, platform: &str, layer: &[u8]) -> Descriptor {
    let (os, arch) = platform.split_once('/').unwrap();
    let config = format!("{{\"os\":\"{os}\",\"architecture\":\"{arch}\",\"config\":{{\"Cmd\":[\"/x\"]}}}}");
    let config =
        Descriptor::new(media_type::OCI_CONFIG, store.put(config.as_bytes()).unwrap(), config.len() as u64);
    let layer = Descriptor::new(media_type::OCI_LAYER, store.put(layer).unwrap(), layer.len() as u64);
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": [layer],
    })
    .to_string();
    Descriptor::new(media_type::OCI_MANIFEST, store.put(manifest.as_bytes()).unwrap(), manifest.len() as u64)
}

fn tagged(mut descriptor: Descriptor, tag: &str) -> Descriptor {
    descriptor.annotations.insert(media_type::REF_NAME.into(), tag.into());
    descriptor
}

fn archive(layout: &Path, file: &Path) {
    let members = ["./blobs", "./index.json", "./oci-layout"];
    let status =
        std::process::Command::new("tar").arg("-cf").arg(file).arg("-C").arg(layout).args(members).status();
    assert!(status.unwrap().success());
}

#[tokio::test]
async fn a_layout_and_its_archive_give_the_same_image() {
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    let store = LayoutStore::open(&layout).unwrap();
    store.add_manifest(tagged(put_image(&store, "linux/amd64", b"layer bytes"), "one")).unwrap();
    store.add_manifest(tagged(put_image(&store, "linux/amd64", b"other"), "two")).unwrap();
    archive(&layout, &dir.path().join("image.tar"));
    let texts = [
        format!("oci:{}:one", layout.display()),
        format!("oci-archive:{}:one", dir.path().join("image.tar").display()),
    ];
    for text in texts {
        let source = ImageSource::parse(&text, &registry()).unwrap();
        let image = source.resolve(&Platform::new("linux", "arm64")).await.unwrap();
        assert_eq!(image.reference, text);
        assert_eq!(image.config.cmd, ["/x"]);
        assert_eq!(image.target.digest, image.manifest.digest);
        assert_eq!(source.platforms().await.unwrap(), [Platform::new("linux", "amd64")]);
        let mut bytes = Vec::new();
        image.open_layer(&image.layers()[0]).await.unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"layer bytes");
    }
}

#[tokio::test]
async fn lists_within_lists_are_looked_into_and_absent_ones_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let store = LayoutStore::open(dir.path()).unwrap();
    let list = |manifests: &[Descriptor]| {
        let index = serde_json::json!({"schemaVersion": 2, "manifests": manifests}).to_string();
        let digest = store.put(index.as_bytes()).unwrap();
        Descriptor::new(media_type::OCI_INDEX, digest, index.len() as u64)
    };
    let image = |platform: &str| {
        let mut manifest = put_image(&store, platform, platform.as_bytes());
        manifest.platform = Some(platform.parse().unwrap());
        manifest
    };
    let absent = Descriptor::new(media_type::OCI_INDEX, Digest::of(b"absent"), 6);
    let inner = list(&[image("linux/arm64"), absent]);
    let outer = list(&[inner, image("linux/amd64")]);
    store.add_manifest(outer.clone()).unwrap();
    let source = ImageSource::parse(&format!("oci:{}", dir.path().display()), &registry()).unwrap();
    let platforms = [Platform::new("linux", "arm64"), Platform::new("linux", "amd64")];
    assert_eq!(source.platforms().await.unwrap(), platforms);
    let found = source.resolve(&platforms[0]).await.unwrap();
    assert_eq!((found.manifest.digest, found.target.digest), (image("linux/arm64").digest, outer.digest));
}

#[tokio::test]
async fn an_index_is_resolved_by_platform_and_attestations_are_no_platforms() {
    let dir = tempfile::tempdir().unwrap();
    let store = LayoutStore::open(dir.path()).unwrap();
    let mut manifests = Vec::new();
    for platform in ["linux/amd64", "linux/arm64", "unknown/unknown"] {
        let mut manifest = put_image(&store, platform, platform.as_bytes());
        manifest.platform = Some(platform.parse().unwrap());
        manifests.push(manifest);
    }
    let index = serde_json::json!({"schemaVersion": 2, "manifests": manifests}).to_string();
    let digest = store.put(index.as_bytes()).unwrap();
    store.add_manifest(Descriptor::new(media_type::OCI_INDEX, digest, index.len() as u64)).unwrap();
    let source = ImageSource::parse(&format!("oci:{}", dir.path().display()), &registry()).unwrap();
    let image = source.resolve(&Platform::new("linux", "aarch64")).await.unwrap();
    assert_eq!(image.manifest.digest, manifests[1].digest);
    assert_eq!(image.target_digest(), digest);
    assert_eq!(source.platforms().await.unwrap().len(), 2);
    let error = source.resolve(&Platform::new("linux", "s390x")).await.unwrap_err();
    assert_eq!(error.to_string(), "image manifest for linux/s390x: not found");
}

#[tokio::test]
async fn what_is_wrong_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!("oci:{}", dir.path().display());
    assert!(matches!(ImageSource::parse(&text, &registry()), Err(ImageError::Store(_))));
    assert!(matches!(ImageSource::parse("UPPER/case:x y", &registry()), Err(ImageError::Reference { .. })));
    let store = LayoutStore::open(dir.path()).unwrap();
    let source = ImageSource::parse(&text, &registry()).unwrap();
    let host = Platform::host();
    assert!(matches!(source.resolve(&host).await, Err(ImageError::NotFound(_))));
    let manifest = put_image(&store, "linux/amd64", b"layer");
    store.add_manifest(manifest.clone()).unwrap();
    assert!(source.resolve(&host).await.is_ok());
    let blob = store.blob_path(&manifest.digest);
    let mut bad = fs::read(&blob).unwrap();
    bad[20] ^= 1;
    fs::write(&blob, bad).unwrap();
    assert!(matches!(source.resolve(&host).await, Err(ImageError::Store(_))));
    fs::remove_file(&blob).unwrap();
    assert!(matches!(source.resolve(&host).await, Err(ImageError::NoBlob(d)) if d == manifest.digest));
    let gone = Descriptor::new(media_type::OCI_LAYER, Digest::of(b"gone"), 4);
    assert!(matches!(source.open_layer(&gone).await, Err(ImageError::NoBlob(_))));
    let file = dir.path().join("not.tar");
    fs::write(&file, vec![b'x'; 2000]).unwrap();
    let text = format!("oci-archive:{}", file.display());
    assert!(matches!(ImageSource::parse(&text, &registry()), Err(ImageError::Archive { .. })));
}
