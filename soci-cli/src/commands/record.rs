//! `soci record`: run a workload of an image and write down what it reads. With `--rootfs`, see `record_rootfs.rs`;
//! containers that somebody else starts are in `record_container.rs`.
//!
//! Outputs `<name>.trace` and `<name>.prefetch.json` (paths in first-use order). The exit codes are those of `EXIT_CODES`,
//! which `--help` shows. With `--runs`, see `record_runs.rs`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::{HumanBytes, ProgressBar};
use recorder::capture::Capture;
use recorder::report::{Report, Stability, Summary};
use recorder::resolve::Resolver;
use recorder::rootfs::{Overlay, RunDir, UnpackedLayer, forget_pages};
use recorder::session::{self, Output, Progress, Recorded, Rules, SessionError};
use recorder::stage::Stage;
use recorder::workload::{Process, Spec, namespace::with_private_mounts};
use soci_core::digest::Digest;
use soci_core::image::{Descriptor, Image, Platform};
use soci_core::trace::{LayerRef, Outcome};
use tokio::runtime::{Handle, Runtime};

use super::engine::EngineArgs;
use super::record_container::{self, ContainerArgs};
use super::results::Results;
use super::stop::{self, Stop};
use super::unpack::unpack;
use super::workload_args::{self, WorkloadArgs, limit};
use super::workload_registry::{WorkloadRegistry, hinted};
use super::{record_prune, record_rootfs, record_runs, summary};
use crate::output::progress::Progress as Bars;
use crate::output::stream::{self, Passing};
use crate::{cli::Global, sources};

/// Where unpacked layers are when nobody says otherwise.
const STATE: &str = "/var/lib/soci-record";
/// The exit codes, for `--help`.
const EXIT_CODES: &str = "Exit codes: 0 recorded; 1 failed; 3 recorded, but accesses were lost; 4 the workload was not \
    ready in time, or ended before it was; 5 the workload failed after it was ready; 126, 127 the command could not be \
    executed; 129, 130, 143 stopped by SIGHUP, SIGINT, SIGTERM. The trace is kept whenever the workload ran.\n\n\
    Examples:\n  soci record --image registry.example/app:1 --until log:READY+1s\n  \
    soci record --rootfs /srv/app --until exit -- /srv/app/bin/start\n  \
    soci record --until tcp:80 -- nerdctl run --rm app:1\n  soci record --attach web --until 60s";

/// Record what a workload reads from its image, or a command from a directory.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// The image to run: oci:DIR[:TAG], oci-archive:FILE[:TAG], or a name, which is containerd's if containerd has it
    /// (containerd://NAME: must have it) and else a registry's (docker://NAME: at once). Without it, CMD is a command of
    /// this machine that starts a container through containerd, and that container is recorded.
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Without an image: run CMD on this machine, as it is, and record what it reads below DIR (eBPF only).
    #[arg(long, value_name = "DIR", requires = "command", conflicts_with_all = ["image", "args", "user", "net", "keep"])]
    rootfs: Option<PathBuf>,
    #[command(flatten)]
    pub(super) container: ContainerArgs,
    #[command(flatten)]
    pub(super) workload: WorkloadArgs,
    #[command(flatten)]
    pub(super) engine: EngineArgs,
    /// Go on this long after the workload is ready (60, 60s, 300ms, 1m30s).
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = crate::output::duration::parse)]
    pub(super) tail: Duration,
    /// Record this many times, each time from cold, and merge what most of the runs need.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(super) runs: u32,
    /// Directory for the results.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(super) out: PathBuf,
    /// Name of the results, without extension. [default: the image's, with a number when that is taken]
    #[arg(long, value_name = "NAME")]
    pub(super) name: Option<String>,
    /// Replace the results of an earlier recording.
    #[arg(long, visible_alias = "overwrite")]
    pub(super) force: bool,
    /// Directory for unpacked layers, which are kept and used again. [default: /var/lib/soci-record]
    #[arg(long, value_name = "DIR")]
    pub(super) state: Option<PathBuf>,
    /// Record nothing: remove the unpacked layers of --state that no recording uses.
    #[arg(long, exclusive = false,
          conflicts_with_all = ["image", "rootfs", "attach", "command", "runs", "out", "name", "keep", "report"])]
    prune: bool,
    /// Keep what the workload wrote, and say where it is.
    #[arg(long)]
    pub(super) keep: bool,
    /// Exit with 0 even if accesses were lost.
    #[arg(long)]
    allow_incomplete: bool,
    /// Also write a page beside the trace, as soci report does.
    #[arg(long)]
    pub(super) report: bool,
    /// Write the summary as JSON to standard output; what the workload writes there goes to standard error.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) registry: WorkloadRegistry,
}

