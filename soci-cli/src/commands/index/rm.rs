//! `soci index rm`: forget indexes. Blobs of an image layout stay until it is pruned, as with upstream's; containerd collects
//! the index and what only it has kept.

use anyhow::{Result, bail};
use soci_core::{
    digest::Digest,
    media_type::{SOCI_INDEX_V1, SOCI_INDEX_V2},
    store::{ArtifactKind, ContentStore, StoreError},
};

use crate::{
    commands::beside,
    global::Global,
    root::{self, Root},
    sources::{self, RegistryFlags},
};

/// Remove SOCI indexes. Their blobs stay in our own store, until `soci store prune` or with --purge; containerd collects them.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Digests of the indexes.
    digests: Vec<String>,
    /// All of this image: as it was named when they were created, or as containerd names it.
    #[arg(long, value_name = "IMAGE")]
    r#ref: Option<String>,
    /// Also give back the bytes of what only these indexes kept in our own store: zTOCs, prefetch artifacts.
    #[arg(long)]
    purge: bool,
    /// Remove them from the registry of this image, in place of the records here.
    #[arg(long, value_name = "IMAGE", conflicts_with_all = ["ref", "purge"], requires = "digests")]
    remote: Option<String>,
    #[command(flatten, next_help_heading = "With --remote")]
    registry: RegistryFlags,
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<()> {
    if args.r#ref.is_some() && !args.digests.is_empty() {
        bail!("please provide either index digests or image ref, but not both");
    }
    if let Some(name) = &args.remote {
        let digests: Vec<_> =
            args.digests.iter().map(|text| root::digest(Some(text))).collect::<Result<_>>()?;
        return beside::within(name, &args.registry, async |beside| {
            for digest in &digests {
                beside.remove(digest, &[SOCI_INDEX_V1, SOCI_INDEX_V2]).await?;
            }
            Ok(())
        });
    }
    let root = Root::open(global)?;
    if let Some(name) = &args.r#ref {
        for index in sources::indexes_of(name, &root)? {
            remove(&root, &index.digest, args.purge)?;
        }
        return Ok(());
    }
    for text in &args.digests {
        let digest = root::digest(Some(text))?;
        match root.artifacts.get(&digest) {
            Ok(record) if record.kind == ArtifactKind::SociIndex => remove(&root, &digest, args.purge)?,
            Ok(_) => bail!("the digest {digest} does not correspond to an index"),
            Err(StoreError::NotFound(_)) => bail!("the index of the digest {digest} doesn't exist"),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// As upstream's tool, our own store keeps the blobs, and `rebuild-db` brings the index back, until the store is pruned.
fn remove(root: &Root, index: &Digest, purge: bool) -> Result<()> {
    let own = ContentStore::Layout(root.layout().clone());
    if purge || own.size(index)?.is_none() {
        return root.remove(index);
    }
    Ok(root.artifacts.forget(index)?)
}
