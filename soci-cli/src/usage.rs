//! The command line apart from its commands: what to say when none runs, and the flags of one that another calls. Holds no state.

use std::{io, process::ExitCode};

use anyhow::Result;

use crate::output::stream;

/// The flags of a command as if these words had been given, for a command that is made of others.
pub(crate) fn args<A: clap::Args>(words: &[&str]) -> Result<A> {
    let command = A::augment_args(clap::Command::new("soci").no_binary_name(true));
    Ok(A::from_arg_matches(&command.try_get_matches_from(words)?)?)
}

/// Reports a wrong command line, or prints the help that was asked for.
pub(crate) fn report(error: &clap::Error) -> ExitCode {
    let asked_for = !error.use_stderr();
    let help_without_command =
        error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if asked_for {
        let text = error.render();
        let colours = stream::colours(&io::stdout());
        stream::results(&if colours { text.ansi().to_string() } else { text.to_string() });
        return stream::exit(ExitCode::SUCCESS);
    }
    let _ = error.print(); // nobody left to tell when the terminal is gone
    if help_without_command { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
