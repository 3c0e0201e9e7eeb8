//! Conversion of an image to a SOCI-enabled one: an image index whose manifests name their SOCI indexes (version 2), so
//! that a digest of the image pins its indexes too.
//!
//! [`Original`] is what there is, [`convert`] makes what is to be, [`output`] writes it to disk. What must always hold:
//! the same image and settings give the same bytes, also when the image was converted before; of the original only those
//! manifests are changed that get an index, and nothing is lost from them.

mod archive;
mod original;
pub mod output;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};
use tokio::runtime::Handle;

pub use original::{Original, Selection};

use crate::{
    digest::Digest,
    image::document::{Shape, encode},
    image::{Descriptor, Image, ImageError, ImageIndex, Manifest, ManifestError, Platform},
    index::{
        self, BuildError, BuildReport, Companion, CompanionKind, Event, IndexVersion, PlanSource, Settings,
    },
    media_type,
    pack::{self, PackBuildError, PackSettings, Purpose},
    store::{Artifacts, ContentStore, StoreError, image_index_labels, manifest_labels},
};

/// Why an image is not converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// The original cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The image index names no manifest, or none that is here.
    #[error("manifest list contains no entries with available blobs")]
    Empty,
    /// A manifest or index is not what it should be.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// No index was built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// No pack was made.
    #[error("cannot make a pack")]
    Pack(#[from] PackBuildError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The result cannot be written.
    #[error("{op} {}", path.display())]
    Output {
        /// What was tried.
        op: &'static str,
        /// On which file.
        path: std::path::PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The place of the result has something else.
    #[error("{} is there and is no OCI image layout", .0.display())]
    Occupied(std::path::PathBuf),
}

/// Where a conversion gets its settings from and puts its results.
#[derive(Debug)]
pub struct Workshop<'a> {
    /// How indexes are built; the version is always 2.
    pub settings: &'a Settings,
    /// Where indexes, manifests and the image index go.
    pub store: &'a ContentStore,
    /// Where the artifacts are recorded.
    pub artifacts: &'a Artifacts,
    /// Name of the result in the records.
    pub name: &'a str,
    /// Drives transfers.
    pub runtime: &'a Handle,
    /// Also a pack for each new manifest.
    pub pack: Option<&'a PackSettings>,
    /// What to prefetch and pack of each image, by its manifest; it takes the place of the settings' plans.
    pub plans: &'a HashMap<Digest, PlanSource>,
}

/// A manifest and what became of it.
struct Bound {
    old: Digest,
    manifest: Manifest,
    index: Descriptor,
    /// The fine indexes, their subject the new manifest.
    fine: Option<Companion>,
    /// The pack, likewise; it is in the store already.
    pack: Option<Descriptor>,
    /// As it was asked for.
    platform: Platform,
    /// As the image's configuration says.
    own: Platform,
}

