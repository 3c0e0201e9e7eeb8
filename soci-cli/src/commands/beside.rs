//! What a registry has beside an image: found by kind, read by digest, and removed. Holds no state.
//!
//! What must always hold: nothing is shown or removed under a kind that its own manifest does not have, or beside an image that it
//! does not refer to.

use anyhow::{Context, Result, bail};
use soci_core::{
    digest::Digest,
    image::{ImageError, ImageSource, Manifest, Platform},
    index::{CompanionKind, IndexVersion},
    media_type::{OCI_MANIFEST, is_artifact},
    registry::{Reference, RegistryError, Repository},
};
use tokio::runtime::Runtime;

use crate::{hint::Hinted, sources::RegistryFlags};

/// An image in a registry, for each of its platforms.
pub(crate) struct Beside {
    name: String,
    repository: Repository,
    images: Vec<(Platform, Digest)>,
}

/// What refers to the image of a platform.
pub(crate) struct Found {
    pub(crate) manifest: Manifest,
    pub(crate) platform: Platform,
    /// The image manifest.
    pub(crate) subject: Digest,
}

/// Does something with an image in a registry.
pub(crate) fn within<T>(
    name: &str,
    registry: &RegistryFlags,
    work: impl AsyncFnOnce(Beside) -> Result<T>,
) -> Result<T> {
    let name = name.strip_prefix("docker://").unwrap_or(name);
    let reference: Reference =
        name.parse().map_err(|source| ImageError::Reference { text: name.to_owned(), source })?;
    let source = ImageSource::registry(&reference, &registry.registry(name)?);
    Runtime::new().context("cannot start the runtime")?.block_on(async {
        let mut images = Vec::new();
        for platform in source.platforms().await? {
            let manifest = source.resolve(&platform).await?.manifest.digest;
            images.push((platform, manifest));
        }
        let repository = source.repository().context("a registry has repositories")?.clone();
        work(Beside { name: name.to_owned(), repository, images }).await
    })
}

/// An artifact that is named with its image, `IMAGE@sha256:…`: both. `None`: it is a digest, a file, or something else.
pub(crate) fn named(text: &str) -> Option<(&str, Digest)> {
    let (image, digest) = text.rsplit_once('@')?;
    let digest = digest.parse().ok()?;
    (!image.is_empty()).then_some((image, digest))
}

impl Beside {
    pub(crate) fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The image manifest of a platform.
    pub(crate) fn image(&self, wanted: &Platform) -> Result<Digest> {
        let found = self.images.iter().find(|(platform, _)| platform.matches(wanted));
        found.map(|(_, digest)| *digest).with_context(|| format!("{} is not for {wanted}", self.name))
    }

    /// The companions of a kind, of every platform, in the registry's order. One that cannot be read is told and left out.
    pub(crate) async fn companions(&self, kind: CompanionKind) -> Result<Vec<Found>> {
        let mut found = Vec::new();
        for (platform, subject) in &self.images {
            for entry in self.repository.referrers(subject, Some(kind.artifact_type())).await? {
                match self.read(&entry.digest).await {
                    Ok(manifest) if refers(&manifest, subject) && is(&manifest, kind.artifact_type()) => {
                        found.push(Found { manifest, platform: platform.clone(), subject: *subject });
                    }
                    Ok(_) => say!("warning: {} is listed and is something else", entry.digest),
                    Err(error) => say!("warning: {} is listed and cannot be read: {error:#}", entry.digest),
                }
            }
        }
        Ok(found)
    }

    /// A companion of this kind, by its digest.
    pub(crate) async fn companion(&self, digest: &Digest, kind: CompanionKind) -> Result<Found> {
        let manifest = self.read(digest).await?;
        if !is(&manifest, kind.artifact_type()) {
            bail!("{digest} is not {}", words(kind.artifact_type()));
        }
        let image = self.images.iter().find(|(_, image)| refers(&manifest, image));
        let (platform, subject) = image.with_context(|| format!("{digest} is not of {}", self.name))?;
        Ok(Found { platform: platform.clone(), subject: *subject, manifest })
    }

