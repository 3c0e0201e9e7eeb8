//! An image as the snapshotter will need it: in a registry its manifest, ranges of a layer, its SOCI index and what goes with it;
//! on disk what can be pushed.

use std::time::Instant;

use soci_core::image::{Descriptor, Image, ImageSource, Platform};
use soci_core::index::{CompanionKind, IndexVersion};
use soci_core::media_type;
use soci_core::registry::Repository;
use soci_core::units::ByteRange;

use super::{Finding, causes};
use crate::error;
use crate::sources::{self, RegistryFlags};

const CREDENTIAL: &str = "check the name, log in (docker login, nerdctl login) or give --user; a registry without TLS needs --plain-http";
const MAKE: &str = "soci create and soci push, or soci convert";

/// All checks of an image.
pub(super) async fn check(image: &str, flags: &RegistryFlags) -> Vec<Finding> {
    let local = sources::is_local(image);
    let (check, advice) = if local {
        ("image", "an image on disk is named oci:DIR[:TAG] or oci-archive:FILE[:TAG]")
    } else {
        ("registry", CREDENTIAL)
    };
    let begin = Instant::now();
    let found = async {
        let name = image.strip_prefix("docker://").unwrap_or(image);
        let source = ImageSource::parse(name, &flags.registry(image)?)?;
        Ok::<_, anyhow::Error>(source.resolve(&Platform::host()).await?)
    };
    let found = match found.await {
        Ok(found) => found,
        Err(error) => return vec![Finding::failed(check, error::words(&error), advice)],
    };
    let digest = found.manifest.digest;
    let Some(repository) = found.source.repository().cloned() else {
        let layers = found.layers().len();
        return vec![Finding::ok(check, format!("{digest}, {layers} layers")), on_disk(&found)];
    };
    let place = format!("{digest} in {} ms from {}", begin.elapsed().as_millis(), repository.host());
    let mut findings = vec![Finding::ok(check, place)];
    if let Some(layer) = found.layers().first() {
        findings.push(ranges(&repository, layer).await);
    }
    findings.extend(companions(&repository, &found).await);
    findings
}

fn on_disk(image: &Image) -> Finding {
    match image.manifest.annotations.get(media_type::INDEX_DIGEST) {
        Some(index) => Finding::ok("index", format!("SOCI index {index} (version 2) is part of the image")),
        None => Finding::warning("index", "the image has no SOCI index of its own", MAKE),
    }
}

/// The last byte of the first layer: a server that knows no ranges would have to send all of it.
async fn ranges(repository: &Repository, layer: &Descriptor) -> Finding {
    const ADVICE: &str =
        "lazy loading needs ranged requests: ask the registry's operator, or pull whole images";
    let (size, begin) = (layer.size, Instant::now());
    let fetcher = repository.range_fetcher(layer.digest, size);
    match fetcher.fetch(ByteRange::new(size.saturating_sub(1), size)).await {
        Ok(_) => Finding::ok("ranges", format!("a byte of a layer in {} ms", begin.elapsed().as_millis())),
        Err(error) => Finding::failed("ranges", causes(error), ADVICE),
    }
}

/// The SOCI index that a node will take, and the fine indexes and packs beside the image.
async fn companions(repository: &Repository, image: &Image) -> Vec<Finding> {
    let referrers = match repository.referrers(&image.manifest.digest, None).await {
        Ok(found) => found,
        Err(error) => return vec![Finding::failed("index", causes(error), CREDENTIAL)],
    };
    let is = |one: &&Descriptor, artifact_type: &str| one.artifact_type.as_deref() == Some(artifact_type);
    let of_type = |artifact_type: &'static str| referrers.iter().filter(move |one| is(one, artifact_type));
    let own = image.manifest.annotations.get(media_type::INDEX_DIGEST);
    let older: Vec<_> = of_type(IndexVersion::V1.media_type()).collect();
    let index = match (own, older.as_slice()) {
        (Some(own), []) => Finding::ok("index", format!("SOCI index {own} (version 2) is part of the image")),
        (Some(own), older) => Finding::ok(
            "index",
            format!(
                "SOCI index {own} (version 2) is part of the image; {} of version 1 refer to it",
                older.len()
            ),
        ),
        (None, []) => Finding::warning("index", "the image has no SOCI index", MAKE),
        (None, [one]) => Finding::ok("index", format!("SOCI index {} (version 1) refers to it", one.digest)),
        (None, [first, ..]) => Finding::warning(
            "index",
            format!(
                "{} SOCI indexes (version 1) refer to it; the registry lists {} first",
                older.len(),
                first.digest
            ),
            "nodes take the first; soci index list --remote shows all",
        ),
    };
    let count = |kind: CompanionKind| of_type(kind.artifact_type()).count();
    let (fine, packs) = (count(CompanionKind::FineIndex), count(CompanionKind::Pack));
    let beside = match (fine, packs) {
        (0, 0) => {
            Finding::ok("companions", "no fine index and no pack; soci create --fine --pack makes them")
        }
        _ => Finding::ok("companions", format!("{fine} fine indexes and {packs} packs")),
    };
    vec![index, beside]
}
