//! Image manifests and image indexes: typed views beside the raw bytes they were read from.
//!
//! What must always hold: `digest` is the digest of `raw`, and the typed fields were read from `raw`. The raw bytes are
//! what gets stored and pushed; nothing is re-encoded.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::descriptor::annotations;
use super::list::MAX_ENTRIES;
use super::{Descriptor, List};
use crate::{
    budget::{Budget, OverLimit},
    digest::Digest,
    json::{self, null_is_default},
    media_type,
};

/// Largest manifest or index that is read, bytes (registries commonly refuse more than 4 MiB).
pub const MAX_MANIFEST: usize = 8 << 20;

/// Limit: layers of a manifest. overlayfs takes 500; an index has two entries for each, other artifacts may have more.
const LAYERS: Budget = Budget::new("manifest-layers", 4096);

/// Why bytes are not an image manifest or index.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Over [`MAX_MANIFEST`].
    #[error("manifest of {0} bytes is too large")]
    TooLarge(usize),
    /// Not the expected JSON.
    #[error("manifest is not valid JSON of its type")]
    Json(#[from] serde_json::Error),
    /// Nested too deeply, or with too many values or layers.
    #[error("manifest is refused: {0}")]
    OverLimit(#[from] OverLimit),
    /// Docker's schema 1, or another version.
    #[error("manifest schema version {0} is not supported")]
    Schema(u64),
    /// A list where a manifest was expected, or the other way round.
    #[error("unexpected media type {0:?}")]
    MediaType(String),
    /// Both in one: different readers would take it for different things.
    #[error("manifest has the fields of a list of manifests, too")]
    Both,
    /// The list of manifests is none, or is too long.
    #[error("it is not a list of at most {MAX_ENTRIES} manifests")]
    NoList,
}

/// One platform's image manifest (or an artifact manifest of the same shape).
#[derive(Clone, Debug)]
pub struct Manifest {
    /// The bytes as stored.
    pub raw: Bytes,
    /// Digest of [`Self::raw`].
    pub digest: Digest,
    /// Media type: the manifest's own field, else what it was served as.
    pub media_type: String,
    /// Artifact type, if given.
    pub artifact_type: Option<String>,
    /// The configuration blob.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// The manifest this one refers to.
    pub subject: Option<Descriptor>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

/// A list of manifests for several platforms.
#[derive(Clone, Debug)]
pub struct ImageIndex {
    /// The bytes as stored.
    pub raw: Bytes,
    /// Digest of [`Self::raw`].
    pub digest: Digest,
    /// Media type: the index's own field, else what it was served as.
    pub media_type: String,
    /// The manifests.
    pub manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct ManifestFields {
    #[serde(rename = "schemaVersion", default)]
    schema_version: u64,
    #[serde(rename = "mediaType", default, deserialize_with = "null_is_default")]
    media_type: String,
    #[serde(rename = "artifactType", default)]
    artifact_type: Option<String>,
    config: Descriptor,
    #[serde(default, deserialize_with = "null_is_default")]
    layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Filled,
    #[serde(default)]
    subject: Option<Descriptor>,
    #[serde(default, deserialize_with = "annotations")]
    annotations: BTreeMap<String, String>,
}

/// The fields by which a document tells what it is.
#[derive(Deserialize)]
struct KindFields {
    #[serde(rename = "schemaVersion", default)]
    schema_version: u64,
    #[serde(rename = "mediaType", default, deserialize_with = "null_is_default")]
    media_type: String,
    manifests: Option<IgnoredAny>,
    #[serde(default)]
    config: Filled,
    #[serde(default)]
    layers: Filled,
}

/// Whether a field has anything: neither null nor an empty list. What it has is not kept.
#[derive(Debug, Default, Clone, Copy)]
struct Filled(bool);

impl<'de> Deserialize<'de> for Filled {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FilledVisitor)
    }
}

struct FilledVisitor;

impl<'de> Visitor<'de> for FilledVisitor {
    type Value = Filled;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Filled, E> {
        Ok(Filled(false))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Filled, E> {
        Ok(Filled(true))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Filled, E> {
        Ok(Filled(true))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Filled, E> {
        Ok(Filled(true))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Filled, E> {
        Ok(Filled(true))
    }

    fn visit_str<E>(self, _: &str) -> Result<Filled, E> {
        Ok(Filled(true))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Filled, A::Error> {
        let mut filled = false;
        while list.next_element::<IgnoredAny>()?.is_some() {
            filled = true;
        }
        Ok(Filled(filled))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Filled, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Filled(true))
    }
}

impl Manifest {
    /// Reads a manifest. `served_as` is the media type of the descriptor or response it came with.
    ///
    /// # Errors
    /// When the bytes are too large, not JSON, of another schema, or a list of manifests.
    pub fn parse(raw: Bytes, served_as: &str) -> Result<Self, ManifestError> {
        limit(&raw)?;
        let fields: ManifestFields = serde_json::from_slice(&raw)?;
        schema(fields.schema_version)?;
        { LAYERS }.spend(fields.layers.len() as u64)?;
        let media_type = own_or(fields.media_type, served_as);
        if media_type::is_index(&media_type) {
            return Err(ManifestError::MediaType(media_type));
        }
        if fields.manifests.0 {
            return Err(ManifestError::Both);
        }
        Ok(Self {
            digest: Digest::of(&raw),
            raw,
            media_type,
            artifact_type: fields.artifact_type.filter(|t| !t.is_empty()),
            config: fields.config,
            layers: fields.layers,
            subject: fields.subject,
            annotations: fields.annotations,
        })
    }

    /// Type, digest and size of this manifest.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(&self.media_type, self.digest, self.raw.len() as u64)
    }
}

impl ImageIndex {
    /// Reads an index. `served_as` is the media type of the descriptor or response it came with.
    ///
    /// # Errors
    /// When the bytes are too large, not JSON, of another schema, or a manifest.
    pub fn parse(raw: Bytes, served_as: &str) -> Result<Self, ManifestError> {
        limit(&raw)?;
        let fields: KindFields = serde_json::from_slice(&raw)?;
        schema(fields.schema_version)?;
        let media_type = own_or(fields.media_type, served_as);
        if media_type::is_manifest(&media_type) {
            return Err(ManifestError::MediaType(media_type));
        }
        if fields.config.0 || fields.layers.0 {
            return Err(ManifestError::Both);
        }
        // An entry that we cannot read is of a tool or a platform that is none of our business.
        let manifests = match fields.manifests {
            Some(_) => List::parse(&raw).ok_or(ManifestError::NoList)?.descriptors(),
            None => Vec::new(),
        };
        Ok(Self { digest: Digest::of(&raw), raw, media_type, manifests })
    }

    /// The bytes of an OCI image index with these manifests.
    pub fn encode(manifests: &[Descriptor]) -> Vec<u8> {
        let file = IndexFile { schema_version: 2, media_type: media_type::OCI_INDEX, manifests };
        json::to_vec(&file).expect("descriptors always encode")
    }
}

/// The media type of a document that was served as `served_as`: its own, what it was served as, or, when neither says whether
/// it is a manifest or a list, that of its fields.
///
/// # Errors
/// When the bytes are too large or not JSON.
pub(super) fn kind(raw: &[u8], served_as: &str) -> Result<String, ManifestError> {
    limit(raw)?;
    let is_known = |kind: &str| media_type::is_index(kind) || media_type::is_manifest(kind);
    let fields: KindFields = match serde_json::from_slice(raw) {
        Ok(fields) => fields,
        // The reason is found again by whoever reads it as what it was served as.
        Err(_) if is_known(served_as) => return Ok(served_as.to_owned()),
        Err(error) => return Err(error.into()),
    };
    if is_known(served_as) || is_known(&fields.media_type) {
        return Ok(own_or(fields.media_type, served_as));
    }
    let by_fields = if fields.manifests.is_some() { media_type::OCI_INDEX } else { media_type::OCI_MANIFEST };
    Ok(by_fields.to_owned())
}

#[derive(Serialize)]
struct IndexFile<'a> {
    #[serde(rename = "schemaVersion")]
    schema_version: u64,
    #[serde(rename = "mediaType")]
    media_type: &'a str,
    manifests: &'a [Descriptor],
}

fn limit(raw: &[u8]) -> Result<(), ManifestError> {
    if raw.len() > MAX_MANIFEST { Err(ManifestError::TooLarge(raw.len())) } else { Ok(json::check(raw)?) }
}

fn schema(version: u64) -> Result<(), ManifestError> {
    if version == 2 { Ok(()) } else { Err(ManifestError::Schema(version)) }
}

fn own_or(own: String, served_as: &str) -> String {
    if own.is_empty() { served_as.to_owned() } else { own }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

    fn manifest(extra: &str) -> Bytes {
        let config = format!("{{\"mediaType\":\"c\",\"digest\":\"{DIGEST}\",\"size\":2}}");
        format!("{{\"schemaVersion\":2{extra},\"config\":{config},\"layers\":null,\"x\":1}}").into()
    }

    #[test]
    fn own_media_type_wins_and_raw_bytes_are_kept() {
        let raw = manifest(",\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\"");
        let read = Manifest::parse(raw.clone(), "text/plain").unwrap();
        assert_eq!(read.media_type, media_type::OCI_MANIFEST);
        assert_eq!(read.digest, Digest::of(&raw));
        assert_eq!(read.descriptor().size, raw.len() as u64);
        assert!(read.layers.is_empty());
        assert_eq!(
            Manifest::parse(manifest(""), media_type::DOCKER_MANIFEST).unwrap().media_type,
            media_type::DOCKER_MANIFEST
        );
    }

    #[test]
    fn other_things_are_refused() {
        let index = format!(",\"mediaType\":\"{}\"", media_type::OCI_INDEX);
        assert!(matches!(Manifest::parse(manifest(&index), ""), Err(ManifestError::MediaType(_))));
        // containerd refuses them, too: a registry, a scanner and a runtime would see different images.
        assert!(matches!(Manifest::parse(manifest(",\"manifests\":[{}]"), ""), Err(ManifestError::Both)));
        assert!(matches!(ImageIndex::parse(manifest(",\"manifests\":[{}]"), ""), Err(ManifestError::Both)));
        let old = Bytes::from_static(b"{\"schemaVersion\":1,\"manifests\":[]}");
        assert!(matches!(ImageIndex::parse(old, ""), Err(ManifestError::Schema(1))));
        assert!(matches!(Manifest::parse(Bytes::from_static(b"<html>"), ""), Err(ManifestError::Json(_))));
        assert!(matches!(
            Manifest::parse(vec![b' '; MAX_MANIFEST + 1].into(), ""),
            Err(ManifestError::TooLarge(_))
        ));
        let negative = manifest("").to_vec();
        let negative = String::from_utf8(negative).unwrap().replace("\"size\":2", "\"size\":-2");
        assert!(Manifest::parse(negative.into(), "").is_err());
    }

    #[test]
    fn a_document_is_one_kind_whatever_it_is_called() {
        let both = manifest(",\"manifests\":[{}]");
        assert!(matches!(Manifest::parse(both.clone(), media_type::OCI_MANIFEST), Err(ManifestError::Both)));
        assert!(matches!(ImageIndex::parse(both, media_type::OCI_INDEX), Err(ManifestError::Both)));
        let layers = Bytes::from_static(b"{\"schemaVersion\":2,\"manifests\":[],\"layers\":[{}]}");
        assert!(matches!(ImageIndex::parse(layers, media_type::OCI_INDEX), Err(ManifestError::Both)));
        let list = "{\"schemaVersion\":2,\"mediaType\":null,\"manifests\":null,\"config\":null}";
        assert!(ImageIndex::parse(list.into(), media_type::OCI_INDEX).is_ok());

        let index = "{\"schemaVersion\":2,\"manifests\":[]}";
        let named = format!("{{\"schemaVersion\":2,\"mediaType\":\"{}\"}}", media_type::DOCKER_MANIFEST_LIST);
        for (raw, served_as, expected) in [
            (index, "application/json", media_type::OCI_INDEX),
            (index, "", media_type::OCI_INDEX),
            (index, media_type::OCI_MANIFEST, media_type::OCI_MANIFEST),
            (&named, "text/plain", media_type::DOCKER_MANIFEST_LIST),
            (&named, media_type::OCI_MANIFEST, media_type::DOCKER_MANIFEST_LIST),
            ("{\"schemaVersion\":2,\"config\":{}}", "application/json", media_type::OCI_MANIFEST),
        ] {
            assert_eq!(kind(raw.as_bytes(), served_as).unwrap(), expected, "{raw} as {served_as}");
        }
        assert!(kind(b"<html>", "text/html").is_err());
    }

    #[test]
    fn entries_of_other_tools_spoil_no_index() {
        let raw = format!(
            "{{\"schemaVersion\":2,\"manifests\":[{{\"mediaType\":\"a\",\"digest\":\"sha512:00\",\"size\":1}},\
             {{\"mediaType\":null,\"digest\":\"{DIGEST}\",\"size\":2,\"platform\":{{\"variant\":null}},\"annotations\":{{\"a\":null}}}}]}}"
        );
        let index = ImageIndex::parse(raw.into(), "").unwrap();
        assert_eq!(index.manifests.len(), 1);
        assert!(ImageIndex::parse(Bytes::from_static(b"{\"schemaVersion\":2,\"manifests\":7}"), "").is_err());
    }
}
