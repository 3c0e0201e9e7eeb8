//! `soci completion`: what a shell needs to complete our command lines, on standard output.

use std::io;

use anyhow::Result;
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
    clap_complete::generate(args.shell, &mut Cli::command(), "soci", &mut io::stdout());
    Ok(())
}
