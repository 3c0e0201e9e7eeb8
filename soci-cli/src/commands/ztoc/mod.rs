//! `soci ztoc`: the zTOCs of the local store.

mod get_file;
mod info;
mod list;

use anyhow::{Result, bail};
use soci_core::{
    digest::Digest,
    store::{Artifact, ArtifactKind},
    ztoc::Ztoc,
};

use crate::{global::Global, root::Root};

/// List and show zTOCs, and get files through them.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the zTOCs.
    #[command(visible_alias = "ls")]
    #[command(after_help = "Example:\n  soci ztoc list --image-ref registry.example.com/app:v1")]
    List(list::Args),
    /// Show spans and files of a zTOC.
    #[command(after_help = "Example:\n  soci ztoc info sha256:0f2a...")]
    Info(info::Args),
    /// Get one file of a layer, fetching only the spans it is in.
    #[command(after_help = "Example:\n  soci ztoc get-file -o os-release sha256:0f2a... usr/lib/os-release")]
    GetFile(get_file::Args),
}

impl Command {
    pub(crate) fn run(self, global: &Global) -> Result<()> {
        match self {
            Self::List(args) => list::run(&args, global),
            Self::Info(args) => info::run(&args, global),
            Self::GetFile(args) => get_file::run(&args, global),
        }
    }
}

/// Opens a recorded zTOC.
fn open(root: &Root, digest: &Digest) -> Result<(Artifact, Ztoc)> {
    let record = root.record(digest)?;
    match record.kind {
        ArtifactKind::SociLayer => {}
        ArtifactKind::SociIndex => bail!(
            "the provided digest belongs to a SOCI index. Use `soci index info` to get the detailed information about it"
        ),
        ArtifactKind::SociPrefetch => bail!("the provided digest belongs to a prefetch artifact"),
        ArtifactKind::FineIndex => bail!("the provided digest belongs to a fine index"),
        ArtifactKind::Pack => bail!("the provided digest belongs to a pack: see `soci pack info`"),
    }
    Ok((record, Ztoc::open(root.read(digest)?)?))
}
