//! `soci index`: the SOCI indexes of the local store.

mod info;
mod list;
mod remote;
mod rm;

use anyhow::Result;

pub(crate) use list::age;

use crate::global::Global;

/// List, show and remove SOCI indexes.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the SOCI indexes.
    #[command(visible_alias = "ls")]
    #[command(after_help = "Example:\n  soci index list --remote registry.example.com/app:v1")]
    List(list::Args),
    /// Show the manifest of a SOCI index.
    #[command(after_help = "Example:\n  soci index info sha256:0f2a...")]
    Info(info::Args),
    /// Remove SOCI indexes. Blobs of our own store stay.
    #[command(name = "rm", visible_alias = "remove")]
    #[command(after_help = "Example:\n  soci index rm --ref registry.example.com/app:v1")]
    Remove(rm::Args),
}

impl Command {
    pub(crate) fn run(self, global: &Global) -> Result<()> {
        match self {
            Self::List(args) => list::run(&args, global),
            Self::Info(args) => info::run(&args, global),
            Self::Remove(args) => rm::run(&args, global),
        }
    }
}