    /// Reads a manifest.
    pub(crate) async fn read(&self, digest: &Digest) -> Result<Manifest> {
        let (raw, _, served_as) = self.repository.manifest(&digest.to_string()).await?;
        let served_as = if served_as.is_empty() { OCI_MANIFEST } else { &served_as };
        Manifest::parse(raw, served_as).with_context(|| format!("manifest {digest}"))
    }

    /// Removes what refers to the image and has one of these artifact types. What was removed before is no error.
    pub(crate) async fn remove(&self, digest: &Digest, types: &[&str]) -> Result<()> {
        let subjects = match self.read(digest).await {
            Ok(manifest) => self.removable(&manifest, types)?,
            Err(error) if is_missing(&error) => self.images.iter().map(|(_, image)| *image).collect(),
            Err(error) => return Err(error),
        };
        let removed = self.repository.remove_manifest(digest).await;
        for subject in &subjects {
            self.repository.unlist_referrer(subject, digest).await?;
        }
        match removed {
            Ok(_) => Ok(()),
            Err(RegistryError::Status { status: 400 | 405 | 501, .. }) => {
                self.must_be_unlisted(digest, &subjects).await
            }
            Err(error) => Err(error).with_context(|| format!("cannot remove {digest}")),
        }
    }

    /// The image that a manifest refers to, if it may be removed.
    fn removable(&self, manifest: &Manifest, types: &[&str]) -> Result<Vec<Digest>> {
        let digest = manifest.digest;
        if !types.iter().any(|of| is(manifest, of)) {
            bail!("{digest} is not {}", types.first().map_or("that", |of| words(of)));
        }
        let Some((_, image)) = self.images.iter().find(|(_, image)| refers(manifest, image)) else {
            let message = if manifest.subject.is_none() && is_artifact(type_of(manifest)) {
                format!(
                    "{digest} is a part of the converted image: nothing refers to it that could be removed"
                )
            } else {
                format!("{digest} is not of {}", self.name)
            };
            bail!(message);
        };
        Ok(vec![*image])
    }

    /// What a registry does not delete is as good as gone when no list has it.
    async fn must_be_unlisted(&self, digest: &Digest, subjects: &[Digest]) -> Result<()> {
        for subject in subjects {
            let listed = self.repository.referrers(subject, None).await?;
            if listed.iter().any(|entry| entry.digest == *digest) {
                let message = format!("cannot remove {digest}: the registry does not delete manifests");
                return Err(Hinted::new(
                    message,
                    "have its operator allow deletion, or delete it in the registry's own pages",
                )
                .into());
            }
        }
        say!(
            "note: the registry does not delete manifests: {digest} is listed no more, and its bytes stay there"
        );
        Ok(())
    }
}

fn is_missing(error: &anyhow::Error) -> bool {
    let missing = |cause: &RegistryError| matches!(cause, RegistryError::NotFound { .. });
    error.chain().filter_map(|cause| cause.downcast_ref()).any(missing)
}

fn refers(manifest: &Manifest, image: &Digest) -> bool {
    manifest.subject.as_ref().is_some_and(|subject| subject.digest == *image)
}

/// An artifact without a type of its own has that of its configuration.
fn type_of(manifest: &Manifest) -> &str {
    manifest.artifact_type.as_deref().unwrap_or(&manifest.config.media_type)
}

fn is(manifest: &Manifest, artifact_type: &str) -> bool {
    type_of(manifest) == artifact_type
}

fn words(artifact_type: &str) -> &'static str {
    match CompanionKind::of(artifact_type) {
        Some(CompanionKind::Pack) => "a pack",
        Some(CompanionKind::Profile) => "a profile",
        Some(CompanionKind::FineIndex) => "a fine index",
        None if IndexVersion::of(artifact_type).is_some() => "a SOCI index",
        None => "that",
    }
}
