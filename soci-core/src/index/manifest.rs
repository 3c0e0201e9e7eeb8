//! The SOCI index manifest, versions 1 and 2: which zTOC and which prefetch artifact belong to which layer.
//!
//! Holds no state. Encoding gives upstream's canonical bytes (an upstream node re-encodes an index it fetched and
//! compares digests). Reading takes any order of fields and any white space; the raw bytes are what gets stored.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;

use crate::{
    digest::Digest,
    image::{Descriptor, Manifest, ManifestError},
    json, media_type,
    ztoc::DEFAULT_BUILD_TOOL,
};

/// The config blob of every SOCI index.
pub const EMPTY_CONFIG: &[u8] = b"{}";

/// How an index is bound to its image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexVersion {
    /// By a `subject` in the index: a referrer of the image manifest.
    V1,
    /// By annotations on the image manifest and in the image index.
    V2,
}

impl IndexVersion {
    /// The config media type, which is also the artifact type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::V1 => media_type::SOCI_INDEX_V1,
            Self::V2 => media_type::SOCI_INDEX_V2,
        }
    }

    /// The version with this config media type or artifact type.
    pub fn of(media_type: &str) -> Option<Self> {
        [Self::V1, Self::V2].into_iter().find(|v| v.media_type() == media_type)
    }
}

impl std::fmt::Display for IndexVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        })
    }
}

/// Why bytes are not a SOCI index.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// Not an OCI manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The config media type is of no SOCI index.
    #[error("unknown index version {0:?}")]
    Version(String),
}

/// A SOCI index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SociIndex {
    /// How it is bound to its image.
    pub version: IndexVersion,
    /// zTOC descriptors in image layer order, then prefetch artifact descriptors in image layer order.
    pub layers: Vec<Descriptor>,
    /// Version 1: the image manifest.
    pub subject: Option<Descriptor>,
    /// Annotations of the index itself.
    pub annotations: BTreeMap<String, String>,
}

/// A manifest to be written.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Wire<'a> {
    pub(super) schema_version: u64,
    pub(super) media_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) artifact_type: Option<&'a str>,
    pub(super) config: Descriptor,
    pub(super) layers: &'a [Descriptor],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) subject: Option<&'a Descriptor>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: &'a BTreeMap<String, String>,
}

impl<'a> Wire<'a> {
    /// Of these blobs, with nothing else. The config's content is [`EMPTY_CONFIG`].
    pub(super) fn new(
        config: &str,
        layers: &'a [Descriptor],
        annotations: &'a BTreeMap<String, String>,
    ) -> Self {
        Self {
            schema_version: 2,
            media_type: media_type::OCI_MANIFEST,
            artifact_type: None,
            config: Descriptor::new(config, Digest::of(EMPTY_CONFIG), EMPTY_CONFIG.len() as u64),
            layers,
            subject: None,
            annotations,
        }
    }

    /// The canonical bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        json::to_vec(self).expect("strings and integers always encode")
    }
}

