//! The image that is to be converted, as an image index, and the platforms of it that are meant.
//!
//! Owns the parsed document. What must always hold: every field of the index that was read is still in it.

use serde_json::{Map, Value, json};

use super::ConvertError;
use crate::{
    image::{
        Descriptor, Image, ImageError, ImageIndex, ImageSource, MAX_MANIFEST, ManifestError, Platform,
        document::{Shape, encode},
    },
    media_type,
};

/// Lists within lists that are opened.
const MAX_DEPTH: usize = 4;
/// Lists that are opened.
const MAX_LISTS: usize = 1000;
/// Entries of all lists together, above which no more are opened.
const MAX_ENTRIES: usize = 10_000;

/// Which platforms are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// The only one there is, else this machine's.
    Default,
    /// All of them.
    All,
    /// These.
    These(Vec<Platform>),
}

/// An image to convert.
#[derive(Clone, Debug)]
pub struct Original {
    document: Map<String, Value>,
    /// The entries that can be images.
    images: Vec<Descriptor>,
    /// The image is a single manifest, or the only one that is here.
    single: bool,
    names: Vec<(String, String)>,
}

impl Original {
    /// Reads the image's index, or makes one for a single manifest. With `only_present`, entries whose manifests are not
    /// here are left out.
    ///
    /// # Errors
    /// When the image is not found or not valid, or nothing is left of it.
    pub async fn read(source: &ImageSource, only_present: bool) -> Result<Self, ConvertError> {
        let (target, raw) = source.document().await?;
        let names = target.iter().flat_map(tags).collect();
        if let Some(target) = target.filter(|target| media_type::is_manifest(&target.media_type)) {
            return Self::of_manifest(source, target, names).await;
        }
        ImageIndex::parse(raw.clone(), media_type::OCI_INDEX)?;
        let mut document: Map<String, Value> = serde_json::from_slice(&raw).map_err(ManifestError::from)?;
        if let Some(entries) = document.get_mut("manifests").and_then(Value::as_array_mut) {
            *entries = flat(source, std::mem::take(entries)).await?;
        }
        let raw = encode(&document, Shape::Index);
        let listed = ImageIndex::parse(raw.into(), media_type::OCI_INDEX)?.manifests;
        let mut here = Vec::new();
        for entry in listed {
            here.push((!only_present || source.has(&entry).await?).then_some(entry));
        }
        if let Some(entries) = document.get_mut("manifests").and_then(Value::as_array_mut) {
            let mut present = here.iter().map(Option::is_some);
            entries.retain(|_| present.next() == Some(true));
        }
        let is_image = |entry: &Descriptor| {
            media_type::is_manifest(&entry.media_type)
                && entry.artifact_type.is_none()
                && !entry.platform.as_ref().is_some_and(Platform::is_unknown)
        };
        let images: Vec<Descriptor> = here.into_iter().flatten().filter(is_image).collect();
        if images.is_empty() {
            return Err(ConvertError::Empty);
        }
        document.insert("mediaType".to_owned(), media_type::OCI_INDEX.into());
        let single = only_present && images.len() == 1;
        Ok(Self { document, images, single, names })
    }

    async fn of_manifest(
        source: &ImageSource,
        target: Descriptor,
        names: Vec<(String, String)>,
    ) -> Result<Self, ConvertError> {
        // Whatever the platform asked for, a single manifest is the one that is found.
        let config = source.resolve(&Platform::host()).await?.config;
        let mut entry = target;
        entry.annotations.retain(|key, _| !is_tag(key));
        entry.platform = Some(entry.platform.unwrap_or(config.platform));
        let value = serde_json::to_value(&entry).expect("descriptors always encode");
        let document = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [value]});
        let Value::Object(document) = document else { unreachable!("an object literal") };
        Ok(Self { document, images: vec![entry], single: true, names })
    }

    /// The images of the platforms that are meant, in the order asked for.
    ///
    /// # Errors
    /// When there is none for a platform, or it cannot be read.
    pub async fn images(&self, source: &ImageSource, meant: &Selection) -> Result<Vec<Image>, ConvertError> {
        let platforms = match meant {
            Selection::These(platforms) => platforms.clone(),
            Selection::Default if !self.single => vec![Platform::host()],
            Selection::Default | Selection::All => {
                let mut platforms = Vec::new();
                for entry in &self.images {
                    let platform = match &entry.platform {
                        Some(platform) => platform.clone(),
                        None => source.platform_of(entry).await?,
                    };
                    if !platforms.contains(&platform) {
                        platforms.push(platform);
                    }
                }
                platforms
            }
        };
        let mut images = Vec::new();
        for platform in &platforms {
            images.push(source.resolve(platform).await?);
        }
        Ok(images)
    }

    /// The annotations by which a layout names the image.
    pub fn names(&self) -> &[(String, String)] {
        &self.names
    }

    pub(super) fn into_document(self) -> Map<String, Value> {
        self.document
    }
}

/// The entries of an image index, with those of the indexes in it in their places: what is converted has to be named by the
/// document that is written anew. An index that is not here stays as it is.
async fn flat(source: &ImageSource, entries: Vec<Value>) -> Result<Vec<Value>, ConvertError> {
    let (mut flat, mut opened) = (Vec::new(), 0);
    let mut left: Vec<(Value, usize)> = entries.into_iter().rev().map(|entry| (entry, 0)).collect();
    while let Some((entry, depth)) = left.pop() {
        let descriptor: Option<Descriptor> = serde_json::from_value(entry.clone()).ok();
        let list = descriptor.filter(|it| media_type::is_index(&it.media_type));
        let Some(list) =
            list.filter(|_| depth < MAX_DEPTH && opened < MAX_LISTS && flat.len() + left.len() < MAX_ENTRIES)
        else {
            flat.push(entry);
            continue;
        };
        opened += 1;
        let raw = match source.blob_of(&list, MAX_MANIFEST as u64).await {
            Err(ImageError::NoBlob(_)) => {
                flat.push(entry);
                continue;
            }
            raw => raw?,
        };
        ImageIndex::parse(raw.clone(), &list.media_type)?;
        let mut list: Map<String, Value> = serde_json::from_slice(&raw).map_err(ManifestError::from)?;
        if let Some(Value::Array(inner)) = list.remove("manifests") {
            left.extend(inner.into_iter().rev().map(|entry| (entry, depth + 1)));
        }
    }
    Ok(flat)
}

fn tags(target: &Descriptor) -> impl Iterator<Item = (String, String)> {
    target.annotations.iter().filter(|(key, _)| is_tag(key)).map(|(key, value)| (key.clone(), value.clone()))
}

fn is_tag(annotation: &str) -> bool {
    matches!(annotation, media_type::REF_NAME | media_type::CONTAINERD_IMAGE_NAME)
}
