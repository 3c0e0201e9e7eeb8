//! `soci profile`: what several recordings of a workload agree on, kept for every build of its image.

mod create;
mod diff;
mod info;
mod rebase;
pub(crate) mod remote;
mod simulate;

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use planner::profile::Profile;

use crate::global::Global;
use crate::output::place::{Overwrite, Pending};

/// Make, show, compare, rebase, push and fetch profiles of workloads, and predict starts.
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
    /// Push a profile to the registry of its image.
    #[command(after_help = "Example:\n  soci profile push web.profile registry.example.com/app:v1")]
    Push(remote::PushArgs),
    /// Fetch a profile of an image from its registry.
    #[command(
        after_help = "Example:\n  soci profile pull --name web registry.example.com/app:v1 -o web.profile"
    )]
    Pull(remote::PullArgs),
    /// List the profiles that a registry has for an image.
    #[command(visible_alias = "ls")]
    #[command(after_help = "Example:\n  soci profile list --remote registry.example.com/app:v1")]
    List(remote::ListArgs),
    /// Remove profiles from the registry of their image.
    #[command(name = "rm", visible_alias = "remove")]
    #[command(after_help = "Example:\n  soci profile rm --remote registry.example.com/app:v1 sha256:0f2a...")]
    Remove(remote::RmArgs),
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
            Self::Push(args) => remote::push(args, global),
            Self::Pull(args) => remote::pull(&args),
            Self::List(args) => remote::list(&args),
            Self::Remove(args) => remote::rm(&args),
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
