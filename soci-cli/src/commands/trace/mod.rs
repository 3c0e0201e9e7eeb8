//! `soci trace`: look into recordings, and exchange them with other tools.

mod diff;
mod dump;
mod export;
mod import;
mod info;

use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use soci_core::trace::TraceReader;

use crate::{global::Global, output::stream};

/// Look into recordings, and exchange them with other tools.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show what a trace is of, how whole it is, and what it has.
    #[command(after_help = "Example:\n  soci trace info app.trace")]
    Info(info::Args),
    /// Compare two recordings of one workload.
    #[command(after_help = "Example:\n  soci trace diff before.trace after.trace")]
    Diff(diff::Args),
    /// Print the accesses, one a line.
    #[command(after_help = "Example:\n  soci trace dump app.trace | less")]
    Dump(dump::Args),
    /// Write a trace in another format.
    #[command(after_help = "Example:\n  soci trace export -f perfetto -o app.json app.trace")]
    Export(export::Args),
    /// Make a trace of an image from what another tool wrote.
    #[command(
        after_help = "Example:\n  soci trace import -f strace --image registry.example.com/app:v1 strace.log"
    )]
    Import(import::Args),
}

impl Command {
    pub(crate) fn run(self, global: &Global) -> Result<()> {
        let outcome = match self {
            Self::Info(args) => info::run(&args),
            Self::Diff(args) => diff::run(&args),
            Self::Dump(args) => dump::run(&args),
            Self::Export(args) => export::run(&args),
            Self::Import(args) => import::run(&args, global),
        };
        match outcome {
            // Whoever reads our output has seen enough.
            Err(error) if is_broken_pipe(&error) => {
                stream::reader_is_gone();
                Ok(())
            }
            outcome => outcome,
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>());
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn open(path: &Path) -> Result<TraceReader> {
    TraceReader::open(path).with_context(|| format!("cannot read trace {}", path.display()))
}

/// Warns of what a trace that was read to its end may lack.
fn warn_of_flaws(path: &Path, trace: &TraceReader) {
    for flaw in planner::report::Flaw::of(trace.header(), trace.tail()) {
        say!("warning: trace {}: {flaw}", path.display());
    }
}
