//! `soci trace export`: a trace for other tools.

use std::path::{Path, PathBuf};

use anyhow::Result;
use planner::export::{self, ExportError, Exported, Format};

use crate::output::place::{Overwrite, Pending};
use crate::output::stream::Results;

/// Write a trace in another format.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to write.
    #[arg(long, short = 'f', value_name = "FORMAT")]
    format: To,
    /// Write to this file in place of standard output; it appears when it is whole.
    #[arg(long, short = 'o', value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    overwrite: Overwrite,
    /// The trace.
    #[arg(value_name = "FILE")]
    trace: PathBuf,
}

/// `--format`.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum To {
    /// One JSON object for each access, one a line.
    Jsonl,
    /// The same as a table (RFC 4180).
    Csv,
    /// A timeline for ui.perfetto.dev or chrome://tracing.
    Perfetto,
    /// Paths in the order of first use, one a line.
    Paths,
    /// A record for `ctr-remote image optimize --record-in` of stargz-snapshotter.
    Stargz,
    /// A list of files for nydus, one a line.
    Nydus,
    /// The table of nydus-snapshotter's optimizer (size: to the last byte that was read).
    NydusCsv,
    /// A list of file ranges for `nydus-image optimize`.
    NydusJson,
    /// A list of files for overlaybd, one a line (at most 64 KiB).
    Overlaybd,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let format = match args.format {
        To::Jsonl => Format::Jsonl,
        To::Csv => Format::Csv,
        To::Perfetto => Format::Perfetto,
        To::Paths => Format::Paths,
        To::Stargz => Format::Stargz,
        To::Nydus => Format::Nydus,
        To::NydusCsv => Format::NydusCsv,
        To::NydusJson => Format::NydusJson,
        To::Overlaybd => Format::Overlaybd,
    };
    let mut trace = super::open(&args.trace)?;
    let exported = match args.output.as_deref() {
        None => export::export(&mut trace, format, &mut Results::buffered()),
        Some(path) => {
            let mut pending = Pending::new(path, args.overwrite.is_on())?;
            let exported = export::export(&mut trace, format, &mut pending.writer());
            if exported.is_ok() {
                pending.finish()?;
            }
            exported
        }
    };
    let Exported { left_out, .. } = exported.map_err(|error| told(error, &args.trace))?;
    super::warn_of_flaws(&args.trace, &trace);
    if left_out > 0 {
        say!("warning: {left_out} files are left out: the format has no way to name them");
    }
    Ok(())
}

/// Names the file when it is the one that failed.
fn told(error: ExportError, trace: &Path) -> anyhow::Error {
    match error {
        ExportError::Trace(cause) => {
            anyhow::Error::from(cause).context(format!("cannot read trace {}", trace.display()))
        }
        error => error.into(),
    }
}
