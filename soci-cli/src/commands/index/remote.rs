//! `soci index list --remote`: the SOCI indexes that a registry has for an image: version 1 by the referrers of its
//! manifests, version 2 by its image index.

use anyhow::{Context, Result};
use soci_core::{
    image::{Descriptor, ImageIndex, ImageSource, Platform},
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
    Runtime::new().context("start the runtime")?.block_on(async {
        let platforms = match platforms.asked(&source).await? {
            Some(platforms) => platforms,
            None => source.platforms().await?,
        };
        let repository = source.repository().context("a registry has repositories")?;
        let mut found = Vec::new();
        for platform in &platforms {
            let manifest = source.resolve(platform).await?.manifest.digest;
            for descriptor in repository.referrers(&manifest, None).await? {
                if let Some(version) = descriptor.artifact_type.as_deref().and_then(IndexVersion::of) {
                    found.push(Remote { descriptor, version, platform: platform.clone() });
                }
            }
        }
        let (target, raw) = source.document().await?;
        if target.is_some_and(|target| media_type::is_index(&target.media_type)) {
            for descriptor in ImageIndex::parse(raw, media_type::OCI_INDEX)?.manifests {
                let version = descriptor.artifact_type.as_deref().and_then(IndexVersion::of);
                let platform = descriptor.platform.clone().unwrap_or_default();
                if let (Some(version), true) = (version, platforms.iter().any(|p| p.matches(&platform))) {
                    found.push(Remote { descriptor, version, platform });
                }
            }
        }
        Ok(found)
    })
}
