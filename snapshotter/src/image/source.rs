//! Finding and fetching what describes an image: manifest, configuration, SOCI index, zTOCs, prefetch artifacts.
//!
//! Stateless: every blob is taken from the local store if it is there, else from the registry, checked and stored.
//! All of it comes from a registry, so sizes are limited before anything is fetched and every parser checks.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use soci_core::digest::Digest;
use soci_core::image::{Descriptor, ImageConfig, MAX_CONFIG, MAX_MANIFEST, Manifest};
use soci_core::index::{is_advised_whole, is_ztoc};
use soci_core::media_type;
use soci_core::prefetch::PrefetchArtifact;
use soci_core::prefetch::artifact::MAX_BYTES as MAX_ARTIFACT;
use soci_core::registry::{RegistryError, Repository};
use soci_core::store::{LayoutStore, StoreError};
use soci_core::units::SpanId;
use soci_core::ztoc::{MAX_ZTOC, Ztoc};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::layer::LayerError;
use crate::layer::tables::{Tables, parsed};
use crate::limits::{PLAIN_BYTES, SPAN_BYTES};

/// Ways of finding an image's index that are allowed when the request does not name it.
#[derive(Clone, Copy, Debug)]
pub struct Discovery {
    /// By the referrers of the image manifest (`[pull_modes.soci_v1]`).
    pub v1: bool,
    /// By an annotation of the image manifest (`[pull_modes.soci_v2]`).
    pub v2: bool,
}

impl Default for Discovery {
    fn default() -> Self {
        Self { v1: false, v2: true }
    }
}

/// An image's manifest and configuration.
#[derive(Clone, Debug)]
pub struct ManifestAndConfig {
    /// The manifest, its layers from the bottom up.
    pub manifest: Manifest,
    /// The configuration, with the diff id of each layer.
    pub config: ImageConfig,
}

/// What an index, or the fine indexes alone, have for one layer.
#[derive(Clone, Debug)]
pub(crate) struct Indexed {
    pub(crate) layer: Digest,
    /// Number in the image's manifest.
    pub(crate) position: u32,
    /// Size in the image's manifest.
    pub(crate) size: u64,
    /// `None`: it is in the fine indexes alone.
    pub(crate) ztoc: Option<Descriptor>,
    pub(crate) artifacts: Vec<Descriptor>,
}

/// What an index has.
#[derive(Debug)]
pub(crate) struct OfIndex {
    pub(crate) layers: Vec<Indexed>,
    /// It advises a full pull of the image.
    pub(crate) advised_whole: bool,
}

/// Where one image's blobs come from.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) store: LayoutStore,
    pub(crate) repository: Repository,
    pub(crate) tables: Tables,
    /// What is still being written to the store.
    pub(crate) writes: Arc<Mutex<JoinSet<()>>>,
}

impl Source {
    /// A manifest by digest.
    pub(crate) async fn manifest(&self, digest: Digest) -> Result<Manifest, LayerError> {
        let (raw, served_as) = if let Some(raw) = self.stored(digest, MAX_MANIFEST as u64).await? {
            (raw, String::new())
        } else {
            let fetched = self.repository.manifest(&digest.to_string()).await;
            let (raw, _, served_as) =
                fetched.map_err(|source| LayerError::registry("manifest", digest, source))?;
            if raw.len() > MAX_MANIFEST {
                let (size, limit) = (raw.len() as u64, MAX_MANIFEST as u64);
                return Err(LayerError::TooLarge { what: "manifest", digest, size, limit });
            }
            self.keep(raw.clone()).await?;
            (raw, served_as)
        };
        parsed(raw.len(), move || Manifest::parse(raw, &served_as))
            .await?
            .map_err(|source| LayerError::Manifest { digest, source })
    }

    /// The image's configuration.
    pub(crate) async fn config(&self, manifest: &Manifest) -> Result<ImageConfig, LayerError> {
        let raw = self.blob("configuration", &manifest.config, MAX_CONFIG as u64).await?;
        parsed(raw.len(), move || ImageConfig::parse(&raw)).await?.map_err(LayerError::Config)
    }

