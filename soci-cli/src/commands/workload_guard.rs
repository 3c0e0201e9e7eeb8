//! `soci workload-guard`: ends a workload when the recorder is killed. Hidden; only this program itself calls it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};

/// Arguments of the hidden subcommand.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The workload's own cgroup, if it has one.
    cgroup: Option<PathBuf>,
}

/// Is the guard.
pub(crate) fn run(args: Args) -> Result<ExitCode> {
    recorder::workload::guard::run(args.cgroup).context("guard the workload")?;
    Ok(ExitCode::SUCCESS)
}
