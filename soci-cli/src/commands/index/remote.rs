//! `soci index list --remote`: the SOCI indexes that a registry has for an image: version 1 by the referrers of its
//! manifests, version 2 by what its manifests say.

use anyhow::{Context, Result};
use soci_core::{
    image::{Descriptor, ImageSource, Platform},
    index::IndexVersion,
    media_type,
    registry::Reference,
};
use tokio::runtime::Runtime;

use crate::sources::{PlatformFlags, RegistryFlags};

/// An index in a registry.
pub(super) struct Remote {
    pub(super) descriptor: Descriptor,
    pub(super) version: IndexVersion,
    pub(super) platform: Platform,
}

/// Asks the registry about every platform of the image, or those named.
pub(super) fn list(name: &str, registry: &RegistryFlags, platforms: &PlatformFlags) -> Result<Vec<Remote>> {
    let name = name.strip_prefix("docker://").unwrap_or(name);
    let reference: Reference = name.parse().with_context(|| format!("{name:?} is not an image reference"))?;
    let source = ImageSource::registry(&reference, &registry.registry(name)?);
    Runtime::new().context("cannot start the runtime")?.block_on(async {
        let platforms = match platforms.asked(&source).await? {
            Some(platforms) => platforms,
            None => source.platforms().await?,
        };
        let repository = source.repository().context("a registry has repositories")?;
        let mut found = Vec::new();
        for platform in &platforms {
            let manifest = source.resolve(platform).await?.manifest;
            // Tools that copy images may lose the type of the index's entry in the image index; the manifest says it too.
            if let Some(digest) = manifest.annotations.get(media_type::INDEX_DIGEST) {
                let (raw, digest, kind) = repository.manifest(digest).await?;
                let descriptor = Descriptor::new(kind, digest, raw.len() as u64);
                found.push(Remote { descriptor, version: IndexVersion::V2, platform: platform.clone() });
            }
            for descriptor in repository.referrers(&manifest.digest, None).await? {
                if let Some(version) = descriptor.artifact_type.as_deref().and_then(IndexVersion::of) {
                    found.push(Remote { descriptor, version, platform: platform.clone() });
                }
            }
        }
        Ok(found)
    })
}
