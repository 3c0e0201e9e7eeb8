//! `soci trace info`: what a trace is of, how whole it is, what it has.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use indicatif::HumanBytes;
use planner::report::Contents;

use super::super::summary;
use crate::output::{json, stream::Results};

/// Show what a trace is of, how whole it is, and what it has.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// As JSON.
    #[arg(long)]
    json: bool,
    /// The trace.
    #[arg(value_name = "FILE")]
    trace: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let read = || format!("cannot read trace {}", args.trace.display());
    let contents = Contents::read(&args.trace).with_context(read)?;
    let text = if args.json { json::pretty(&contents)? + "\n" } else { text(&contents) };
    let mut out = Results::buffered();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

fn text(contents: &Contents) -> String {
    let Contents { header, summary, .. } = contents;
    let state = match (contents.sealed, contents.torn_at) {
        (false, Some(at)) => format!("torn after byte {at}"),
        _ => "sealed".to_owned(),
    };
    let warm = match header.warm {
        Some(true) => "warm page cache",
        Some(false) => "cold page cache",
        None => "page cache not known",
    };
    let mut lines = vec![
        ("format", format!("version {}, flags {:#x}, {state}, {warm}", contents.version, contents.flags)),
        ("engine", header.engine.clone()),
        ("started", header.started_at.clone()),
    ];
    if let Some(manifest) = header.manifest {
        lines.push(("manifest", manifest.to_string()));
    }
    if let Some(end) = &contents.end {
        let code = end.exit_code.map_or(String::new(), |code| format!(" with code {code}"));
        lines.push(("outcome", format!("{}{code}", outcome(end.outcome))));
    }
    for flaw in &contents.flaws {
        lines.push(("flaw", flaw.to_string()));
    }
    let phases = &summary.phases;
    lines.push((
        "phases",
        format!(
            "setup {}, start {}, tail {}",
            HumanBytes(phases.setup),
            HumanBytes(phases.start),
            HumanBytes(phases.tail)
        ),
    ));
    let kinds = &contents.kinds;
    lines.push((
        "kinds",
        format!(
            "{} read, {} fault, {} map, {} exec, {} open",
            kinds.read, kinds.fault, kinds.map, kinds.exec, kinds.open
        ),
    ));
    lines.push(("processes", contents.processes.to_string()));
    lines.push((
        "size",
        format!(
            "{}: {:.1} bytes for each access, {:.1} for each of {} needed ranges",
            HumanBytes(contents.size),
            contents.bytes_per_access,
            contents.bytes_per_range,
            contents.ranges
        ),
    ));
    let lines = lines.iter().map(|(name, value)| format!("{:<12} {value}\n", format!("{name}:")));
    summary::text(summary) + &lines.collect::<String>()
}

fn outcome(outcome: soci_core::trace::Outcome) -> &'static str {
    use soci_core::trace::Outcome;
    match outcome {
        Outcome::Ready => "stopped after it was ready",
        Outcome::Exited => "the workload ended",
        Outcome::TimedOut => "not ready in time",
        Outcome::Interrupted => "stopped by a signal",
    }
}
