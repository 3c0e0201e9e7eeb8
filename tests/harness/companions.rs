//! Companions of a published image: fine indexes by the product's builder, and packs of any blob.
//!
//! Owns nothing. The parts can be changed before they are put into the registry, so that hostile ones are made like good ones.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::json;
use soci_core::digest::Digest;
use soci_core::image::Descriptor;
use soci_core::index::{Companion, CompanionKind};
use soci_core::media_type;
use soci_core::pack::Purpose;
use soci_core::pack::testing::packed;
use soci_core::units::ByteRange;
use soci_core::ztoc::{BuildOptions, Bundle, FineOptions, build_gzip, build_zstd};

use crate::image::{LayerSource, Published};
use crate::registry::TestRegistry;

/// The repository of all images here.
pub const REPOSITORY: &str = "lab";

/// Fine indexes of an image that are to be published.
#[derive(Debug, Clone)]
pub struct FineParts {
    /// The image manifest that they are for.
    pub image: Digest,
    /// A table for each layer.
    pub tables: Vec<(Digest, Bytes)>,
    /// The windows of each layer, if it has some.
    pub windows: Vec<Option<Bytes>>,
}

/// Published fine indexes.
#[derive(Debug, Clone)]
pub struct PutFine {
    /// As a list of referrers has it.
    pub descriptor: Descriptor,
    /// Digest of the bundle.
    pub bundle: Digest,
    /// For each layer the digest of its windows.
    pub windows: Vec<Option<Digest>>,
}

impl FineParts {
    /// The fine indexes that the builder makes of these layers, beside zTOCs with spans of `coarse` bytes.
    pub fn build(image: &Published, layers: &[LayerSource], coarse: u64, span_size: u64) -> Self {
        let fine = Some(FineOptions { span_size });
        let options = BuildOptions { span_size: coarse, fine, ..BuildOptions::default() };
        let (mut tables, mut windows) = (Vec::new(), Vec::new());
        for (layer, digest) in layers.iter().zip(&image.layers) {
            let built = if layer.gzip.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
                build_zstd(layer.gzip.as_slice(), &options)
            } else {
                build_gzip(layer.gzip.as_slice(), &options)
            };
            let fine = built.expect("the layer can be read in parts").fine.expect("it was asked for");
            tables.push((*digest, fine.table.into()));
            windows.push((!fine.windows.is_empty()).then(|| fine.windows.into()));
        }
        Self { image: image.manifest, tables, windows }
    }

    /// Puts them into the registry.
    pub fn put(&self, registry: &TestRegistry) -> PutFine {
        let bundle = Bundle::encode(&self.tables);
        self.put_with(registry, bundle)
    }

    /// The same with another bundle.
    pub fn put_with(&self, registry: &TestRegistry, bundle: Vec<u8>) -> PutFine {
        let size = bundle.len() as u64;
        let bundle = registry.put_blob(bundle);
        let mut layers = vec![Descriptor::new(media_type::FINE_TABLES, bundle, size)];
        let mut windows = Vec::new();
        for ((layer, _), bytes) in self.tables.iter().zip(&self.windows) {
            let digest = bytes.as_ref().map(|bytes| registry.put_blob(bytes.clone()));
            windows.push(digest);
            if let (Some(bytes), Some(digest)) = (bytes, digest) {
                let mut blob = Descriptor::new(media_type::FINE_WINDOWS, digest, bytes.len() as u64);
                blob.annotations.insert(media_type::LAYER_DIGEST.to_owned(), layer.to_string());
                layers.push(blob);
            }
        }
        let annotations = BTreeMap::new();
        let descriptor = put_companion(registry, CompanionKind::FineIndex, self.image, layers, annotations);
        PutFine { descriptor, bundle, windows }
    }
}

/// A pack that is to be published.
#[derive(Debug, Clone)]
pub struct PackParts {
    /// The image manifest that its manifest is about.
    pub image: Digest,
    /// The blob.
    pub blob: Bytes,
    /// Length of the blob's head.
    pub head_size: u64,
    /// Digest of the head as the manifest has it.
    pub head_digest: Digest,
    /// What it is for.
    pub purpose: Purpose,
    /// What it advises.
    pub advice: Option<String>,
}

