//! `soci record --runs N`: the same recording several times, each from cold, and what most of the runs need.
//!
//! Outputs `<name>.1.trace` and so on, and of them merged `<name>.trace` and `<name>.prefetch.json`. The exit code is the
//! largest of the runs'. A signal or a command that cannot be executed ends it at once: then nothing is merged, and no
//! merged trace of an earlier call is left to be taken for one.

use std::fs;
use std::io;
use std::path::PathBuf;

use anyhow::{Context, Result};
use planner::runs::write_merged;
use recorder::session::Recorded;
use soci_core::trace::Outcome;

use super::partial_trace::{partial, publish};
use super::record_args::Args;
use super::record_once::{Done, Run, Runs, code, finish};
use super::results::Results;
use super::summary;

/// Records again and again.
pub(super) fn repeat(
    args: &Args,
    results: &Results,
    mut once: impl FnMut(&Run) -> Result<Result<Done, u8>>,
) -> Result<Runs> {
    let merged = results.trace();
    match fs::remove_file(&merged) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove the earlier {}", merged.display()));
        }
        _ => {}
    }
    let mut traces: Vec<PathBuf> = Vec::new();
    let (mut worst, mut layers) = (0, Vec::new());
    for number in 1..=args.runs {
        let label = format!("run {number} of {}", args.runs);
        let trace = results.run(number);
        let run = Run { trace: trace.clone(), label: format!("{label}: ") };
        let done = match once(&run).with_context(|| label.clone())? {
            Ok(done) => done,
            Err(code) => return Ok(Runs { code, traces }),
        };
        if !args.json {
            say!("{label}: {}", line(&done.recorded));
        }
        let code = code(args, &done.recorded);
        worst = worst.max(code);
        if done.recorded.end.outcome == Outcome::Interrupted {
            say!("{label} was stopped: the traces of the runs are kept, and none is made of them together");
            return Ok(Runs { code, traces });
        }
        layers = done.layers;
        traces.push(trace);
    }
    let stability = write_merged(&traces, &partial(&merged))
        .inspect_err(|_| drop(fs::remove_file(partial(&merged)))) // it can be made again of the runs
        .context("cannot merge the traces of the runs")?;
    publish(&merged)?;
    finish(args, results, &layers, Some(stability))?;
    Ok(Runs { code: worst, traces })
}

/// One run in a line.
fn line(recorded: &Recorded) -> String {
    let end = &recorded.end;
    let ready = match end.ready_ns {
        Some(ready) => format!("ready after {}", summary::time(ready)),
        None => "never ready".to_owned(),
    };
    format!("{ready}, {} accesses, {} lost", recorded.accesses, end.dropped)
}
