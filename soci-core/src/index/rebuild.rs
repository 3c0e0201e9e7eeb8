//! Records made anew from the stores: what a blob is, and which image it belongs to, can be read from the blobs alone.
//!
//! Holds no state. What must always hold: a record that is there and whose blob is there stays as it is.

use std::collections::{BTreeMap, HashMap};

use super::{CompanionKind, IndexVersion, SociIndex, companion_of, layer_of};
use crate::{
    digest::Digest,
    image::{Descriptor, ImageConfig, ImageIndex, MAX_CONFIG, MAX_MANIFEST, Manifest, Platform},
    media_type,
    store::{Artifact, ArtifactKind, Artifacts, ContentStore, StoreError},
    units::ByteRange,
    ztoc::{Algorithm, Ztoc},
};

/// Name of the checkpoint rule of a zTOC that upstream's rule cannot have made.
const UNKNOWN_LAYOUT: &str = "found";

/// Removes the records whose blobs are in none of the stores, and records the SOCI indexes found there with their zTOCs
/// and prefetch artifacts, and the companions. `elsewhere` are more places where image manifests may be; `names` are images by what they
/// point to. Gives the indexes that were left out because no
/// image in the stores names them.
///
/// # Errors
/// When a store cannot be listed, or the records cannot be read or written.
pub fn rebuild(
    stores: &[ContentStore],
    elsewhere: &[ContentStore],
    names: &BTreeMap<Digest, String>,
    artifacts: &Artifacts,
) -> Result<Vec<Digest>, StoreError> {
    for record in artifacts.list()? {
        if find(stores, &record.digest)?.is_none() {
            artifacts.remove(&record.digest)?;
        }
    }
    let mut found = Found::default();
    found.look_into(stores)?;
    let companions = found.companions();
    let mut images = Found::default();
    images.look_into(elsewhere)?;
    found.images.append(&mut images.images);
    found.manifests.extend(images.manifests);
    let all: Vec<ContentStore> = stores.iter().chain(elsewhere).cloned().collect();
    let mut homeless = Vec::new();
    for (digest, index, size) in &found.indexes {
        record_entries(stores, index, artifacts)?;
        if known(artifacts, digest)? {
            continue;
        }
        let Some(home) = found.home(digest, index, names, &all) else {
            homeless.push(*digest);
            continue;
        };
        artifacts.put(&Artifact {
            image_digest: Some(home.image),
            image_ref: names.get(&home.image).cloned(),
            platform: home.platform.map(|platform| platform.to_string()),
            artifact_type: Some(index.version.media_type().to_owned()),
            ..record(*digest, ArtifactKind::SociIndex, home.manifest, media_type::OCI_MANIFEST, *size)
        })?;
    }
    for (manifest, kind, image, size) in companions {
        if known(artifacts, &manifest)? {
            continue;
        }
        artifacts.put(&Artifact {
            image_ref: names.get(&named(&image, found.listed(&image, names), names)).cloned(),
            platform: found.platform_of(&image, &all).map(|platform| platform.to_string()),
            artifact_type: Some(kind.artifact_type().to_owned()),
            ..record(manifest, kind.record(), image, media_type::OCI_MANIFEST, size)
        })?;
    }
    Ok(homeless)
}

/// The image that an index is for.
struct Home {
    manifest: Digest,
    image: Digest,
    platform: Option<Platform>,
}

/// What of the stores has to do with images.
#[derive(Default)]
struct Found {
    indexes: Vec<(Digest, SociIndex, u64)>,
    images: Vec<ImageIndex>,
    manifests: HashMap<Digest, Manifest>,
}

impl Found {
    fn look_into(&mut self, stores: &[ContentStore]) -> Result<(), StoreError> {
        for store in stores {
            for (digest, size) in store.blobs()? {
                if !(10..=MAX_MANIFEST as u64).contains(&size) || self.has(&digest) {
                    continue;
                }
                // A blob that is damaged or goes away meanwhile is none.
                let Ok(first) = store.read_range(&digest, ByteRange::new(0, 1)) else { continue };
                let document = || store.read_at_most(&digest, MAX_MANIFEST as u64).ok();
                let Some(raw) = (&first[..] == b"{").then(document).flatten() else {
                    continue;
                };
                if let Ok(index) = SociIndex::parse(raw.clone()) {
                    self.indexes.push((digest, index, size));
                } else if let Ok(manifest) = Manifest::parse(raw.clone(), "") {
                    self.manifests.insert(digest, manifest);
                } else if let Ok(image) = ImageIndex::parse(raw, "") {
                    self.images.push(image);
                }
            }
        }
        Ok(())
    }

    /// The companions, with the image that each is of, and its size.
    fn companions(&self) -> Vec<(Digest, CompanionKind, Digest, u64)> {
        let companion = |manifest: &Manifest| {
            let image = manifest.subject.as_ref()?.digest;
            Some((manifest.digest, companion_of(manifest, &image)?, image, manifest.raw.len() as u64))
        };
        self.manifests.values().filter_map(companion).collect()
    }

    fn has(&self, digest: &Digest) -> bool {
        self.indexes.iter().any(|(known, ..)| known == digest)
    }

