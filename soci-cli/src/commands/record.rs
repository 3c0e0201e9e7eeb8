//! `soci record`: run a workload of an image and write down what it reads. With `--rootfs`, see `record_rootfs.rs`;
//! containers that somebody else starts are in `record_container.rs`.
//!
//! Outputs `<name>.trace` and `prefetch.json` (paths in first-use order). Exit codes: 0 recorded; 3 recorded with
//! losses; 4 the workload never became ready; 5 it became ready by its end, but failed; 130, 143, 129 stopped by
//! SIGINT, SIGTERM, SIGHUP; 126 and 127 the command could not be executed; 1 anything else. The trace is kept in every
//! case in which the workload ran. With `--runs`, see `record_runs.rs`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::{HumanBytes, ProgressBar};
use recorder::capture::Capture;
use recorder::plan;
use recorder::report::{Report, Stability, Summary};
use recorder::resolve::Resolver;
use recorder::rootfs::{Overlay, RunDir, UnpackedLayer, forget_pages};
use recorder::session::{self, Progress, Recorded, Rules, SessionError};
use recorder::stage::Stage;
use recorder::workload::{Process, Spec, namespace::with_private_mounts};
use rustix::process::Signal;
use soci_core::digest::Digest;
use soci_core::image::{Descriptor, Image, ImageSource, Platform};
use soci_core::trace::{LayerRef, Outcome, TraceReader};
use tokio::runtime::{Handle, Runtime};

use super::engine::EngineArgs;
use super::record_container::{self, ContainerArgs};
use super::record_rootfs;
use super::record_runs;
use super::summary;
use super::unpack::unpack;
use super::workload_args::{self, PlainHttp, WorkloadArgs, limit};
use crate::cli::Global;
use crate::output::progress::Progress as Bars;
use crate::output::stream::{self, Passing};

/// Record what a workload reads from its image, or a command from a directory.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The image to run: oci:DIR[:TAG], oci-archive:FILE[:TAG], or a registry reference. Without it, CMD is a command of
    /// this machine that starts a container through containerd, and that container is recorded.
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Without an image: run CMD on this machine, as it is, and record what it reads below DIR (eBPF only).
    #[arg(long, value_name = "DIR", requires = "command",
          conflicts_with_all = ["image", "args", "user", "net", "keep", "plain_http"])]
    rootfs: Option<PathBuf>,
    #[command(flatten)]
    pub(super) container: ContainerArgs,
    #[command(flatten)]
    pub(super) workload: WorkloadArgs,
    #[command(flatten)]
    pub(super) engine: EngineArgs,
    /// Go on this long after the workload is ready (seconds, or 300ms, 1m30s, ...).
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = crate::output::duration::parse)]
    pub(super) tail: Duration,
    /// Record this many times, each time from cold, and merge what most of the runs need.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(super) runs: u32,
    /// Directory for the results.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(super) out: PathBuf,
    /// Name of the trace, without its extension; the default is the image's.
    #[arg(long, value_name = "NAME")]
    pub(super) name: Option<String>,
    /// Directory for unpacked layers, which are kept and used again.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/soci-record")]
    pub(super) state: PathBuf,
    /// Keep what the workload wrote, and say where it is.
    #[arg(long)]
    pub(super) keep: bool,
    /// A trace with losses is not an error.
    #[arg(long)]
    allow_incomplete: bool,
    #[command(flatten)]
    registry: PlainHttp,
    /// Also write a page beside the trace, as soci report does.
    #[arg(long)]
    report: bool,
    /// Write the summary as JSON to standard error.
    #[arg(long)]
    pub(super) json: bool,
}

