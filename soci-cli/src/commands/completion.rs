//! `soci completion`: what a shell needs to complete our command lines, on standard output.

use std::io::Write;

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::Shell;

use crate::{cli::Cli, output::stream::Results};

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
    Ok(Results.write_all(&script)?)
}
