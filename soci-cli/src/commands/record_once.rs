//! What every recording of `soci record` has, whatever is recorded: the watch over one run, and what is said and written in
//! the end. Holds no state.

use std::path::PathBuf;

use anyhow::Result;
use indicatif::{HumanBytes, ProgressBar};
use planner::report::{Report, Stability, Summary};
use recorder::capture::Capture;
use recorder::resolve::Resolver;
use recorder::rootfs::UnpackedLayer;
use recorder::session::{self, Progress, Recorded, Rules, SessionError};
use recorder::workload::Spec;
use soci_core::digest::Digest;
use soci_core::trace::{LayerRef, Outcome};

use super::record_args::Args;
use super::results::Results;
use super::stop::{self, Stop};
use super::workload_args::{self, limit};
use super::{partial_trace, summary};
use crate::global::Global;
use crate::output::progress::Progress as Bars;
use crate::output::stream;

/// What is particular to one of the recordings.
pub(super) struct Run {
    /// Where its trace goes.
    pub(super) trace: PathBuf,
    /// What stands before its progress.
    pub(super) label: String,
}

/// What all runs of one call came to.
pub(super) struct Runs {
    /// The exit code: the largest of the runs'.
    pub(super) code: u8,
    /// Traces that are whole, in the order of the runs.
    pub(super) traces: Vec<PathBuf>,
}

/// A recording that is over.
pub(super) struct Done {
    pub(super) recorded: Recorded,
    pub(super) layers: Vec<UnpackedLayer>,
}

/// What a trace is of.
pub(super) struct What {
    /// As the user named it.
    pub(super) image: String,
    /// Its manifest, when it is an image.
    pub(super) manifest: Option<Digest>,
    /// Its layers, lowest first.
    pub(super) layers: Vec<LayerRef>,
}

/// Runs the workload under watch, and shows how far it is; the inner error is as that of `record`.
#[expect(clippy::too_many_arguments, reason = "all that one recording is made of, from two places")]
pub(super) fn session(
    args: &Args,
    global: &Global,
    what: What,
    capture: &mut dyn Capture,
    resolver: &mut Resolver,
    spec: &Spec,
    stop: &Stop,
    this: &Run,
) -> Result<Result<Recorded, u8>> {
    stop.check()?;
    let bar = progress_bar(&this.label, args.json);
    let options = session::Options {
        trace: partial_trace::partial(&this.trace),
        image: what.image,
        manifest: what.manifest,
        layers: what.layers,
        rules: Rules { until: args.workload.until()?, tail: args.tail, timeout: limit(global) },
        output: args.output(),
        signals: stop.signals(),
    };
    let init = workload_args::init_command()?;
    let mut show = |progress: &Progress| show(&bar, progress);
    let recorded = session::record(capture, resolver, spec, &init, options, &mut show);
    bar.finish_and_clear();
    match recorded {
        Ok(recorded) => {
            partial_trace::publish(&this.trace)?;
            Ok(Ok(recorded))
        }
        Err(SessionError::Workload(error)) if let Some(code) = workload_args::exec_code(&error) => {
            say!("error: {error}");
            Ok(Err(code))
        }
        Err(error) => {
            partial_trace::leave(&this.trace);
            Err(error.into())
        }
    }
}

/// Writes the list of paths and shows the summary.
pub(super) fn finish(
    args: &Args,
    results: &Results,
    layers: &[UnpackedLayer],
    stability: Option<Stability>,
) -> Result<()> {
    let trace = results.trace();
    let left_out = results.write_list(&trace)?;
    if left_out > 0 {
        let list = results.list();
        say!(
            "warning: {left_out} paths are not UTF-8 text: they are in the trace, and not in {}",
            list.display()
        );
    }
    if args.goes_on {
        return Ok(());
    }
    let content: Vec<u64> = layers.iter().map(|layer| layer.bytes).collect();
    let summary = Summary::read(&trace, &content)?;
    let mut written = vec![trace.clone(), results.list()];
    if args.report {
        super::report::write_page(&Report::read(&trace, &content)?, &results.page(), true)?;
        written.push(results.page());
    }
    if args.json {
        out!("{}", serde_json::to_string(&summary::Json { summary, stability, written })?);
        return Ok(());
    }
    stream::remarks(&summary::text(&summary));
    if let Some(stability) = stability {
        stream::remarks(&summary::stability(&stability));
    }
    let names: Vec<String> = written.iter().map(|path| path.display().to_string()).collect();
    say!("written:     {}", names.join(", "));
    let image = args.image.as_deref().unwrap_or("IMAGE");
    say!("next:        soci create --trace {} {image}", trace.display());
    Ok(())
}

/// The exit code of a recording; says why it is not 0.
pub(super) fn code(args: &Args, recorded: &Recorded) -> u8 {
    let end = &recorded.end;
    match (end.outcome, end.ready_ns, end.exit_code) {
        (Outcome::Interrupted, ..) => {
            say!("stopped by a signal; the trace is kept");
            recorded.signal.map_or(130, stop::code)
        }
        (Outcome::TimedOut, ..) => {
            say!("error: the workload was not ready in time; the trace is kept and says so");
            if let Some(hint) = args.workload.late_hint() {
                say!("hint: {hint}");
            }
            4
        }
        (Outcome::Exited, None, code) => {
            let code = code.unwrap_or(255);
            say!(
                "error: the workload ended with code {code} before it was ready; the trace is kept and says so"
            );
            4
        }
        (Outcome::Exited, Some(_), Some(code)) if code != 0 => {
            say!("error: the workload failed with code {code}; the trace is kept");
            5
        }
        _ if end.dropped > 0 && !args.allow_incomplete => {
            say!("error: {} accesses were lost (--allow-incomplete accepts that)", end.dropped);
            3
        }
        _ => 0,
    }
}

/// A line of progress on standard error; hidden with `quiet` and when that is not a terminal.
pub(super) fn progress_bar(label: &str, quiet: bool) -> ProgressBar {
    Bars::new(quiet).line_of(label)
}

pub(super) fn show(bar: &ProgressBar, progress: &Progress) {
    let Progress { elapsed, ready, accesses, files, bytes } = progress;
    let state = if *ready { "ready, tail" } else { "recording" };
    let bytes = HumanBytes(*bytes);
    let elapsed = elapsed.as_secs_f64();
    bar.set_message(format!("{state} {elapsed:.1} s: {files} files, {bytes}, {accesses} accesses"));
    bar.tick();
}
