//! `soci report`: look at a recording, as text, as JSON, as a page.
//!
//! Translates only: what is shown is decided in `planner::report`. The page is written beside its place and renamed,
//! so that nobody sees half of it.

use std::cmp::Reverse;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use planner::report::words::{bytes, printable, time};
use planner::report::{Report, page};

use super::summary;
use crate::output::place::{Overwrite, Pending};
use crate::output::{json, stream::Results};

/// Show what a recording has seen.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The trace that soci record has written.
    #[arg(value_name = "TRACE")]
    trace: PathBuf,
    /// Also write a page (HTML) that needs no network: timeline, files, layers, processes.
    #[arg(long, short = 'o', value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    overwrite: Overwrite,
    /// Print everything as JSON instead of the summary.
    #[arg(long)]
    json: bool,
}

/// Files in the summary.
const FILES: usize = 5;

/// Shows it.
pub(crate) fn run(args: Args) -> Result<()> {
    let report = Report::read(&args.trace, &[]).with_context(|| {
        format!("cannot read trace {}", printable(args.trace.as_os_str().as_encoded_bytes()))
    })?;
    if let Some(good) = report.torn_after {
        say!("warning: the trace has no end, it is cut after byte {good}: the recorder did not finish");
    }
    if let Some(end) = report.summary.end.as_ref().filter(|end| end.dropped > 0) {
        say!("warning: {} accesses were lost: all figures are too low", end.dropped);
    }
    let mut out = Results::buffered();
    if args.json {
        writeln!(out, "{}", json::pretty(&report)?)?;
    } else {
        write!(out, "{}", summary::text(&report.summary))?;
        write_text(&mut out, &report)?;
    }
    if let Some(path) = &args.output {
        if same_file(path, &args.trace) {
            bail!("{} is the trace itself", path.display());
        }
        write_page(&report, path, args.overwrite.is_on())?;
        if !args.json {
            writeln!(out, "page:        {}", path.display())?;
        }
    }
    out.flush()?;
    Ok(())
}

/// Writes the page of a report.
pub(crate) fn write_page(report: &Report, path: &Path, force: bool) -> Result<()> {
    let mut pending = Pending::new(path, force)?;
    pending.put(page(report).as_bytes())?;
    pending.finish()
}

/// What the summary of a recording does not say: who recorded, what came late, which files were largest.
fn write_text(out: &mut impl Write, report: &Report) -> io::Result<()> {
    writeln!(out, "engine:      {}", printable(report.engine.as_bytes()))?;
    let (late, files) = (bytes(report.summary.phases.tail), report.tail_only().count());
    writeln!(out, "after ready: {late} were first needed then; {files} files only then")?;
    let mut files: Vec<_> = report.files.iter().collect();
    files.sort_by_key(|file| Reverse(file.bytes));
    for (at, file) in files.into_iter().take(FILES).enumerate() {
        let name = if at == 0 { "most read:" } else { "" };
        let size = bytes(file.bytes);
        let wait = file.wait_ns.map_or_else(String::new, |wait| format!(", waited {:>8}", time(wait)));
        writeln!(out, "{name:<12} {size:>9}{wait}  {}", file.path)?;
    }
    Ok(())
}

fn same_file(a: &Path, b: &Path) -> bool {
    matches!((fs::canonicalize(a), fs::canonicalize(b)), (Ok(a), Ok(b)) if a == b)
}
