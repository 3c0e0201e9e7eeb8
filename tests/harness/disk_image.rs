//! Images on disk: OCI layouts made from layer blobs.
//!
//! Owns nothing after the call; the layout is in the caller's directory.

use std::path::Path;
use std::process::Command;

use serde_json::json;
use soci_core::image::{Descriptor, Platform};
use soci_core::media_type;
use soci_core::store::LayoutStore;

/// Media type and blob.
type Layer<'a> = (&'a str, Vec<u8>);

/// Makes a layout of one image for linux/amd64. `layers` are (media type, blob), lowest first. Gives the layers'
/// descriptors.
pub fn write(dir: &Path, tag: &str, layers: &[(&str, Vec<u8>)]) -> Vec<Descriptor> {
    let store = LayoutStore::open(dir).expect("the directory can be written");
    let (mut manifest, descriptors) = image(&store, "amd64", layers);
    manifest.annotations.insert(media_type::REF_NAME.to_owned(), tag.to_owned());
    store.add_manifest(manifest).expect("the directory can be written");
    descriptors
}

/// Makes a layout of one image for linux on several architectures, with the layers of each.
pub fn write_for(dir: &Path, tag: &str, platforms: &[(&str, &[Layer<'_>])]) {
    let store = LayoutStore::open(dir).expect("the directory can be written");
    let entry = |(architecture, layers): &(&str, &[Layer<'_>])| {
        let (mut manifest, _) = image(&store, architecture, layers);
        manifest.platform = Some(Platform::new("linux", architecture));
        manifest
    };
    let manifests: Vec<Descriptor> = platforms.iter().map(entry).collect();
    let index = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": manifests });
    let mut index = put(&store, media_type::OCI_INDEX, index.to_string().as_bytes());
    index.annotations.insert(media_type::REF_NAME.to_owned(), tag.to_owned());
    store.add_manifest(index).expect("the directory can be written");
}

fn put(store: &LayoutStore, media_type: &str, bytes: &[u8]) -> Descriptor {
    let digest = store.put(bytes).expect("the directory can be written");
    Descriptor::new(media_type, digest, bytes.len() as u64)
}

/// The manifest of an image and its layers, with all blobs in `store`.
fn image(
    store: &LayoutStore,
    architecture: &str,
    layers: &[(&str, Vec<u8>)],
) -> (Descriptor, Vec<Descriptor>) {
    let put = |media_type: &str, bytes: &[u8]| put(store, media_type, bytes);
    let descriptors: Vec<Descriptor> =
        layers.iter().map(|(media_type, blob)| put(media_type, blob)).collect();
    let config = json!({ "architecture": architecture, "os": "linux", "config": {}, "rootfs": { "type": "layers", "diff_ids": [] } });
    let config = put(media_type::OCI_CONFIG, config.to_string().as_bytes());
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": descriptors,
    });
    (put(media_type::OCI_MANIFEST, manifest.to_string().as_bytes()), descriptors)
}

/// Packs the layout at `dir` into the tar `to`.
///
/// # Panics
/// When GNU tar fails.
pub fn pack(dir: &Path, to: &Path) {
    let status = Command::new("tar").arg("-C").arg(dir).arg("-cf").arg(to).arg(".").status();
    assert!(status.expect("GNU tar is installed").success(), "tar fails on {}", dir.display());
}

/// `len` bytes that compress to about half and are the same for the same seed.
pub fn half_random(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2) + 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        b"0123456789abcdef"[(state >> 60) as usize]
    };
    (0..len).map(|_| next()).collect()
}
