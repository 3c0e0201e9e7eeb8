//! What there is to say when no command runs: help, the version, or what is wrong with the command line. Holds no state.

use std::{io, process::ExitCode};

use crate::output::stream;

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
