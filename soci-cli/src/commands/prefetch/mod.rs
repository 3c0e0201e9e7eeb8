//! `soci prefetch`: the prefetch artifacts of the local store.

mod info;
mod list;

use anyhow::Result;

use crate::global::Global;

/// List and show prefetch artifacts.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the prefetch artifacts.
    #[command(visible_alias = "ls")]
    #[command(after_help = "Example:\n  soci prefetch list")]
    List(list::Args),
    /// Show the spans of a prefetch artifact.
    #[command(after_help = "Example:\n  soci prefetch info sha256:0f2a...")]
    Info(info::Args),
}

impl Command {
    pub(crate) fn run(self, global: &Global) -> Result<()> {
        match self {
            Self::List(args) => list::run(&args, global),
            Self::Info(args) => info::run(&args, global),
        }
    }
}
