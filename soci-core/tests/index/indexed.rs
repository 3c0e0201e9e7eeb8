//! A whole index over layers that a test made: an image in a layout, built as `soci create` builds it.
//!
//! [`Indexed`] owns the folder with image and store until it is dropped.

use std::sync::Mutex;

use bytes::Bytes;
use serde_json::json;
use soci_core::digest::Digest;
use soci_core::image::{ImageSource, Platform};
use soci_core::index::{BuildReport, Event, IndexVersion, Settings, build};
use soci_core::media_type::{OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, REF_NAME};
use soci_core::prefetch::{Chosen, PrefetchArtifact, Selection};
use soci_core::registry::{Registry, RegistryOptions};
use soci_core::store::{ArtifactKind, Artifacts, ContentStore, LayoutStore};
use soci_core::units::SpanId;
use soci_core::ztoc::Ztoc;
use tempfile::TempDir;

/// An index that was built, and what was told on the way.
#[derive(Debug)]
pub(crate) struct Indexed {
    pub(crate) report: BuildReport,
    /// Reasons of the layers that were left out.
    pub(crate) skipped: Vec<String>,
    /// zTOCs that were built.
    pub(crate) built: usize,
    /// What was said of lines of the prefetch list.
    pub(crate) chosen: Vec<Chosen>,
    /// Stored bytes of layers that were read.
    pub(crate) read: u64,
    layers: Vec<Digest>,
    store: LayoutStore,
    artifacts: Artifacts,
    _dir: TempDir,
}

impl Indexed {
    /// The zTOC of a layer.
    pub(crate) fn ztoc(&self, layer: usize) -> Ztoc {
        let entry = self.report.index.ztoc_of(&self.layers[layer]).expect("the layer has a zTOC");
        Ztoc::open(self.store.read(&entry.digest).unwrap()).unwrap()
    }

    /// A blob of the store.
    pub(crate) fn blob(&self, digest: &Digest) -> Bytes {
        self.store.read(digest).unwrap()
    }

    /// The fine indexes on record, with their images.
    pub(crate) fn records(&self) -> Vec<(Digest, Digest)> {
        let mut records = self.artifacts.list().unwrap();
        records.retain(|record| record.kind == ArtifactKind::FineIndex);
        records.into_iter().map(|record| (record.digest, record.oci_digest)).collect()
    }

    /// The artifact of a layer, if it has one.
    pub(crate) fn artifact(&self, layer: usize) -> Option<PrefetchArtifact> {
        let entry = self.report.index.prefetch_of(&self.layers[layer])?;
        Some(PrefetchArtifact::parse(&self.store.read(&entry.digest).unwrap(), SpanId(u32::MAX)).unwrap())
    }
}

/// Settings with small spans and no smallest layer.
pub(crate) fn settings() -> Settings {
    Settings {
        version: IndexVersion::V1,
        span_size: 64 << 10,
        min_layer_size: 0,
        force: false,
        mark_no_xattrs: false,
        prefetch_files: Vec::new(),
        selection: Selection::Image,
        trace: None,
        fine: None,
        advised_whole: false,
    }
}

/// Builds the index of an image of these layers (media type and blob, lowest first).
pub(crate) fn index(layers: &[(&str, Vec<u8>)]) -> Result<Indexed, String> {
    index_with(layers, &settings())
}

/// Like [`index`], with settings. The error is the text that a user sees.
pub(crate) fn index_with(layers: &[(&str, Vec<u8>)], settings: &Settings) -> Result<Indexed, String> {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let layout = LayoutStore::open(&image).unwrap();
    let digests: Vec<Digest> = layers.iter().map(|(_, blob)| layout.put(blob).unwrap()).collect();
    let config = json!({ "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": digests } });
    let config = config.to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": { "mediaType": OCI_CONFIG, "digest": layout.put(&config).unwrap(), "size": config.len() },
        "layers": layers.iter().zip(&digests).map(|((media_type, blob), digest)| {
            json!({ "mediaType": media_type, "digest": digest, "size": blob.len() })
        }).collect::<Vec<_>>(),
    });
    let manifest = manifest.to_string().into_bytes();
    let named = json!({
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [{
            "mediaType": OCI_MANIFEST, "digest": layout.put(&manifest).unwrap(), "size": manifest.len(),
            "annotations": { REF_NAME: "v1" }, "platform": { "os": "linux", "architecture": "amd64" },
        }],
    });
    std::fs::write(image.join("index.json"), named.to_string()).unwrap();

    let store = LayoutStore::open(&dir.path().join("content")).unwrap();
    let artifacts = Artifacts::open(&dir.path().join("artifacts")).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let source = format!("oci:{}:v1", image.display());
    let source = ImageSource::parse(&source, &Registry::new(RegistryOptions::default())).unwrap();
    let image = runtime.block_on(source.resolve(&Platform::new("linux", "amd64"))).unwrap();
    let told = Mutex::new((Vec::new(), 0, Vec::new(), 0));
    let tell = |event: Event<'_>| {
        let mut told = told.lock().unwrap();
        match event {
            Event::Skipped { reason, .. } => told.0.push(reason.to_string()),
            Event::Ztoc { .. } => told.1 += 1,
            Event::Chosen(chosen) => told.2.push(chosen.clone()),
            Event::Read { bytes, .. } => told.3 += bytes,
            _ => {}
        }
    };
    let report =
        build(&image, settings, &ContentStore::Layout(store.clone()), &artifacts, runtime.handle(), &tell)
            .map_err(|e| e.to_string())?;
    let (skipped, built, chosen, read) = told.into_inner().unwrap();
    Ok(Indexed { report, skipped, built, chosen, read, layers: digests, store, artifacts, _dir: dir })
}
