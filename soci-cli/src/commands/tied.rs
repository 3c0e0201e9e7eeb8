//! `soci tied`: executes a program, in a session of its own, that dies with the process that started it. Hidden; this
//! program uses it for the snapshotter of `soci run`, so that even SIGKILL leaves no daemon behind, and for the command of
//! `soci record -- CMD`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use rustix::process::{Signal, set_parent_process_death_signal, setsid};

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
    // A terminal's signals reach this program's parent alone, which passes on what is meant for it.
    setsid().context("cannot begin a session")?;
    set_parent_process_death_signal(Some(Signal::KILL)).context("cannot tie to the parent")?;
    Err(Command::new(program).args(rest).exec())
        .with_context(|| format!("cannot execute {}", program.display()))
}
