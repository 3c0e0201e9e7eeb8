//! A registry as the snapshotter will need it: the manifest, ranges of a layer, referrers.

use std::time::Instant;

use anyhow::{Context, Result};
use soci_core::image::Manifest;
use soci_core::media_type::{SOCI_INDEX_V1, SOCI_INDEX_V2};
use soci_core::registry::{Reference, Repository};
use soci_core::units::ByteRange;

use super::{Finding, causes};
use crate::{error, sources::RegistryFlags};

const CREDENTIAL: &str = "check the name, log in (docker login, nerdctl login) or give --user; a registry without TLS needs --plain-http";

/// All checks of the registry of `image`.
pub(super) async fn check(image: &str, flags: &RegistryFlags) -> Vec<Finding> {
    let repository = match repository(image, flags) {
        Ok(found) => found,
        Err(error) => {
            return vec![Finding::failed("registry", error::words(&error), "give an image's reference")];
        }
    };
    let (repository, reference) = repository;
    let wanted = reference.digest().or(reference.tag()).unwrap_or("latest");
    let begin = Instant::now();
    let (raw, digest, media_type) = match repository.manifest(wanted).await {
        Ok(found) => found,
        Err(error) => {
            return vec![Finding::failed("registry", causes(error), CREDENTIAL)];
        }
    };
    let found = format!("{digest} in {} ms from {}", begin.elapsed().as_millis(), repository.host());
    let mut findings = vec![Finding::ok("registry", found)];
    let manifest = Manifest::parse(raw, &media_type).ok();
    if let Some(layer) = manifest.as_ref().and_then(|manifest| manifest.layers.first()) {
        findings.push(ranges(&repository, layer).await);
    }
    findings.push(referrers(&repository, &digest).await);
    findings
}

fn repository(image: &str, flags: &RegistryFlags) -> Result<(Repository, Reference)> {
    let reference: Reference =
        image.parse().with_context(|| format!("{image} names no image in a registry"))?;
    Ok((flags.registry(image)?.repository(&reference), reference))
}

/// The last byte of the first layer: a server that knows no ranges would have to send all of it.
async fn ranges(repository: &Repository, layer: &soci_core::image::Descriptor) -> Finding {
    const ADVICE: &str =
        "lazy loading needs ranged requests: ask the registry's operator, or pull whole images";
    let (size, begin) = (layer.size, Instant::now());
    let fetcher = repository.range_fetcher(layer.digest, size);
    match fetcher.fetch(ByteRange::new(size.saturating_sub(1), size)).await {
        Ok(_) => Finding::ok("ranges", format!("a byte of a layer in {} ms", begin.elapsed().as_millis())),
        Err(error) => Finding::failed("ranges", causes(error), ADVICE),
    }
}

async fn referrers(repository: &Repository, digest: &soci_core::digest::Digest) -> Finding {
    match repository.referrers(digest, None).await {
        Ok(found) => {
            let indexes = found
                .iter()
                .filter(|one| matches!(one.artifact_type.as_deref(), Some(SOCI_INDEX_V1 | SOCI_INDEX_V2)));
            match indexes.count() {
                0 => Finding::warning(
                    "index",
                    "no SOCI index refers to it",
                    "soci create and soci push, or soci convert",
                ),
                count => Finding::ok("index", format!("{count} SOCI indexes refer to it")),
            }
        }
        Err(error) => Finding::failed("index", causes(error), CREDENTIAL),
    }
}