impl SociIndex {
    /// An index as upstream's tool writes it. `subject` is the image manifest, for version 1 only.
    pub fn new(version: IndexVersion, layers: Vec<Descriptor>, subject: Option<Descriptor>) -> Self {
        let annotations = [(media_type::BUILD_TOOL.to_owned(), DEFAULT_BUILD_TOOL.to_owned())].into();
        Self { version, layers, subject, annotations }
    }

    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        // No artifact type: upstream writes none, and refuses an index that it would write otherwise.
        let wire = Wire::new(self.version.media_type(), &self.layers, &self.annotations);
        Wire { subject: self.subject.as_ref(), ..wire }.encode()
    }

    /// Reads an index.
    ///
    /// # Errors
    /// When the bytes are not a manifest, too large, or of no SOCI index version.
    pub fn parse(raw: Bytes) -> Result<Self, IndexError> {
        let manifest = Manifest::parse(raw, media_type::OCI_MANIFEST)?;
        let Some(version) = IndexVersion::of(&manifest.config.media_type) else {
            return Err(IndexError::Version(manifest.config.media_type));
        };
        let Manifest { layers, subject, annotations, .. } = manifest;
        Ok(Self { version, layers, subject, annotations })
    }

    /// The zTOCs, those of zstd layers too.
    pub fn ztocs(&self) -> impl Iterator<Item = &Descriptor> {
        self.layers.iter().filter(|d| is_ztoc(&d.media_type))
    }

    /// The prefetch artifacts.
    pub fn prefetch_artifacts(&self) -> impl Iterator<Item = &Descriptor> {
        self.layers.iter().filter(|d| d.media_type == media_type::PREFETCH)
    }

    /// The zTOC of a layer (digest of its compressed blob).
    pub fn ztoc_of(&self, layer: &Digest) -> Option<&Descriptor> {
        self.ztocs().find(|d| layer_of(d) == Some(*layer))
    }

    /// The prefetch artifact of a layer (digest of its compressed blob).
    pub fn prefetch_of(&self, layer: &Digest) -> Option<&Descriptor> {
        self.prefetch_artifacts().find(|d| layer_of(d) == Some(*layer))
    }

    /// Whether the index promises that a layer has neither extended attributes nor opaque directories.
    pub fn disables_xattrs(&self, layer: &Digest) -> bool {
        let value = self.ztoc_of(layer).and_then(|d| d.annotation(media_type::DISABLE_XATTRS));
        matches!(value, Some("1" | "t" | "T" | "TRUE" | "true" | "True"))
    }
}

/// Whether an entry of an index with this media type is a zTOC.
pub fn is_ztoc(media_type: &str) -> bool {
    matches!(media_type, media_type::ZTOC | media_type::ZTOC_ZSTD)
}

/// The layer that an entry of an index is about.
pub fn layer_of(entry: &Descriptor) -> Option<Digest> {
    entry.annotation(media_type::LAYER_DIGEST)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_bytes_survive_reading_and_writing() {
        for (bytes, version) in [
            (&include_bytes!("../../../tests/golden/index-v1.json")[..], IndexVersion::V1),
            (&include_bytes!("../../../tests/golden/index-v2.json")[..], IndexVersion::V2),
        ] {
            let index = SociIndex::parse(Bytes::from_static(bytes)).unwrap();
            assert_eq!(index.version, version);
            assert_eq!(index.subject.is_some(), version == IndexVersion::V1);
            assert_eq!(String::from_utf8(index.encode()).unwrap(), String::from_utf8_lossy(bytes));
            for ztoc in index.ztocs() {
                let layer = layer_of(ztoc).unwrap();
                assert_eq!(index.ztoc_of(&layer), Some(ztoc));
            }
        }
    }

    #[test]
    fn other_manifests_are_refused() {
        let raw = br#"{"schemaVersion":2,"config":{"mediaType":"x","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2}}"#;
        assert!(matches!(SociIndex::parse(Bytes::from_static(raw)), Err(IndexError::Version(_))));
        assert!(matches!(SociIndex::parse(Bytes::from_static(b"{}")), Err(IndexError::Manifest(_))));
    }

    #[test]
    fn xattr_promise_is_read_as_go_reads_booleans() {
        let layer = Digest::of(b"layer");
        for (value, want) in [("true", true), ("T", true), ("1", true), ("yes", false), ("false", false)] {
            let mut ztoc = Descriptor::new(media_type::ZTOC, Digest::of(b"z"), 1);
            ztoc.annotations.insert(media_type::LAYER_DIGEST.into(), layer.to_string());
            ztoc.annotations.insert(media_type::DISABLE_XATTRS.into(), value.into());
            let index = SociIndex::new(IndexVersion::V2, vec![ztoc], None);
            assert_eq!(index.disables_xattrs(&layer), want, "{value}");
        }
    }
}
