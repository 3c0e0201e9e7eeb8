//! `soci completion`: what a shell needs to complete our command lines, on standard output.

use std::io::{Write, stdout};

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;

/// Arguments of `soci completion`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// The shell. bash: `soci completion bash > /etc/bash_completion.d/soci`.
    shell: Shell,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "soci", &mut script);
    stdout().write_all(&script).context("write the completions")
}
