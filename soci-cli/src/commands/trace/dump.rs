//! `soci trace dump`: the accesses for eyes and `grep`, one a line.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use planner::export::{kind_name, phase_name};
use soci_core::escape::escape;

use crate::output::stream::Results;

/// Print the accesses, one a line: time (s), phase, kind, range, wait, layer, process, path.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The trace.
    #[arg(value_name = "FILE")]
    trace: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut trace = super::open(&args.trace)?;
    let mut out = Results::buffered();
    for access in trace.by_ref() {
        let access = access.with_context(|| format!("cannot read trace {}", args.trace.display()))?;
        let layer = access.layer.map_or_else(|| "-".to_owned(), |layer| layer.to_string());
        writeln!(
            out,
            "{:>5}.{:09} {:<5} {:<5} {:>10}+{:<7} {:>9.3}ms layer {layer} {}[{}] /{}",
            access.t_ns / 1_000_000_000,
            access.t_ns % 1_000_000_000,
            phase_name(access.phase),
            kind_name(access.kind),
            access.offset,
            access.len,
            access.wait_ns as f64 / 1e6,
            visible(&access.process.comm),
            access.process.pid,
            visible(&access.path),
        )?;
    }
    out.flush()?;
    super::warn_of_flaws(&args.trace, &trace);
    Ok(())
}

/// A name that cannot break the line or speak to the terminal.
fn visible(name: &[u8]) -> String {
    let text = escape(name);
    if !text.contains(char::is_control) {
        return text.into_owned();
    }
    text.chars()
        .map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() })
        .collect()
}
