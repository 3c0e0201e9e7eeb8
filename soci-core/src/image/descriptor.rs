//! OCI content descriptor. Holds no state; field order is Go's, so that encoding it gives upstream's bytes.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize};

use super::Platform;
use crate::{digest::Digest, json::null_is_default};

/// A typed, sized, digested pointer to a blob.
///
/// JSON field order and omissions are those of the OCI image-spec's Go struct (see [`crate::json::to_vec`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// Media type of the blob.
    #[serde(rename = "mediaType", default, deserialize_with = "null_is_default")]
    pub media_type: String,
    /// Digest of the blob.
    pub digest: Digest,
    /// Size of the blob in bytes.
    pub size: u64,
    /// Other places to get the blob from; never used here, kept for re-encoding.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Annotations.
    #[serde(default, deserialize_with = "annotations", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The blob itself in base64; see [`Descriptor::embedded`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// Platform of a manifest listed in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Artifact type of a manifest listed in an index.
    #[serde(rename = "artifactType", default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// A descriptor with nothing but type, digest and size.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            data: None,
            platform: None,
            artifact_type: None,
        }
    }

    /// The descriptor with the blob itself in it, so that whoever has the one need not ask for the other.
    #[must_use]
    pub fn embed(mut self, blob: &[u8]) -> Self {
        self.data = Some(STANDARD.encode(blob));
        self
    }

    /// The blob, when it is in the descriptor and is the one that the digest names.
    pub fn embedded(&self) -> Option<Vec<u8>> {
        let blob = STANDARD.decode(self.data.as_deref()?).ok()?;
        (blob.len() as u64 == self.size && Digest::of(&blob) == self.digest).then_some(blob)
    }

    /// The value of an annotation.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str)
    }
}

/// Annotations; one that is `null` is none.
pub(super) fn annotations<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    let read: BTreeMap<String, Option<String>> = null_is_default(deserializer)?;
    Ok(read.into_iter().filter_map(|(key, value)| Some((key, value?))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_blob_itself_is_taken_from_a_descriptor() {
        let of = |blob: &[u8]| Descriptor::new("a/b", Digest::of(blob), blob.len() as u64);
        assert_eq!(of(b"blob").embedded(), None);
        assert_eq!(of(b"blob").embed(b"blob").embedded().as_deref(), Some(&b"blob"[..]));
        assert_eq!(of(b"blob").embed(b"bl0b").embedded(), None);
        assert_eq!(Descriptor { size: 3, ..of(b"blob").embed(b"blob") }.embedded(), None);
        for data in ["", "YmxvYg", "!"] {
            assert_eq!(
                Descriptor { data: Some(data.to_owned()), ..of(b"blob") }.embedded(),
                None,
                "{data:?}"
            );
        }
    }
}