/// Records.
pub(crate) fn run(args: &Args, global: &Global) -> Result<ExitCode> {
    args.workload.until()?; // before anything is fetched
    args.engine.choice()?;
    fs::create_dir_all(&args.out).with_context(|| format!("make {}", args.out.display()))?;
    let runtime = Runtime::new().context("start the runtime")?;
    let source = match (&args.rootfs, &args.image) {
        (Some(dir), _) => Source::Directory(record_rootfs::directory(dir)?),
        (None, Some(name)) => runtime.block_on(Source::image(args, name))?,
        (None, None) => return record_container::run(args, global),
    };
    let signals = runtime.block_on(async { workload_args::signals() })?;
    let handle = runtime.handle();
    with_private_mounts(move || match &source {
        Source::Image(image) => {
            let name = name(args, image.reference.split('@').next().unwrap_or_default());
            runs(args, &name, |run| record(args, global, image, handle, &signals, run))
        }
        Source::Directory(dir) => {
            let name = name(args, &dir.to_string_lossy());
            runs(args, &name, |run| record_rootfs::record(args, global, dir, &signals, run))
        }
    })
    .context("make private mounts (this needs root)")?
}

/// Where the files are.
enum Source {
    Image(Box<Image>),
    Directory(PathBuf),
}

impl Source {
    async fn image(args: &Args, name: &str) -> Result<Self> {
        let source = ImageSource::parse(name, &args.registry.client(name)?)?;
        Ok(Self::Image(Box::new(source.resolve(&Platform::host()).await?)))
    }
}

/// As many recordings as the user wants.
fn runs(args: &Args, name: &str, once: impl FnMut(&Run) -> Result<Result<Done, u8>>) -> Result<ExitCode> {
    if args.runs > 1 { record_runs::repeat(args, name, once) } else { alone(args, name, once) }
}

/// One recording, and no other.
fn alone(
    args: &Args,
    name: &str,
    mut once: impl FnMut(&Run) -> Result<Result<Done, u8>>,
) -> Result<ExitCode> {
    let run = Run { trace: args.out.join(format!("{name}.trace")), label: String::new() };
    let done = match once(&run)? {
        Ok(done) => done,
        Err(code) => return Ok(ExitCode::from(code)),
    };
    finish(args, &run.trace, &done.layers, None)?;
    Ok(ExitCode::from(code(args, &done.recorded)))
}

/// What is particular to one of the recordings.
pub(super) struct Run {
    /// Where its trace goes.
    pub(super) trace: PathBuf,
    /// What stands before its progress.
    pub(super) label: String,
}

/// A recording that is over.
pub(super) struct Done {
    pub(super) recorded: Recorded,
    pub(super) layers: Vec<UnpackedLayer>,
}

