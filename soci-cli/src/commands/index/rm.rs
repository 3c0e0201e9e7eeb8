//! `soci index rm`: forget indexes. Blobs stay in the store, as with upstream's.

use anyhow::{Result, bail};
use soci_core::{
    image::ImageError,
    store::{ArtifactKind, StoreError},
};

use crate::{
    cli::Global,
    root::{self, Root},
    sources::full_name,
};

/// Remove SOCI indexes. Their blobs stay.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Digests of the indexes.
    digests: Vec<String>,
    /// All of this image, as it was named when they were created.
    #[arg(long, value_name = "IMAGE")]
    r#ref: Option<String>,
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<()> {
    if args.r#ref.is_some() && !args.digests.is_empty() {
        bail!("please provide either index digests or image ref, but not both");
    }
    let root = Root::open(global)?;
    if let Some(name) = &args.r#ref {
        let name = full_name(name);
        let mut indexes = root.indexes()?;
        indexes.retain(|index| index.image_ref.as_ref() == Some(&name));
        if indexes.is_empty() {
            return Err(ImageError::NotFound(name).into());
        }
        for index in indexes {
            root.artifacts.remove(&index.digest)?;
        }
        return Ok(());
    }
    for text in &args.digests {
        let digest = root::digest(Some(text))?;
        match root.artifacts.get(&digest) {
            Ok(record) if record.kind == ArtifactKind::SociIndex => root.artifacts.remove(&digest)?,
            Ok(_) => bail!("the digest {digest} does not correspond to an index"),
            Err(StoreError::NotFound(_)) => bail!("the index of the digest {digest} doesn't exist"),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
