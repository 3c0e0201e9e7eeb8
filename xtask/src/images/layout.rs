//! Writes a built image as an OCI image layout: gzip layers, config, manifest, index.
//!
//! Blobs are written to a temporary name and renamed to their digest. Nothing varies from run to run: the
//! gzip header carries no time, all dates are [`tar::EPOCH`].

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder, write::GzEncoder};
use serde::{Deserialize, Serialize};
use serde_json::json;
use soci_core::digest::{Digest, Hasher};

use super::{recipe::Recipe, tar};

const CREATED: &str = "2025-06-15T15:06:40Z";

/// A layer blob of the layout.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LayerBlob {
    /// Title of the layer, for the history.
    pub(crate) title: String,
    /// Digest of the gzip blob.
    pub(crate) digest: String,
    /// Bytes of the gzip blob.
    pub(crate) size: u64,
    /// Digest of the plain tar.
    pub(crate) diff_id: String,
    /// Bytes of the plain tar.
    pub(crate) tar_size: u64,
}

/// The file of a blob.
pub(crate) fn blob_path(layout: &Path, digest: &str) -> PathBuf {
    layout.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))
}

/// Writes an upper directory as a layer blob.
pub(crate) fn write_layer(layout: &Path, title: &str, upper: &Path, lowest: bool) -> Result<LayerBlob> {
    let mut partial = upper.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let file = File::create(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
    let gzip: GzEncoder<_> = GzBuilder::new()
        .mtime(0)
        .operating_system(255)
        .write(Hashing::new(BufWriter::with_capacity(1 << 20, file)), Compression::new(6));
    let mut out = BufWriter::with_capacity(1 << 20, Hashing::new(gzip));
    tar::write_upper(upper, lowest, &mut out)?;
    let (gzip, diff_id, tar_size) = out.into_inner().map_err(io::IntoInnerError::into_error)?.finish();
    let (mut file, digest, size) = gzip.finish()?.finish();
    file.flush()?;
    std::fs::rename(&partial, blob_path(layout, &digest))?;
    Ok(LayerBlob { title: title.to_owned(), digest, size, diff_id, tar_size })
}

/// Writes config, manifest, index and `oci-layout`; returns the manifest's digest.
pub(crate) fn finish(layout: &Path, recipe: &Recipe, layers: &[LayerBlob]) -> Result<String> {
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let env: Vec<&str> = std::iter::once(path).chain(recipe.env.iter().copied()).collect();
    let history = |layer: &LayerBlob| json!({ "created": CREATED, "created_by": layer.title });
    let config = put(
        layout,
        "application/vnd.oci.image.config.v1+json",
        &json!({
            "created": CREATED,
            "architecture": "amd64",
            "os": "linux",
            "config": { "Env": env, "Cmd": recipe.cmd, "WorkingDir": recipe.workdir },
            "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|l| &l.diff_id).collect::<Vec<_>>() },
            "history": layers.iter().map(history).collect::<Vec<_>>(),
        }),
    )?;
    let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
    let descriptor =
        |layer: &LayerBlob| json!({ "mediaType": media_type, "digest": layer.digest, "size": layer.size });
    let mut manifest = put(
        layout,
        "application/vnd.oci.image.manifest.v1+json",
        &json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": layers.iter().map(descriptor).collect::<Vec<_>>(),
        }),
    )?;
    let digest = manifest["digest"].as_str().unwrap_or_default().to_owned();
    manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": "latest" });
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    std::fs::write(layout.join("index.json"), index.to_string())?;
    std::fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(digest)
}

/// Stores a JSON blob and returns its descriptor.
fn put(layout: &Path, media_type: &str, value: &serde_json::Value) -> Result<serde_json::Value> {
    let text = value.to_string();
    let digest = Digest::of(text.as_bytes()).to_string();
    std::fs::write(blob_path(layout, &digest), &text)?;
    Ok(json!({ "mediaType": media_type, "digest": digest, "size": text.len() }))
}

/// Passes bytes on, counted and hashed.
struct Hashing<W> {
    inner: W,
    hash: Hasher,
    bytes: u64,
}

impl<W: Write> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, hash: Hasher::new(), bytes: 0 }
    }

    fn finish(self) -> (W, String, u64) {
        (self.inner, self.hash.finish().to_string(), self.bytes)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(data)?;
        self.hash.update(&data[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
