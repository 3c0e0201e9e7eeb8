//! `soci workload-init`: the first process of a workload's namespaces. Hidden; only this program itself calls it.

use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of the hidden subcommand.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Socket of the process that started this one.
    socket: PathBuf,
}

/// Becomes the workload. The parent has been told about a failure already; this process just ends.
pub(crate) fn run(args: &Args) -> ExitCode {
    match recorder::workload::init::run(&args.socket) {
        Ok(never) => match never {},
        Err(_) => ExitCode::from(125),
    }
}