impl Args {
    /// Where unpacked layers are.
    pub(super) fn state(&self) -> &Path {
        self.state.as_deref().unwrap_or(Path::new(STATE))
    }

    /// Where the workload's standard output and error go.
    pub(super) fn output(&self) -> Output {
        (Box::new(if self.json { Passing::Err } else { Passing::Out }), Box::new(Passing::Err))
    }
}

/// Records.
pub(crate) fn run(args: &Args, global: &Global) -> Result<ExitCode> {
    if args.prune {
        return record_prune::run(args.state(), args.json);
    }
    args.workload.until()?; // before anything is fetched
    args.engine.choice()?;
    fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    let runtime = Runtime::new().context("cannot start the runtime")?;
    let stop = runtime.block_on(async { Stop::listen(global) })?;
    let done = started(args, global, stop, runtime.handle());
    stop::outcome(runtime, done)
}

/// Records, until it is stopped.
fn started(args: &Args, global: &Global, stop: Stop, runtime: &Handle) -> Result<ExitCode> {
    let source = match (&args.rootfs, &args.image) {
        (Some(dir), _) => Source::Directory(record_rootfs::directory(args, dir)?),
        (None, Some(name)) => Source::image(args, global, &stop, runtime, name)?,
        (None, None) => return record_container::run(args, global, &stop, runtime),
    };
    with_private_mounts(move || match &source {
        Source::Image(image) => {
            let results = Results::choose(args, image.reference.split('@').next().unwrap_or_default())?;
            runs(args, &results, |run| record(args, global, image, runtime, &stop, run))
        }
        Source::Directory(dir) => {
            let results = Results::choose(args, &dir.to_string_lossy())?;
            runs(args, &results, |run| record_rootfs::record(args, global, dir, &stop, run))
        }
    })
    .context("cannot make private mounts (this needs root)")?
}

/// Where the files are.
enum Source {
    Image(Box<Image>),
    Directory(PathBuf),
}

impl Source {
    fn image(args: &Args, global: &Global, stop: &Stop, runtime: &Handle, name: &str) -> Result<Self> {
        // Connected outside of the runtime, as its owner wants it.
        let containerd = sources::containerd_for(name, global)?;
        let flags = args.registry.flags();
        let image = runtime.block_on(stop.or(async {
            let source = sources::find_with(name, containerd.as_ref(), &flags).await?;
            Ok::<_, anyhow::Error>(source.resolve(&Platform::host()).await?)
        }));
        Ok(Self::Image(Box::new(image.map_err(hinted)?)))
    }
}

/// As many recordings as the user wants.
fn runs(
    args: &Args,
    results: &Results,
    once: impl FnMut(&Run) -> Result<Result<Done, u8>>,
) -> Result<ExitCode> {
    if args.runs > 1 { record_runs::repeat(args, results, once) } else { alone(args, results, once) }
}

/// One recording, and no other.
fn alone(
    args: &Args,
    results: &Results,
    mut once: impl FnMut(&Run) -> Result<Result<Done, u8>>,
) -> Result<ExitCode> {
    let run = Run { trace: results.trace(), label: String::new() };
    let done = match once(&run)? {
        Ok(done) => done,
        Err(code) => return Ok(ExitCode::from(code)),
    };
    finish(args, results, &done.layers, None)?;
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
    stop: &Stop,
    this: &Run,
) -> Result<Result<Done, u8>> {
    let process = Process::new(&image.config, &args.workload.overrides())?;
    let layers = unpack(args.state(), image, runtime, stop, &Bars::new(args.json))?;
    forget_pages(layers.iter().map(|layer| layer.dir.as_path()))?;
    let run = RunDir::new(args.state())?;
    let dir = |name: &str| -> Result<PathBuf> {
        let path = run.path().join(name);
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
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
    let mut resolver = Resolver::new(&bottom_first).context("cannot open the unpacked layers")?;

    let layer = |layer: &Descriptor| LayerRef { digest: layer.digest, size: layer.size };
    let what = What {
        image: image.reference.clone(),
        manifest: Some(image.manifest.digest),
        layers: image.layers().iter().map(layer).collect(),
    };
    let recorded = session(args, global, what, stage.capture(), &mut resolver, &spec, stop, this)?;
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
    stop: &Stop,
    this: &Run,
) -> Result<Result<Recorded, u8>> {
    stop.check()?;
    let bar = progress_bar(&this.label, args.json);
    let options = session::Options {
        trace: this.trace.clone(),
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
