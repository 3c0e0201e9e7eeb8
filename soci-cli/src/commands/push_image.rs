//! Copies an image from disk to a registry: blobs, manifests, then the index that names them.

use std::collections::HashSet;

use anyhow::{Context, Result, bail};
use soci_core::{
    image::ImageSource,
    index::IndexVersion,
    registry::{Reference, RegistryError, Repository},
};

use super::push_blobs::push_blobs;
use crate::output::progress::Progress;

/// Pushes every manifest that the image's name stands for, and tags it. Bytes are not changed. `true`: SOCI indexes
/// (version 2) were among them.
pub(super) async fn push_image(
    source: &ImageSource,
    repository: &Repository,
    reference: &Reference,
    uploads: usize,
    say: &Progress,
) -> Result<bool> {
    if source.repository().is_some() || source.in_containerd().is_some() {
        bail!("only an image on disk can be pushed: oci:DIR[:TAG] or oci-archive:FILE[:TAG]");
    }
    let failed = || format!("error pushing image {} to remote", source.name());
    let whole = source.whole().await?;
    let mut blobs = Vec::new();
    let mut named = HashSet::new();
    for blob in whole.manifests.iter().flat_map(|m| std::iter::once(&m.config).chain(&m.layers)) {
        if named.insert(blob.digest) {
            let content = source.content(blob)?.context("an image on disk has its blobs there")?;
            blobs.push((blob.digest, content));
        }
    }
    push_blobs(repository, blobs, uploads, say).await.with_context(failed)?;
    let tag = reference.tag().unwrap_or("latest");
    for manifest in &whole.manifests {
        let digest = manifest.digest.to_string();
        let name = if whole.index.is_none() { tag } else { &digest };
        put(repository, name, &manifest.media_type, &manifest.raw).await.with_context(failed)?;
        say.line(&format!("pushed image manifest {digest}"));
    }
    if let Some(index) = &whole.index {
        put(repository, tag, &index.media_type, &index.raw).await.with_context(failed)?;
        say.line(&format!("pushed image index {}", index.digest));
    }
    let soci = IndexVersion::V2.media_type();
    Ok(whole.manifests.iter().any(|manifest| manifest.config.media_type == soci))
}

/// Sends a manifest. A tag that names it already is as good as written, whatever the registry's rules for its tags are.
async fn put(repository: &Repository, name: &str, media_type: &str, raw: &[u8]) -> Result<(), RegistryError> {
    match repository.push_manifest(name, media_type, raw).await {
        Err(
            refused @ (RegistryError::Status { status: 400 | 405 | 409 | 412, .. }
            | RegistryError::Denied { .. }),
        ) => match repository.manifest(name).await {
            Ok((there, ..)) if there == raw => Ok(()),
            _ => Err(refused),
        },
        pushed => pushed.map(drop),
    }
}