/// A published pack.
#[derive(Debug, Clone)]
pub struct PutPack {
    /// As a list of referrers has it.
    pub descriptor: Descriptor,
    /// Digest of the blob.
    pub blob: Digest,
}

impl PackParts {
    /// The pack that the product's writer makes of these needs, of layers with these tars.
    pub fn of_needs(image: &Published, tars: &[Vec<u8>], needs: &[(usize, ByteRange)]) -> Self {
        let layers: Vec<_> = image.layers.iter().copied().zip(tars.iter().map(Vec::as_slice)).collect();
        let pack = packed(&image.manifest, &layers, needs, needs.len(), None).expect("the pack can be made");
        let head_size = pack.head.head_size();
        Self::of_blob(image.manifest, pack.blob, head_size)
    }

    /// A pack with this blob, its manifest in accord with it.
    pub fn of_blob(image: Digest, blob: Vec<u8>, head_size: u64) -> Self {
        let head_digest = Digest::of(&blob[..head_size as usize]);
        Self { image, blob: blob.into(), head_size, head_digest, purpose: Purpose::default(), advice: None }
    }

    /// Puts it into the registry.
    pub fn put(&self, registry: &TestRegistry) -> PutPack {
        let blob = registry.put_blob(self.blob.clone());
        let mut layer = Descriptor::new(media_type::PACK_BLOCKS, blob, self.blob.len() as u64);
        let mut note = |key: &str, value: String| drop(layer.annotations.insert(key.to_owned(), value));
        note(media_type::PACK_HEAD, self.head_digest.to_string());
        note(media_type::PACK_HEAD_SIZE, self.head_size.to_string());
        let mut notes = self.purpose.annotations();
        notes.extend(self.advice.iter().map(|advice| (media_type::START_ADVICE.to_owned(), advice.clone())));
        let descriptor = put_companion(registry, CompanionKind::Pack, self.image, vec![layer], notes);
        PutPack { descriptor, blob }
    }
}

fn put_companion(
    registry: &TestRegistry,
    kind: CompanionKind,
    image: Digest,
    layers: Vec<Descriptor>,
    annotations: BTreeMap<String, String>,
) -> Descriptor {
    registry.put_blob(&b"{}"[..]);
    let size = registry.manifest(REPOSITORY, &image.to_string()).map_or(2, |(_, raw)| raw.len() as u64);
    let subject = Descriptor::new(media_type::OCI_MANIFEST, image, size);
    let companion = Companion { kind, subject, layers, annotations };
    registry.put_manifest(REPOSITORY, None, media_type::OCI_MANIFEST, companion.encode());
    companion.descriptor()
}

/// Makes the tag `latest` name an image index with the image and these companions, as `convert` writes it.
pub fn list_in_image(registry: &TestRegistry, image: &Published, companions: &[&Descriptor]) {
    let own = json!({
        "mediaType": media_type::OCI_MANIFEST, "digest": image.manifest.to_string(), "size": 2,
        "platform": { "architecture": "amd64", "os": "linux" },
    });
    let listed = companions.iter().map(|companion| {
        json!({
            "mediaType": media_type::OCI_MANIFEST, "digest": companion.digest.to_string(), "size": companion.size,
            "artifactType": companion.artifact_type,
            "platform": { "architecture": "unknown", "os": "unknown" },
            "annotations": { media_type::IMAGE_MANIFEST_DIGEST: image.manifest.to_string() },
        })
    });
    put_index(registry, "latest", std::iter::once(own).chain(listed).collect());
}

/// Lists these companions under the tag in which a registry without referrers keeps them.
pub fn list_in_fallback_tag(registry: &TestRegistry, image: &Published, companions: &[&Descriptor]) {
    let listed = companions.iter().map(|companion| serde_json::to_value(companion).expect("a descriptor"));
    put_index(registry, &image.manifest.to_string().replace(':', "-"), listed.collect());
}

fn put_index(registry: &TestRegistry, tag: &str, manifests: Vec<serde_json::Value>) {
    let index = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": manifests });
    registry.put_manifest(REPOSITORY, Some(tag), media_type::OCI_INDEX, index.to_string());
}
