//! What was pushed, read back as a node would find it. Holds no state.
//!
//! Manifests and artifacts are read whole and compared with their digests; layers of the image are only looked for, since a node
//! compares them when it reads them.

use anyhow::{Context, Result, bail};
use serde::Serialize;
use soci_core::digest::{Digest, Hasher};
use soci_core::image::{Descriptor, Manifest};
use soci_core::media_type;
use soci_core::registry::Repository;
use tokio::runtime::Runtime;

use super::target::Place;
use crate::commands::pushed::Pushed;
use crate::commands::stop::Stop;

/// What was read back. The keys are an interface.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Verified {
    manifests: u64,
    /// Blobs that were read, and their bytes.
    pub(super) blobs: u64,
    pub(super) bytes: u64,
    /// Layers and configurations that are there.
    found: u64,
}

/// Reads it back.
///
/// # Errors
/// When something is missing, is not what was pushed, or is not listed where nodes look for it.
pub(super) fn verify(place: Place, pushed: &[Pushed], stop: &Stop) -> Result<Verified> {
    let pushed = pushed.to_vec();
    let work = move || {
        let runtime = Runtime::new().context("cannot start the runtime")?;
        runtime.block_on(read_back(&place, &pushed))
    };
    stop.work(work).context("what was pushed is not what the registry has")
}

async fn read_back(place: &Place, pushed: &[Pushed]) -> Result<Verified> {
    let repository = &place.repository;
    let mut verified = Verified::default();
    let mut subjects: Vec<(Digest, Digest)> = Vec::new();
    for one in pushed {
        let (raw, digest, served_as) = repository.manifest(&one.digest.to_string()).await?;
        if digest != one.digest || Digest::of(&raw) != one.digest {
            bail!("{} {} has other bytes", one.kind, one.digest);
        }
        verified.manifests += 1;
        if one.kind == "image index" {
            let tag = place.reference.tag().unwrap_or("latest");
            let (_, tagged, _) = repository.manifest(tag).await?;
            if tagged != one.digest {
                bail!("{tag} is {tagged}, and not {}", one.digest);
            }
            continue;
        }
        let manifest = Manifest::parse(raw, &served_as)?;
        if let Some(subject) = manifest.subject.as_ref().filter(|_| one.is_referrer()) {
            subjects.push((subject.digest, one.digest));
        }
        let config = manifest.config.media_type.as_str();
        let is_image = [media_type::OCI_CONFIG, media_type::DOCKER_CONFIG].contains(&config);
        for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
            if is_image {
                if !repository.blob_exists(&blob.digest).await? {
                    bail!("blob {} of {} {} is not there", blob.digest, one.kind, one.digest);
                }
                verified.found += 1;
            } else {
                read(repository, blob).await?;
                verified.blobs += 1;
                verified.bytes += blob.size;
            }
        }
    }
    for (subject, digest) in subjects {
        let listed = repository.referrers(&subject, None).await?;
        if !listed.iter().any(|one| one.digest == digest) {
            bail!("the registry does not list {digest} with what refers to {subject}");
        }
    }
    Ok(verified)
}

/// Reads a blob and compares it with its descriptor.
async fn read(repository: &Repository, blob: &Descriptor) -> Result<()> {
    let mut stream = repository.blob_stream(&blob.digest).await?;
    let (mut hasher, mut size) = (Hasher::new(), 0u64);
    while let Some(piece) = stream.chunk().await? {
        size += piece.len() as u64;
        if size > blob.size {
            break;
        }
        hasher.update(&piece);
    }
    let actual = hasher.finish();
    if size != blob.size || actual != blob.digest {
        bail!("blob {} has {} bytes and should have {}, or other ones", blob.digest, size, blob.size);
    }
    Ok(())
}
