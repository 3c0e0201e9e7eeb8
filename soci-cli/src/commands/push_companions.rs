//! What refers to an image, pushed: its SOCI index, its fine indexes and its packs, each on its own.
//!
//! Holds no state. Blobs go before the manifest that names them. A registry that lists referrers by a tag gets one write of it
//! for all (`Repository::list_referrers`), after the manifests.

use std::collections::HashSet;

use anyhow::{Context, Result};
use soci_core::{
    digest::Digest,
    image::{Descriptor, Manifest},
    index::companion_of,
    media_type::OCI_MANIFEST,
    registry::{Content, Referrer, RegistryError, Repository},
    store::{Artifact, ArtifactKind},
};

use super::push_blobs::push_blobs;
use crate::{error::words, hint::Hinted, output::progress::Progress, root::Root};

/// Bytes of a manifest that a list of referrers may carry, at most.
const MAX_EMBEDDED: usize = 16 << 10;

/// A manifest that refers to an image, and what it names.
pub(super) struct Parcel {
    pub(super) referrer: Referrer,
    pub(super) blobs: Vec<Descriptor>,
}

/// Pushes the newest fine index and all packs of an image manifest that the records know. Those that the registry does not say
/// that it lists are added to `unlisted`. What it refuses does not keep the others back.
pub(super) async fn push_companions(
    repository: &Repository,
    root: &Root,
    image: &Digest,
    uploads: usize,
    unlisted: &mut Vec<Referrer>,
    say: &Progress,
) -> Result<Refused> {
    let fine = root.newest(ArtifactKind::FineIndex, image)?;
    let packs = root.list(ArtifactKind::Pack)?.into_iter().filter(|record| record.oci_digest == *image);
    let mut refused = Refused::default();
    for record in fine.into_iter().chain(packs) {
        if root.store_of(&record.digest)?.is_none() {
            continue; // collected by containerd; the record goes with `rebuild-db`
        }
        let push = async {
            let parcel = companion(root, image, &record)?;
            push_parcel(repository, root, parcel, uploads, unlisted, say).await
        };
        if let Err(error) = push.await {
            refused.0.push((record.digest, error));
        }
    }
    Ok(refused)
}

/// A companion of an image manifest.
pub(super) fn companion(root: &Root, image: &Digest, record: &Artifact) -> Result<Parcel> {
    let manifest = Manifest::parse(root.read(&record.digest)?, OCI_MANIFEST)?;
    let kind = companion_of(&manifest, image)
        .with_context(|| format!("{} is recorded as a companion of {image} and is none", record.digest))?;
    let blobs = std::iter::once(&manifest.config).chain(&manifest.layers).cloned().collect();
    let mut descriptor = manifest.descriptor();
    descriptor.artifact_type = Some(kind.artifact_type().to_owned());
    descriptor.annotations = manifest.annotations;
    if manifest.raw.len() <= MAX_EMBEDDED {
        // A registry that lists referrers by itself ignores it; from a tagged list a start gets the manifest one request earlier.
        descriptor = descriptor.embed(&manifest.raw);
    }
    Ok(Parcel { referrer: Referrer { descriptor, raw: manifest.raw }, blobs })
}

/// Whether the registry has a manifest.
pub(super) async fn has(repository: &Repository, digest: &Digest) -> Result<bool, RegistryError> {
    match repository.manifest(&digest.to_string()).await {
        Ok(_) => Ok(true),
        Err(RegistryError::NotFound { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Pushes a parcel, its blobs first; nothing, when the registry has it.
pub(super) async fn push_parcel(
    repository: &Repository,
    root: &Root,
    parcel: Parcel,
    uploads: usize,
    unlisted: &mut Vec<Referrer>,
    say: &Progress,
) -> Result<()> {
    let Parcel { referrer, blobs } = parcel;
    let digest = referrer.descriptor.digest;
    if has(repository, &digest).await? {
        say.line(&format!("skipped artifact with digest: {digest}"));
        unlisted.push(referrer);
        return Ok(());
    }
    let mut named = HashSet::new();
    let mut contents: Vec<(Digest, Content)> = Vec::new();
    for blob in blobs.iter().filter(|blob| named.insert(blob.digest)) {
        let content = match blob.embedded() {
            Some(bytes) => Content::Bytes(bytes.into()),
            None => root.content(&blob.digest)?,
        };
        contents.push((blob.digest, content));
    }
    push_blobs(repository, contents, uploads, say).await?;
    say.line(&format!("pushing artifact with digest: {digest}"));
    if !repository.push_referrer(&referrer).await? {
        unlisted.push(referrer);
    }
    say.line(&format!("successfully pushed artifact with digest: {digest}"));
    Ok(())
}

/// What a registry did not take.
#[derive(Default)]
pub(super) struct Refused(Vec<(Digest, anyhow::Error)>);

impl Refused {
    /// An error, if there is something.
    pub(super) fn into_result(self) -> Result<()> {
        let named: Vec<_> =
            self.0.iter().map(|(digest, error)| format!("{digest}: {}", words(error))).collect();
        let Some((_, first)) = self.0.into_iter().next() else { return Ok(()) };
        if !is_refusal_of_type(&first) {
            return Err(first.context("error pushing graph to remote"));
        }
        let message = format!(
            "error pushing graph to remote: the SOCI index is there, and images start lazily without what was refused: {}",
            named.join("; ")
        );
        Err(Hinted::new(message, TYPES).into())
    }
}

/// The hint for a registry that has a list of types.
const TYPES: &str = "some registries take only artifact types on a list of theirs: have the types of the manifest added to it, or \
    use another registry; soci convert sends manifests of the same types";

/// Adds the hint to a manifest's refusal, where it may be one for its type.
pub(super) fn hinted(error: anyhow::Error) -> anyhow::Error {
    if is_refusal_of_type(&error) { Hinted::new(words(&error), TYPES).into() } else { error }
}

fn is_refusal_of_type(error: &anyhow::Error) -> bool {
    let refused = error.chain().filter_map(|cause| cause.downcast_ref::<RegistryError>());
    refused.into_iter().any(|cause| matches!(cause, RegistryError::Status { status: 400 | 415 | 422, .. }))
}