    fn home(
        &self,
        digest: &Digest,
        index: &SociIndex,
        names: &BTreeMap<Digest, String>,
        stores: &[ContentStore],
    ) -> Option<Home> {
        let (manifest, listed) = match (index.version, &index.subject) {
            (IndexVersion::V1, subject) => {
                let manifest = subject.as_ref()?.digest;
                (manifest, self.listed(&manifest, names))
            }
            (IndexVersion::V2, _) => {
                let listed = self.listed(digest, names);
                let says =
                    |entry: &Descriptor| entry.annotation(media_type::IMAGE_MANIFEST_DIGEST)?.parse().ok();
                let by_annotation = || {
                    let value = digest.to_string();
                    let names_it =
                        |m: &&Manifest| m.annotations.get(media_type::INDEX_DIGEST) == Some(&value);
                    self.manifests.values().find(names_it).map(|manifest| manifest.digest)
                };
                (listed.and_then(|(_, entry)| says(entry)).or_else(by_annotation)?, listed)
            }
        };
        let image = named(&manifest, listed, names);
        let platform = listed.and_then(|(_, entry)| entry.platform.clone());
        let platform = platform.or_else(|| self.platform_of(&manifest, stores));
        Some(Home { manifest, image, platform })
    }

    /// The entry of an image index that names a manifest; of several, one of an image that has a name.
    fn listed(&self, manifest: &Digest, names: &BTreeMap<Digest, String>) -> Option<(Digest, &Descriptor)> {
        let entries = self.images.iter().filter_map(|image| {
            let entry = image.manifests.iter().find(|entry| entry.digest == *manifest)?;
            Some((image.digest, entry))
        });
        entries.max_by_key(|(image, _)| (names.contains_key(image), *image))
    }

    fn platform_of(&self, manifest: &Digest, stores: &[ContentStore]) -> Option<Platform> {
        let config = self.manifests.get(manifest)?.config.digest;
        let raw = find(stores, &config).ok()??.read_at_most(&config, MAX_CONFIG as u64).ok()?;
        Some(ImageConfig::parse(&raw).ok()?.platform)
    }
}

/// What the name of an image points to: its manifest, or the image index in which the image is listed.
fn named(
    manifest: &Digest,
    listed: Option<(Digest, &Descriptor)>,
    names: &BTreeMap<Digest, String>,
) -> Digest {
    match listed {
        Some((image, _)) if !names.contains_key(manifest) => image,
        _ => *manifest,
    }
}

fn find<'a>(stores: &'a [ContentStore], digest: &Digest) -> Result<Option<&'a ContentStore>, StoreError> {
    for store in stores {
        if store.size(digest)?.is_some() {
            return Ok(Some(store));
        }
    }
    Ok(None)
}

fn known(artifacts: &Artifacts, digest: &Digest) -> Result<bool, StoreError> {
    match artifacts.get(digest) {
        Ok(_) => Ok(true),
        Err(StoreError::NotFound(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

fn record_entries(
    stores: &[ContentStore],
    index: &SociIndex,
    artifacts: &Artifacts,
) -> Result<(), StoreError> {
    for entry in &index.layers {
        let kind = match entry.media_type.as_str() {
            media_type::ZTOC => ArtifactKind::SociLayer,
            media_type::PREFETCH => ArtifactKind::SociPrefetch,
            _ => continue,
        };
        let Some(layer) = layer_of(entry) else { continue };
        let Some(store) = find(stores, &entry.digest)? else { continue };
        if known(artifacts, &entry.digest)? {
            continue;
        }
        let mut record = record(entry.digest, kind, layer, &entry.media_type, entry.size);
        if kind == ArtifactKind::SociLayer {
            let size = entry.annotation(media_type::SPAN_SIZE).and_then(|text| text.parse().ok());
            record.span_size = size.unwrap_or(0);
            let ztoc =
                store.read_at_most(&entry.digest, entry.size).ok().and_then(|raw| Ztoc::open(raw).ok());
            let regular = ztoc.is_some_and(|ztoc| is_upstreams(&ztoc, record.span_size));
            record.span_layout = (!regular || size.is_none()).then(|| UNKNOWN_LAYOUT.to_owned());
        }
        artifacts.put(&record)?;
    }
    Ok(())
}

/// Whether upstream's rule can have placed the checkpoints: never one within a span size of the one before.
fn is_upstreams(ztoc: &Ztoc, span_size: u64) -> bool {
    let spans = ztoc.spans();
    let long_enough = |span| spans.uncompressed_range(crate::units::SpanId(span)).len() > span_size;
    ztoc.algorithm() == Algorithm::Uncompressed || (0..spans.len().saturating_sub(1)).all(long_enough)
}

fn record(digest: Digest, kind: ArtifactKind, oci_digest: Digest, media_type: &str, size: u64) -> Artifact {
    Artifact {
        digest,
        kind,
        oci_digest,
        image_digest: None,
        image_ref: None,
        platform: None,
        media_type: media_type.to_owned(),
        artifact_type: None,
        created_at: jiff::Timestamp::now(),
        span_size: 0,
        span_layout: None,
        size,
    }
}
