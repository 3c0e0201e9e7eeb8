//! `soci pack rm`: removes packs, from our own store with their bytes, from containerd when it next collects.

use anyhow::{Result, bail};
use soci_core::{
    digest::Digest,
    media_type,
    store::{ArtifactKind, StoreError},
};

use crate::{
    commands::beside,
    global::Global,
    root::{self, Root},
    sources::RegistryFlags,
};

/// Remove packs, and give their bytes back. A pack that an image of the store lists stays with that image.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  soci pack rm --ref registry.example.com/app:v1\n  soci pack rm --remote registry.example.com/app:v1 sha256:0f2a..."
)]
pub(crate) struct Args {
    /// Digests of the packs.
    #[arg(required_unless_present = "ref", conflicts_with = "ref", value_name = "DIGEST")]
    digests: Vec<String>,
    /// All packs of this image, as it was named when they were made.
    #[arg(long, value_name = "IMAGE")]
    r#ref: Option<String>,
    /// Remove them from the registry of this image, in place of the records here.
    #[arg(long, value_name = "IMAGE", conflicts_with = "ref", requires = "digests")]
    remote: Option<String>,
    #[command(flatten, next_help_heading = "With --remote")]
    registry: RegistryFlags,
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<()> {
    if let Some(name) = &args.remote {
        let digests: Vec<Digest> =
            args.digests.iter().map(|text| root::digest(Some(text))).collect::<Result<_>>()?;
        return beside::within(name, &args.registry, async |beside| {
            for digest in &digests {
                beside.remove(digest, &[media_type::PACK]).await?;
            }
            Ok(())
        });
    }
    let root = Root::open(global)?;
    let mut packs: Vec<Digest> = Vec::new();
    if let Some(name) = &args.r#ref {
        let of_image = |record: &soci_core::store::Artifact| record.image_ref.as_deref() == Some(name);
        packs.extend(root.list(ArtifactKind::Pack)?.iter().filter(|it| of_image(it)).map(|it| it.digest));
        if packs.is_empty() {
            bail!("no pack of {name} is recorded here; see `soci pack list`");
        }
    }
    for text in &args.digests {
        let digest = root::digest(Some(text))?;
        match root.artifacts.get(&digest) {
            Ok(record) if record.kind == ArtifactKind::Pack => packs.push(digest),
            Ok(_) => bail!("{digest} is not a pack"),
            Err(StoreError::NotFound(_)) => bail!("no pack {digest} is recorded here; see `soci pack list`"),
            Err(error) => return Err(error.into()),
        }
    }
    packs.iter().try_for_each(|pack| root.remove(pack))
}
