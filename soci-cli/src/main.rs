//! The `soci` command: words in, words out.
//!
//! Parses, dispatches, and turns the outcome into an exit code. Owns no state. Results go to standard output, everything
//! else (warnings, errors, progress, logs filtered by `RUST_LOG`) to standard error.

mod cli;
mod commands;
mod error;
mod output;
mod root;
mod sources;

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return error::usage(&error),
    };
    let level = if cli.global.debug { "warn,soci=debug,soci_core=debug,recorder=debug" } else { "warn" };
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| level.into()))
        .with_writer(std::io::stderr)
        .init();
    match cli.command.run(&cli.global) {
        Ok(code) => code,
        Err(error) => error::failed(&error),
    }
}