    /// The digest of the image's index, if the request or the image itself names one.
    pub(crate) fn named_index(
        manifest: &Manifest,
        explicit: Option<Digest>,
        allowed: Discovery,
    ) -> Result<Option<Digest>, LayerError> {
        if let Some(explicit) = explicit {
            tracing::info!(digest = %explicit, "using provided soci index digest");
            return Ok(Some(explicit));
        }
        if allowed.v2 {
            tracing::debug!("checking for soci v2 index annotation");
            if let Some(text) = manifest.annotations.get(media_type::INDEX_DIGEST) {
                let digest = text
                    .parse()
                    .map_err(|source| LayerError::Annotation { key: media_type::INDEX_DIGEST, source })?;
                tracing::info!(%digest, "using soci v2 index annotation");
                return Ok(Some(digest));
            }
        }
        Ok(None)
    }

    /// The digest of the first index that refers to the image.
    pub(crate) fn referring_index(referrers: &[Descriptor]) -> Option<Digest> {
        let index = |listed: &&Descriptor| listed.artifact_type.as_deref() == Some(media_type::SOCI_INDEX_V1);
        let first = referrers.iter().find(index)?;
        tracing::info!(digest = %first.digest, "using soci v1 index via referrers API");
        Some(first.digest)
    }

    /// What refers to the image, or only what has one artifact type.
    pub(crate) async fn referrers(
        &self,
        image: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, LayerError> {
        tracing::debug!("checking for soci artifacts via referrers API");
        let listed = self.repository.referrers(image, artifact_type).await;
        listed.map_err(|source| LayerError::registry("referrers of", *image, source))
    }

    /// What the index has for the layers of the image. `None` when the registry has no such index.
    pub(crate) async fn index(
        &self,
        image: &Manifest,
        digest: Digest,
    ) -> Result<Option<OfIndex>, LayerError> {
        tracing::info!(%digest, "fetching SOCI artifacts using index descriptor");
        let index = match self.manifest(digest).await {
            Err(LayerError::Registry { source, .. }) if matches!(*source, RegistryError::NotFound { .. }) => {
                return Ok(None);
            }
            other => other?,
        };
        let config = &index.config.media_type;
        if config != media_type::SOCI_INDEX_V1 && config != media_type::SOCI_INDEX_V2 {
            return Err(LayerError::NotAnIndex { digest, config: config.clone() });
        }
        // Upstream takes the last zTOC and the first artifact of a layer.
        let (mut ztocs, mut artifacts) = (HashMap::new(), HashMap::new());
        for blob in &index.layers {
            let Some(layer) = blob.annotation(media_type::LAYER_DIGEST) else { continue };
            if is_ztoc(&blob.media_type) {
                ztocs.insert(layer, blob);
            } else if blob.media_type == media_type::PREFETCH {
                artifacts.entry(layer).or_insert(blob);
            }
        }
        let (mut indexed, mut seen) = (Vec::new(), HashSet::new());
        for (position, layer) in image.layers.iter().enumerate() {
            let name = layer.digest.to_string();
            let Some(ztoc) = ztocs.get(name.as_str()).filter(|_| seen.insert(layer.digest)) else { continue };
            indexed.push(Indexed {
                layer: layer.digest,
                position: position as u32,
                size: layer.size,
                ztoc: Some((*ztoc).clone()),
                artifacts: artifacts
                    .get(name.as_str())
                    .map(|artifact| (*artifact).clone())
                    .into_iter()
                    .collect(),
            });
        }
        Ok(Some(OfIndex { layers: indexed, advised_whole: is_advised_whole(&index.annotations) }))
    }

    /// A layer's zTOC.
    pub(crate) async fn ztoc(&self, indexed: &Indexed) -> Result<Ztoc, LayerError> {
        let ztoc = indexed.ztoc.as_ref().ok_or(LayerError::NoTable)?;
        let raw = self.blob("zTOC", ztoc, MAX_ZTOC).await?;
        let digest = ztoc.digest;
        let opened = self.tables.open(raw.len() as u64, move || Some(Ztoc::open(raw))).await?;
        let opened = opened.ok_or(LayerError::NoTable)?;
        let ztoc = opened.map_err(|source| LayerError::Ztoc { digest, source })?;
        if ztoc.compressed_size() != indexed.size {
            return Err(LayerError::Size { found: ztoc.compressed_size(), wanted: indexed.size });
        }
        within_limits(&ztoc)?;
        Ok(ztoc)
    }

    /// A prefetch artifact's bytes, fetched and stored; to be parsed when the number of spans is known.
    pub(crate) async fn artifact(&self, descriptor: &Descriptor) -> Result<Bytes, LayerError> {
        self.blob("prefetch artifact", descriptor, MAX_ARTIFACT as u64).await
    }

    pub(crate) async fn blob(
        &self,
        what: &'static str,
        descriptor: &Descriptor,
        limit: u64,
    ) -> Result<Bytes, LayerError> {
        let (digest, size) = (descriptor.digest, descriptor.size);
        if size > limit {
            return Err(LayerError::TooLarge { what, digest, size, limit });
        }
        if let Some(stored) = self.stored(digest, limit).await? {
            return Ok(stored);
        }
        let bytes = self
            .repository
            .blob_of_size(&digest, size)
            .await
            .map_err(|source| LayerError::registry(what, digest, source))?;
        self.keep(bytes.clone()).await?;
        Ok(bytes)
    }

    /// A blob of the store, of which no more than `limit` bytes are read.
    pub(crate) async fn stored(&self, digest: Digest, limit: u64) -> Result<Option<Bytes>, LayerError> {
        let store = self.store.clone();
        let read = tokio::task::spawn_blocking(move || store.read_at_most(&digest, limit));
        match read.await.map_err(|_| LayerError::CutOff)? {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StoreError::NotFound(_)) => Ok(None),
            Err(error @ StoreError::Mismatch { .. }) => {
                tracing::warn!(%digest, %error, "stored blob is damaged and is fetched again");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until all that was found is in the store: a layer that is handed out must be found there after a restart.
    pub(crate) async fn settle(&self) {
        let mut writes = self.writes.lock().await;
        while writes.join_next().await.is_some() {}
    }

    pub(crate) async fn keep(&self, bytes: Bytes) -> Result<(), LayerError> {
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || store.put_again(&bytes))
            .await
            .map_err(|_| LayerError::CutOff)??;
        Ok(())
    }
}

/// Whether a layer with this table can be served: every span fits into memory, and so does what is kept for each page.
pub(crate) fn within_limits(table: &Ztoc) -> Result<(), LayerError> {
    let (span, plain) = (table.spans().longest(), table.uncompressed_size());
    if span > SPAN_BYTES {
        return Err(LayerError::LongSpan { length: span, limit: SPAN_BYTES });
    }
    if plain > PLAIN_BYTES {
        return Err(LayerError::LongLayer { length: plain, limit: PLAIN_BYTES });
    }
    Ok(())
}

/// Reads an artifact against the zTOC that it is for.
pub(crate) fn parse_artifact(
    digest: Digest,
    raw: &[u8],
    ztoc: &Ztoc,
) -> Result<Arc<PrefetchArtifact>, LayerError> {
    // It names spans of the zTOC, beside which a fine index lies.
    let spans = match ztoc.coarse() {
        [] => ztoc.spans().len(),
        coarse => u32::try_from(coarse.len()).unwrap_or(u32::MAX),
    };
    let last = SpanId(spans.saturating_sub(1));
    PrefetchArtifact::parse(raw, last).map(Arc::new).map_err(|source| LayerError::Artifact { digest, source })
}
