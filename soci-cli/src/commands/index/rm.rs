//! `soci index rm`: forget indexes. Blobs of an image layout stay, as with upstream's; containerd deletes the index and
//! collects what only it has kept.

use anyhow::{Result, bail};
use soci_core::{
    digest::Digest,
    store::{ArtifactKind, StoreError},
};

use crate::{
    cli::Global,
    root::{self, Root},
    sources,
};

/// Remove SOCI indexes. Blobs of our own store stay.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Digests of the indexes.
    digests: Vec<String>,
    /// All of this image: as it was named when they were created, or as containerd names it.
    #[arg(long, value_name = "IMAGE")]
    r#ref: Option<String>,
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<()> {
    if args.r#ref.is_some() && !args.digests.is_empty() {
        bail!("please provide either index digests or image ref, but not both");
    }
    let root = Root::open(global)?;
    if let Some(name) = &args.r#ref {
        for index in sources::indexes_of(name, &root)? {
            remove(&root, &index.digest)?;
        }
        return Ok(());
    }
    for text in &args.digests {
        let digest = root::digest(Some(text))?;
        match root.artifacts.get(&digest) {
            Ok(record) if record.kind == ArtifactKind::SociIndex => remove(&root, &digest)?,
            Ok(_) => bail!("the digest {digest} does not correspond to an index"),
            Err(StoreError::NotFound(_)) => bail!("the index of the digest {digest} doesn't exist"),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn remove(root: &Root, index: &Digest) -> Result<()> {
    root.artifacts.remove(index)?;
    for store in root.stores()? {
        store.release(index)?;
    }
    Ok(())
}
