//! `soci tied`: executes a program that dies with the process that started it. Hidden; this program uses it for the
//! snapshotter of `soci run`, so that even SIGKILL leaves no daemon behind.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use rustix::process::{Signal, set_parent_process_death_signal};

/// Arguments of the hidden subcommand.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// Becomes the program. Returns only on failure.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let (program, rest) = args.command.split_first().context("nothing to execute")?;
    set_parent_process_death_signal(Some(Signal::KILL)).context("cannot tie to the parent")?;
    Err(Command::new(program).args(rest).exec())
        .with_context(|| format!("cannot execute {}", program.display()))
}