/// Makes the SOCI-enabled image of `original` with an index for each of `images`, and gives its descriptor. Images that
/// have no layer to index are left as they are. Blocks; not to be called on a thread that runs async tasks.
///
/// # Errors
/// When no image has a layer to index, an image cannot be read, or the store fails.
pub fn convert(
    original: Original,
    images: &[Image],
    workshop: &Workshop<'_>,
    tell: &(dyn Fn(Event<'_>) + Sync),
) -> Result<Descriptor, ConvertError> {
    let Workshop { settings, store, artifacts, runtime, .. } = *workshop;
    let mut settings = Settings { version: IndexVersion::V2, ..settings.clone() };
    let mut pack = workshop.pack.cloned();
    let mut bound = Vec::new();
    let mut seen = HashSet::new();
    for image in images.iter().filter(|image| seen.insert(image.manifest.digest)) {
        if let (Some(plan), Some(trace)) = (workshop.plans.get(&image.manifest.digest), &mut settings.trace) {
            trace.plan.clone_from(plan);
        }
        match index::build(image, &settings, store, artifacts, runtime, tell) {
            Ok(report) => {
                let mut new = bind(image, &report, store)?;
                if let Some(pack) = &mut pack {
                    if let Some(plan) = &report.plan {
                        pack.plan.clone_from(plan);
                    }
                    let place =
                        pack::Destination { store, beside: &[], artifacts, name: workshop.name, runtime };
                    let made = pack::make_beside(image, &new.manifest, report.in_parts(), pack, place, tell)?;
                    new.pack = made.map(|made| made.descriptor);
                }
                bound.push(new);
            }
            Err(BuildError::NoZtocs) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if bound.is_empty() {
        return Err(BuildError::NoZtocs.into());
    }
    for bound in &bound {
        if let Some(fine) = &bound.fine {
            let manifest = fine.put(store, artifacts, workshop.name, &bound.platform.to_string())?;
            tell(Event::FineIndex { manifest: &manifest, tables: fine.tables_size() });
        }
    }
    let raw = assemble(original, &bound);
    let image = ImageIndex::parse(raw.clone().into(), media_type::OCI_INDEX)?;
    let target = store.put_labelled(&raw, image_index_labels(&image.manifests))?;
    for bound in &bound {
        artifacts.update(&bound.index.digest, |record| {
            record.oci_digest = bound.manifest.digest;
            record.image_digest = Some(target);
            record.image_ref = Some(workshop.name.to_owned());
        })?;
    }
    Ok(Descriptor::new(media_type::OCI_INDEX, target, raw.len() as u64))
}

/// The image index that names the new manifests and their SOCI indexes.
fn assemble(original: Original, bound: &[Bound]) -> Vec<u8> {
    let mut document = original.into_document();
    let mut entries = match document.remove("manifests") {
        Some(Value::Array(entries)) => entries,
        _ => Vec::new(),
    };
    for bound in bound {
        for entry in entries.iter_mut().filter_map(Value::as_object_mut) {
            if names(entry, &bound.old) {
                point_to(entry, &bound.manifest);
                // Without a platform, containerd would take the SOCI index, which has one, for the image.
                if !entry.get("platform").is_some_and(Value::is_object) {
                    let platform = serde_json::to_value(&bound.own).expect("platforms always encode");
                    entry.insert("platform".to_owned(), platform);
                }
            }
        }
        if bound.old != bound.manifest.digest {
            entries.retain(|entry| !is_companion_of(entry, &bound.old));
        }
        list(&mut entries, bound, &bound.index);
        if let Some(fine) = &bound.fine {
            list(&mut entries, bound, &fine.descriptor());
        }
        if let Some(pack) = &bound.pack {
            list(&mut entries, bound, pack);
        }
    }
    document.insert("manifests".to_owned(), Value::Array(entries));
    encode(&document, Shape::Index)
}

/// Writes the image manifest anew, with the name of its SOCI index.
fn bind(image: &Image, report: &BuildReport, store: &ContentStore) -> Result<Bound, ConvertError> {
    let mut object: Map<String, Value> =
        serde_json::from_slice(&image.manifest.raw).map_err(ManifestError::from)?;
    object.insert("mediaType".to_owned(), media_type::OCI_MANIFEST.into());
    if let Some(config) = object.get_mut("config").and_then(Value::as_object_mut) {
        // Other kinds of configuration keep their type: they are no image's.
        let kind = config.get("mediaType").and_then(Value::as_str).unwrap_or_default();
        if kind.is_empty() || kind == media_type::DOCKER_CONFIG {
            config.insert("mediaType".to_owned(), media_type::OCI_CONFIG.into());
        }
    }
    annotate(&mut object, media_type::INDEX_DIGEST, report.descriptor.digest.to_string());
    let raw = encode(&object, Shape::Manifest);
    let manifest = Manifest::parse(raw.into(), media_type::OCI_MANIFEST)?;
    store.put_labelled(&manifest.raw, manifest_labels(&manifest))?;
    Ok(Bound {
        old: image.manifest.digest,
        fine: report.fine.clone().map(|fine| Companion { subject: manifest.descriptor(), ..fine }),
        pack: None,
        manifest,
        index: report.descriptor.clone(),
        platform: image.platform.clone(),
        own: image.config.platform.clone(),
    })
}

/// Lets the entry of an image index name `manifest`. What the manifest says of itself is said here too, where the entry
/// does not say otherwise.
fn point_to(entry: &mut Map<String, Value>, manifest: &Manifest) {
    entry.insert("mediaType".to_owned(), media_type::OCI_MANIFEST.into());
    entry.insert("digest".to_owned(), manifest.digest.to_string().into());
    entry.insert("size".to_owned(), manifest.raw.len().into());
    entry.remove("data"); // the old manifest's bytes
    for (key, value) in &manifest.annotations {
        let said = entry.get("annotations").is_some_and(|all| all.get(key).is_some());
        if key == media_type::INDEX_DIGEST || !said {
            annotate(entry, key, value.clone());
        }
    }
}

/// Whether the entry of an image index is a companion of the image manifest `old`.
fn is_companion_of(entry: &Value, old: &Digest) -> bool {
    let listed: Option<Descriptor> = serde_json::from_value(entry.clone()).ok();
    listed.is_some_and(|listed| {
        listed.artifact_type.as_deref().and_then(CompanionKind::of).is_some()
            && listed.annotation(media_type::IMAGE_MANIFEST_DIGEST) == Some(&old.to_string())
    })
}

/// Lists a SOCI index or a companion behind all others, or in the place of an older one for the same platform, or image, and
/// purpose.
///
/// A companion is for no platform that there is: containerd 2 downloads all that an image index lists for its own, and the
/// snapshotter gets companions by itself. The SOCI index is listed as upstream lists it.
fn list(entries: &mut Vec<Value>, bound: &Bound, made: &Descriptor) {
    let is_companion = made.artifact_type.as_deref().and_then(CompanionKind::of).is_some();
    let mut descriptor = made.clone();
    descriptor.platform = Some(if is_companion { Platform::unknown() } else { bound.platform.clone() });
    let manifest = bound.manifest.digest.to_string();
    let note = (media_type::IMAGE_MANIFEST_DIGEST.to_owned(), manifest.clone());
    let purpose = Purpose::of(&made.annotations);
    descriptor.annotations = purpose.annotations().into_iter().chain([note]).collect();
    let entry = serde_json::to_value(&descriptor).expect("descriptors always encode");
    let platform = bound.platform.normalized();
    let is_for_the_same = |listed: &Descriptor| {
        if is_companion {
            return listed.annotation(media_type::IMAGE_MANIFEST_DIGEST) == Some(manifest.as_str());
        }
        listed.platform.as_ref().is_some_and(|other| other.normalized() == platform)
    };
    let older = entries.iter_mut().find(|entry| {
        let listed: Option<Descriptor> = serde_json::from_value((*entry).clone()).ok();
        listed.is_some_and(|listed| {
            listed.artifact_type == made.artifact_type
                && Purpose::of(&listed.annotations) == purpose
                && is_for_the_same(&listed)
        })
    });
    match older {
        Some(older) => *older = entry,
        None => entries.push(entry),
    }
}

fn names(entry: &Map<String, Value>, digest: &Digest) -> bool {
    entry.get("digest").and_then(Value::as_str).is_some_and(|text| text.parse() == Ok(*digest))
}

fn annotate(object: &mut Map<String, Value>, key: &str, value: String) {
    let annotations = object.entry("annotations").or_insert(Value::Null);
    if !annotations.is_object() {
        *annotations = Value::Object(Map::new());
    }
    if let Some(all) = annotations.as_object_mut() {
        all.insert(key.to_owned(), value.into());
    }
}
