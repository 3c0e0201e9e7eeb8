//! `soci profile`: what several recordings of a workload agree on, kept for every build of its image.

mod create;
mod diff;
mod info;
mod rebase;
mod simulate;

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use planner::profile::Profile;

use crate::global::Global;
use crate::output::place::{Overwrite, Pending};

/// Make, show, compare and rebase profiles of workloads, and predict starts.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make one profile of traces and other profiles.
    #[command(visible_alias = "merge")]
    #[command(
        after_help = "Examples:\n  soci profile create --trace web.1.trace --trace web.2.trace -o web.profile\n  \
        soci profile create --profile web.profile --trace new.trace --image registry.example.com/app:v2 -o web.profile --overwrite"
    )]
    Create(create::Args),
    /// Show what a profile has.
    #[command(after_help = "Example:\n  soci profile info web.profile")]
    Info(info::Args),
    /// Compare two profiles.
    #[command(after_help = "Example:\n  soci profile diff v1.profile v2.profile")]
    Diff(diff::Args),
    /// Apply a profile of one build to another image.
    #[command(
        after_help = "Example:\n  soci profile rebase web.profile registry.example.com/app:v2 -o v2.profile"
    )]
    Rebase(rebase::Args),
    /// Predict how long starts of an image take.
    #[command(
        after_help = "Examples:\n  soci profile simulate web.profile registry.example.com/app:v1 --link 5ms/100Mbit\n  \
        soci profile simulate web.profile registry.example.com/app:v1 --fail-if 'pack > 1.2*bound' --svg start.svg"
    )]
    Simulate(simulate::Args),
}

impl Command {
    pub(crate) fn run(self, global: &Global) -> Result<()> {
        match self {
            Self::Create(args) => create::run(&args, global),
            Self::Info(args) => info::run(&args),
            Self::Diff(args) => diff::run(&args),
            Self::Rebase(args) => rebase::run(&args, global),
            Self::Simulate(args) => simulate::run(&args, global),
        }
    }
}

/// Where a profile goes.
#[derive(Debug, clap::Args)]
struct Output {
    /// The profile; it appears when it is whole.
    #[arg(long, short = 'o', value_name = "FILE")]
    output: std::path::PathBuf,
    #[command(flatten)]
    overwrite: Overwrite,
}

impl Output {
    fn path(&self) -> &Path {
        &self.output
    }

    fn write(&self, profile: &Profile) -> Result<()> {
        let pending = Pending::new(&self.output, self.overwrite.is_on())?;
        let write = || format!("cannot write {}", self.output.display());
        let mut file =
            std::fs::File::options().write(true).truncate(true).open(pending.path()).with_context(write)?;
        file.write_all(&profile.to_bytes()).with_context(write)?;
        drop(file);
        pending.finish()
    }
}
