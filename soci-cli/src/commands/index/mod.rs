//! `soci index`: the SOCI indexes of the local store.

mod info;
mod list;
mod remote;
mod rm;

use anyhow::Result;

pub(crate) use list::age;

use crate::cli::Global;

/// List, show and remove SOCI indexes.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the SOCI indexes.
    #[command(visible_alias = "ls")]
    List(list::Args),
    /// Show the manifest of a SOCI index.
    Info(info::Args),
    /// Remove SOCI indexes. Blobs of our own store stay.
    #[command(name = "rm", visible_alias = "remove")]
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
