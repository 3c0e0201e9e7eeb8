//! Records made anew from the stores: what a blob is, and which image it belongs to, can be read from the blobs alone.
//!
//! Holds no state. What must always hold: a record that is there and whose blob is there stays as it is.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{CompanionKind, IndexVersion, SociIndex, companion_of, is_ztoc, layer_of};
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

/// What is known of images from outside of the stores.
#[derive(Debug, Default)]
pub struct Images {
    /// Names by what they point to.
    pub names: BTreeMap<Digest, String>,
    /// What the images' labels keep in containerd.
    pub tied: HashSet<Digest>,
}

/// Removes the records whose blobs are in none of the stores, and records the SOCI indexes found there with their zTOCs
/// and prefetch artifacts, and the companions. `elsewhere` are more places where image manifests may be. Gives the indexes
/// that were left out because no image in the stores names them.
///
/// What is an artifact of ours but named by nothing is passed over: a layer or any other blob of an image may look like one.
///
/// # Errors
/// When a store cannot be listed, or the records cannot be read or written.
pub fn rebuild(
    stores: &[ContentStore],
    elsewhere: &[ContentStore],
    images: &Images,
    artifacts: &Artifacts,
) -> Result<Vec<Digest>, StoreError> {
    let asked = stores.iter().any(|store| matches!(store, ContentStore::Containerd(_)));
    for record in artifacts.list()? {
        // What containerd has, containerd alone can say.
        if (asked || !record.in_containerd) && find(stores, &record.digest)?.is_none() {
            match artifacts.remove(&record.digest) {
                Err(StoreError::NotFound(_)) => {}
                removed => removed?,
            }
        }
    }
    let mut found = Found::default();
    found.look_into(stores)?;
    let mut more = Found::default();
    more.look_into(elsewhere)?;
    found.images.append(&mut more.images);
    let companions = found.companions();
    found.manifests.extend(more.manifests);
    let all: Vec<ContentStore> = stores.iter().chain(elsewhere).cloned().collect();
    let listed = listed(stores)?;
    let named = found.named(&listed, images);
    let known: HashSet<(Digest, Digest)> =
        artifacts.list()?.iter().map(|record| (record.digest, record.oci_digest)).collect();
    let known = |digest: &Digest| known.iter().any(|(recorded, _)| recorded == digest);
    let say = |digest: &Digest, key: &str| listed.get(digest)?.annotation(key).map(str::to_owned);
    let mut homeless = Vec::new();
    for (digest, index, size) in &found.indexes {
        if !named.contains(digest) {
            continue;
        }
        record_entries(stores, index, artifacts)?;
        if known(digest) || artifacts.recall(digest)? {
            continue;
        }
        let (Some(home), Some(store)) =
            (found.home(digest, index, &images.names, &all), find(stores, digest)?)
        else {
            homeless.push(*digest);
            continue;
        };
        let mut blob = Descriptor::new(media_type::OCI_MANIFEST, *digest, *size);
        blob.artifact_type = Some(index.version.media_type().to_owned());
        let name = images.names.get(&home.image).cloned();
        artifacts.put(&Artifact {
            image_digest: Some(home.image),
            image_ref: name.or_else(|| say(digest, media_type::OF_IMAGE)),
            platform: home
                .platform
                .map(|platform| platform.to_string())
                .or_else(|| say(digest, media_type::OF_PLATFORM)),
            ..Artifact::new(ArtifactKind::SociIndex, &blob, home.manifest, store)
        })?;
    }
    for (digest, kind, image, size) in companions {
        if !named.contains(&digest) || known(&digest) || artifacts.recall(&digest)? {
            continue;
        }
        let Some(record) = kind.record() else { continue };
        let Some(store) = find(stores, &digest)? else { continue };
        let mut blob = Descriptor::new(media_type::OCI_MANIFEST, digest, size);
        blob.artifact_type = Some(kind.artifact_type().to_owned());
        let (names, of) =
            (&images.names, named_by(&image, found.listed(&image, &images.names), &images.names));
        let platform = found.platform_of(&image, &all).map(|platform| platform.to_string());
        artifacts.put(&Artifact {
            image_ref: names.get(&of).cloned().or_else(|| say(&digest, media_type::OF_IMAGE)),
            platform: platform.or_else(|| say(&digest, media_type::OF_PLATFORM)),
            ..Artifact::new(record, &blob, image, store)
        })?;
    }
    Ok(homeless)
}

/// What the layouts list.
fn listed(stores: &[ContentStore]) -> Result<HashMap<Digest, Descriptor>, StoreError> {
    let mut listed = HashMap::new();
    for store in stores {
        if let ContentStore::Layout(layout) = store {
            listed.extend(layout.index()?.into_iter().map(|entry| (entry.digest, entry)));
        }
    }
    Ok(listed)
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

    /// What layouts, names and labels of images name, and what image indexes among that name in turn.
    fn named(&self, listed: &HashMap<Digest, Descriptor>, images: &Images) -> HashSet<Digest> {
        let lists: HashMap<Digest, &ImageIndex> =
            self.images.iter().map(|image| (image.digest, image)).collect();
        let roots = listed.keys().chain(images.names.keys()).chain(&images.tied);
        let mut left: Vec<Digest> = roots.copied().collect();
        let mut named = HashSet::new();
        while let Some(digest) = left.pop() {
            if named.insert(digest)
                && let Some(list) = lists.get(&digest)
            {
                left.extend(list.manifests.iter().map(|entry| entry.digest));
            }
        }
        named
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
        let image = named_by(&manifest, listed, names);
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
fn named_by(
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

fn record_entries(
    stores: &[ContentStore],
    index: &SociIndex,
    artifacts: &Artifacts,
) -> Result<(), StoreError> {
    for entry in &index.layers {
        let kind = match entry.media_type.as_str() {
            media_type::PREFETCH => ArtifactKind::SociPrefetch,
            other if is_ztoc(other) => ArtifactKind::SociLayer,
            _ => continue,
        };
        let Some(layer) = layer_of(entry) else { continue };
        let Some(store) = find(stores, &entry.digest)? else { continue };
        if artifacts.has(&entry.digest, kind, &layer)? {
            continue;
        }
        let blob = Descriptor::new(entry.media_type.as_str(), entry.digest, entry.size);
        let mut record = Artifact::new(kind, &blob, layer, store);
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
