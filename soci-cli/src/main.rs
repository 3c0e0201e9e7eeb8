//! The `soci` command: words in, words out.
//!
//! Parses, dispatches, and turns the outcome into an exit code. Owns no state. Results go to standard output, everything
//! else (warnings, errors, progress, logs filtered by `RUST_LOG`) to standard error.

#![deny(clippy::print_stdout, clippy::print_stderr)] // they panic when the reader is gone: out! and say! do not

#[macro_use]
mod output;

mod cli;
mod commands;
mod error;
mod global;
mod help;
mod hint;
mod program;
mod root;
mod size;
mod sources;
mod status_socket;
mod usage;

use std::process::ExitCode;

use clap::Parser;
use output::stream;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    program::remember();
    soci_core::plugins::keep_out();
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage::report(&error),
    };
    let level = if cli.global.debug { "warn,soci=debug,soci_core=debug,recorder=debug" } else { "warn" };
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| level.into()))
        .with_ansi(stream::colours(&std::io::stderr()))
        .with_writer(|| stream::Log)
        .init();
    stream::exit(match cli.command.run(&cli.global) {
        Ok(code) => code,
        Err(error) if stream::is_ours(&error) => ExitCode::SUCCESS,
        Err(error) => error::failed(&error),
    })
}
