//! Images as OCI layout directories.
//!
//! [`ImageBuilder`] owns the layers until they are written. Invariant: digests and diff ids are those of the bytes.

use std::io;
use std::path::Path;

use serde_json::{Value, json};

use super::{GzipShape, gzip};
use crate::digest::Digest;

/// How a layer is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayerFormat {
    /// Plain tar.
    Tar,
    /// gzip of a shape.
    Gzip(GzipShape),
}

/// Describes an image; `write` makes it.
#[derive(Debug, Clone)]
pub struct ImageBuilder {
    layers: Vec<(Vec<u8>, WrittenLayer)>,
    config: Value,
    architecture: String,
}

/// A layer of a written image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenLayer {
    /// Digest of the blob.
    pub digest: Digest,
    /// Length of the blob in bytes.
    pub size: u64,
    /// Digest of the tar.
    pub diff_id: Digest,
    /// Media type of the descriptor.
    pub media_type: String,
}

/// A written image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenImage {
    /// Digest of the manifest.
    pub manifest: Digest,
    /// Digest of the image configuration.
    pub config: Digest,
    /// The layers, lowest first.
    pub layers: Vec<WrittenLayer>,
}

impl Default for ImageBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl ImageBuilder {
    /// An image for linux/amd64 without layers.
    pub fn new() -> Self {
        Self { layers: Vec::new(), config: json!({}), architecture: "amd64".to_owned() }
    }

    /// Adds `tar` on top.
    #[must_use]
    pub fn layer(mut self, tar: &[u8], format: &LayerFormat) -> Self {
        let (blob, suffix) = match format {
            LayerFormat::Tar => (tar.to_vec(), ""),
            LayerFormat::Gzip(shape) => (gzip(shape, tar), "+gzip"),
        };
        let layer = WrittenLayer {
            digest: Digest::of(&blob),
            size: blob.len() as u64,
            diff_id: Digest::of(tar),
            media_type: format!("application/vnd.oci.image.layer.v1.tar{suffix}"),
        };
        self.layers.push((blob, layer));
        self
    }

    /// Sets a field of the `config` object, for example `Env` or `Cmd`, by its name in the OCI specification.
    #[must_use]
    pub fn config(mut self, field: &str, value: Value) -> Self {
        self.config[field] = value;
        self
    }

    /// Sets the architecture, in the OCI specification's (Go's) words.
    #[must_use]
    pub fn architecture(mut self, architecture: &str) -> Self {
        architecture.clone_into(&mut self.architecture);
        self
    }

    /// Writes the image into the OCI layout `dir` under the name `tag`. A layout that is there keeps its blobs
    /// and other names.
    pub fn write(&self, dir: &Path, tag: &str) -> io::Result<WrittenImage> {
        let blobs = dir.join("blobs/sha256");
        std::fs::create_dir_all(&blobs)?;
        let put = |bytes: &[u8]| -> io::Result<Digest> {
            let digest = Digest::of(bytes);
            std::fs::write(blobs.join(digest.hex()), bytes)?;
            Ok(digest)
        };
        let mut layers = Vec::new();
        for (blob, layer) in &self.layers {
            put(blob)?;
            layers.push(layer.clone());
        }
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| layer.diff_id).collect();
        let config = json!({
            "architecture": self.architecture,
            "os": "linux",
            "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        })
        .to_string();
        let descriptors: Vec<Value> =
            layers.iter().map(|layer| descriptor(&layer.media_type, layer.digest, layer.size)).collect();
        let config_digest = put(config.as_bytes())?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", config_digest, config.len() as u64),
            "layers": descriptors,
        })
        .to_string();
        let manifest_digest = put(manifest.as_bytes())?;
        let mut named =
            descriptor("application/vnd.oci.image.manifest.v1+json", manifest_digest, manifest.len() as u64);
        named["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
        named["platform"] = json!({ "architecture": self.architecture, "os": "linux" });
        add_to_index(&dir.join("index.json"), tag, named)?;
        std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(WrittenImage { manifest: manifest_digest, config: config_digest, layers })
    }
}

fn descriptor(media_type: &str, digest: Digest, size: u64) -> Value {
    json!({ "mediaType": media_type, "digest": digest, "size": size })
}

/// Adds `named` to the layout's index, in place of what had its name.
fn add_to_index(path: &Path, tag: &str, named: Value) -> io::Result<()> {
    let mut index = match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [],
        }),
        Err(error) => return Err(error),
    };
    if let Some(manifests) = index["manifests"].as_array_mut() {
        manifests.retain(|manifest| manifest["annotations"]["org.opencontainers.image.ref.name"] != tag);
        manifests.push(named);
    }
    std::fs::write(path, index.to_string())
}
