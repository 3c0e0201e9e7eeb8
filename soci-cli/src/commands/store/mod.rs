//! `soci store`: the local store as a whole.

mod prune;

use anyhow::Result;

use crate::global::Global;

/// Keep the local store small.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Remove what is not needed any more, and give its bytes back.
    Prune(prune::Args),
}

impl Command {
    pub(crate) fn run(self, global: &Global) -> Result<()> {
        match self {
            Self::Prune(args) => prune::run(&args, global),
        }
    }
}