/// Records once; the inner error is the exit code of a command that could not be executed.
fn record(
    args: &Args,
    global: &Global,
    image: &Image,
    runtime: &Handle,
    signals: &Receiver<Signal>,
    this: &Run,
) -> Result<Result<Done, u8>> {
    let process = Process::new(&image.config, &args.workload.overrides())?;
    let layers = unpack(&args.state, image, runtime, &Bars::new(args.json))?;
    forget_pages(layers.iter().map(|layer| layer.dir.as_path()))?;
    let run = RunDir::new(&args.state)?;
    let dir = |name: &str| -> Result<PathBuf> {
        let path = run.path().join(name);
        fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(path)
    };
    let top_first: Vec<PathBuf> = layers.iter().rev().map(|layer| layer.dir.clone()).collect();
    let bottom_first: Vec<PathBuf> = layers.iter().map(|layer| layer.dir.clone()).collect();

    // Declared in the order of their building: they go in the reverse one.
    let merged = Overlay::read_only(&top_first, &dir("empty")?, &dir("merged")?)?;
    let (engine, settings) = args.engine.choice()?;
    let mut stage = Stage::new(engine, &settings, &top_first, merged.path(), &run)?;
    args.engine.tell(&mut stage);
    let mut spec =
        workload_args::spec(process, args.workload.net(), merged.path(), stage.rootfs(), run.path())?;
    spec.cgroup = stage.cgroup().map(Path::to_owned);
    let mut resolver = Resolver::new(&bottom_first).context("open the unpacked layers")?;

    let layer = |layer: &Descriptor| LayerRef { digest: layer.digest, size: layer.size };
    let what = What {
        image: image.reference.clone(),
        manifest: Some(image.manifest.digest),
        layers: image.layers().iter().map(layer).collect(),
    };
    let recorded = session(args, global, what, stage.capture(), &mut resolver, &spec, signals, this)?;
    drop(stage);
    drop(merged);
    let recorded = match recorded {
        Ok(recorded) => recorded,
        Err(code) => return Ok(Err(code)),
    };
    if args.keep {
        say!("what the workload wrote: {}", run.keep("upper")?.display());
    }
    Ok(Ok(Done { recorded, layers }))
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

/// Runs the workload under watch, and shows how far it is; the inner error is as that of [`record`].
#[expect(clippy::too_many_arguments, reason = "all that one recording is made of, from two places")]
pub(super) fn session(
    args: &Args,
    global: &Global,
    what: What,
    capture: &mut dyn Capture,
    resolver: &mut Resolver,
    spec: &Spec,
    signals: &Receiver<Signal>,
    this: &Run,
) -> Result<Result<Recorded, u8>> {
    let bar = progress_bar(&this.label, args.json);
    let options = session::Options {
        trace: this.trace.clone(),
        image: what.image,
        manifest: what.manifest,
        layers: what.layers,
        rules: Rules { until: args.workload.until()?, tail: args.tail, timeout: limit(global) },
        output: (Box::new(Passing::Out), Box::new(Passing::Err)),
        signals,
    };
    let init = workload_args::init_command()?;
    let mut show = |progress: &Progress| show(&bar, progress);
    let recorded = session::record(capture, resolver, spec, &init, options, &mut show);
    bar.finish_and_clear();
    match recorded {
        Ok(recorded) => Ok(Ok(recorded)),
        Err(SessionError::Workload(error)) if let Some(code) = workload_args::exec_code(&error) => {
            say!("error: {error}");
            Ok(Err(code))
        }
        Err(error) => Err(error.into()),
    }
}

/// Writes the list of paths and shows the summary.
pub(super) fn finish(
    args: &Args,
    trace: &Path,
    layers: &[UnpackedLayer],
    stability: Option<Stability>,
) -> Result<()> {
    let mut failed = None;
    let mut reader = TraceReader::open(trace)?;
    let accesses = reader.by_ref().map_while(|access| access.map_err(|error| failed = Some(error)).ok());
    let paths = plan::first_use(accesses);
    if let Some(error) = failed {
        return Err(error).with_context(|| format!("read {}", trace.display()));
    }
    let names = plan::all_names(&paths, reader.tail());
    let paths: Vec<String> =
        names.iter().filter_map(|path| Some(format!("/{}", std::str::from_utf8(path).ok()?))).collect();
    let list = args.out.join("prefetch.json");
    fs::write(&list, serde_json::to_vec(&paths)?).with_context(|| format!("write {}", list.display()))?;
    let content: Vec<u64> = layers.iter().map(|layer| layer.bytes).collect();
    let summary = Summary::read(trace, &content)?;
    if args.report {
        super::report::write_page(&Report::read(trace, &content)?, &trace.with_extension("html"))?;
    }
    if args.json {
        say!("{}", serde_json::to_string(&summary::Json { summary, stability })?);
    } else {
        stream::remarks(&summary::text(&summary));
        if let Some(stability) = stability {
            stream::remarks(&summary::stability(&stability));
        }
        say!("written:     {} and {}", trace.display(), list.display());
    }
    Ok(())
}

/// The exit code of a recording; says why it is not 0.
pub(super) fn code(args: &Args, recorded: &Recorded) -> u8 {
    let end = &recorded.end;
    match (end.outcome, end.ready_ns, end.exit_code) {
        (Outcome::Interrupted, ..) => {
            say!("stopped by a signal; the trace is kept");
            recorded.signal.map_or(130, |signal| 128 + signal.as_raw() as u8)
        }
        (Outcome::TimedOut, ..) => {
            say!("error: the workload was not ready in time; the trace is kept and says so");
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

/// A file name for the trace: the last part of the name of what is recorded.
pub(super) fn name(args: &Args, path: &str) -> String {
    if let Some(name) = &args.name {
        return name.clone();
    }
    let last = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let name = last.split(':').next().unwrap_or_default();
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let name: String = name.chars().map(safe).collect();
    if name.trim_matches('.').is_empty() { "recording".into() } else { name }
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
