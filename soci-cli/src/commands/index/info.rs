//! `soci index info`: the stored manifest, indented.

use anyhow::{Context, Result, bail};
use soci_core::store::ArtifactKind;

use crate::{
    commands::beside,
    global::Global,
    output::json,
    root::{self, Root},
    sources::RegistryFlags,
};

/// Show the manifest of a SOCI index.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Digest of the index, or IMAGE@DIGEST for one that the image's registry has.
    digest: Option<String>,
    /// Accepted for compatibility; the output is always JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    registry: RegistryFlags,
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<()> {
    if let Some((image, digest)) = args.digest.as_deref().and_then(beside::named) {
        let raw = beside::within(image, &args.registry, async |beside| Ok(beside.read(&digest).await?.raw))?;
        out!("{}", json::indent(&raw).context("manifest in the registry")?);
        return Ok(());
    }
    let digest = root::digest(args.digest.as_deref())?;
    let root = Root::open(global)?;
    if root.record(&digest)?.kind == ArtifactKind::SociLayer {
        bail!(
            "the provided digest is of ztoc not SOCI index. Use \"soci ztoc info\" command to get detailed info of ztoc"
        );
    }
    let raw = root.read(&digest)?;
    out!("{}", json::indent(&raw).context("stored manifest")?);
    Ok(())
}
