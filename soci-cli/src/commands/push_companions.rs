//! What lies beside an image besides its SOCI index: fine indexes and packs, pushed as referrers of the image manifest.
//!
//! Holds no state. As with the index, blobs go before the manifest that names them.

use std::collections::HashSet;

use anyhow::{Context, Result};
use soci_core::{
    digest::Digest,
    image::Manifest,
    index::companion_of,
    media_type::OCI_MANIFEST,
    registry::{Content, RegistryError, Repository},
    store::{Artifact, ArtifactKind},
};

use super::push::push_blobs;
use crate::{output::progress::Progress, root::Root};

/// Bytes of a manifest that a list of referrers may carry, at most.
const MAX_EMBEDDED: usize = 16 << 10;

/// Pushes the newest fine index and all packs of an image manifest that the records know.
pub(super) async fn push_companions(
    repository: &Repository,
    root: &Root,
    image: &Digest,
    uploads: usize,
    say: &Progress,
) -> Result<()> {
    let fine = root.newest(ArtifactKind::FineIndex, image)?;
    let packs = root.list(ArtifactKind::Pack)?.into_iter().filter(|record| record.oci_digest == *image);
    for record in fine.into_iter().chain(packs) {
        if root.store_of(&record.digest)?.is_none() {
            continue; // collected by containerd; the record goes with `rebuild-db`
        }
        let push = push_companion(repository, root, image, &record, uploads, say).await;
        push.context("error pushing graph to remote")?;
    }
    Ok(())
}

/// Pushes one companion of an image manifest, its blobs first; nothing, when the registry has it.
pub(super) async fn push_companion(
    repository: &Repository,
    root: &Root,
    image: &Digest,
    record: &Artifact,
    uploads: usize,
    say: &Progress,
) -> Result<()> {
    let digest = record.digest;
    let manifest = Manifest::parse(root.read(&digest)?, OCI_MANIFEST)?;
    let kind = companion_of(&manifest, image)
        .with_context(|| format!("{digest} is recorded as a companion of {image} and is none"))?;
    match repository.manifest(&digest.to_string()).await {
        Ok(_) => {
            say.line(&format!("skipped artifact with digest: {digest}"));
            return Ok(());
        }
        Err(RegistryError::NotFound { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let mut named = HashSet::new();
    let mut blobs = Vec::new();
    for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
        if named.insert(blob.digest) {
            blobs.push((blob.digest, Content::Bytes(root.read(&blob.digest)?)));
        }
    }
    push_blobs(repository, blobs, uploads, say).await?;
    say.line(&format!("pushing artifact with digest: {digest}"));
    let mut descriptor = manifest.descriptor();
    descriptor.artifact_type = Some(kind.artifact_type().to_owned());
    descriptor.annotations = manifest.annotations;
    if manifest.raw.len() <= MAX_EMBEDDED {
        // A registry that lists referrers by itself ignores it; from a tagged list a start gets the manifest one request earlier.
        descriptor = descriptor.embed(&manifest.raw);
    }
    repository.push_referrer(image, descriptor, &manifest.raw).await?;
    say.line(&format!("successfully pushed artifact with digest: {digest}"));
    Ok(())
}
