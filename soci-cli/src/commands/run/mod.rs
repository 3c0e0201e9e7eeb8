//! `soci run`: start a container of an image in a registry, through a snapshotter of its own, without containerd.
//!
//! The same door as containerd's: the daemon is asked over gRPC, its mounts are mounted, the workload runs on them.
//! The directory given with --root is kept, and makes the next start a warm one.
//! Everything happens in a mount namespace of its own, and the daemon is tied to this process: nothing stays behind.
//! The exit codes are those of `EXIT_CODES`, which `--help` shows.

mod daemon;
mod place;
mod pull;
mod report;
mod rootfs;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use recorder::rootfs::RunDir;
use recorder::session::{Output, Rules, SessionError, Supervisor, Verdict};
use recorder::workload::{Process, namespace::with_private_mounts};
use soci_core::containerd::snapshots_client;
use soci_core::containerd::types::Mount;
use soci_core::digest::Digest;
use soci_core::image::{ImageSource, Platform};
use soci_core::registry::{Reference, Registry, RegistryError};
use soci_core::trace::Outcome;
use tokio::runtime::{Handle, Runtime};

pub(super) use self::daemon::Mode;
use self::daemon::{Daemon, STOP_PATIENCE, Setup};
use self::place::Place;
use self::pull::{Snapshots, remove_leftovers};
pub(super) use self::report::Report;
use self::rootfs::Rootfs;
use super::stop::{self, Stop};
use super::workload_args::{self, WorkloadArgs, limit};
use super::workload_registry::{WorkloadRegistry, hinted};
use crate::output::place::{Overwrite, Pending, check};
use crate::output::progress::Progress;
use crate::output::stream::{self, Passing};
use crate::{global::Global, hint::Hinted, program, usage};

/// How often the workload is looked at.
const TICK: Duration = Duration::from_millis(2);
/// The daemon's program.
const SNAPSHOTTER: &str = "soci-snapshotter-grpc";

/// How long the snapshotter may take to end when the user waits for it; after that it is killed.
const URGENT_PATIENCE: Duration = Duration::from_millis(500);
/// How long a workload that was killed may take to be gone, before its file system is taken away from it.
const STUCK: Duration = Duration::from_millis(200);
/// The exit codes, for `--help`.
const EXIT_CODES: &str = "Exit codes: the workload's own; 0 when it was stopped after it became ready; 4 when it was not \
    ready in time, or ended with 0 before it was; 126, 127 the command could not be executed; 129, 130, 143 stopped by \
    SIGHUP, SIGINT, SIGTERM; 1 failed.\n\n\
    Example:\n  soci run --until log:READY registry.example/app:1";

/// Run a container of an image, its layers served by a private snapshotter.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// The image in a registry.
    #[arg(value_name = "IMAGE")]
    image: String,
    #[command(flatten)]
    workload: WorkloadArgs,
    /// Keep the temporary directory, and say where it is.
    #[arg(long)]
    keep_root: bool,
    /// How the layers come.
    #[arg(long, value_enum, default_value_t = Mode::Pack)]
    mode: Mode,
    /// Use this SOCI index, not the one that is found.
    #[arg(long, value_name = "DIGEST")]
    index_digest: Option<Digest>,
    /// Use the pack of this workload, if the image has one.
    #[arg(long = "workload", value_name = "NAME")]
    workload_name: Option<String>,
    #[command(flatten)]
    registry: WorkloadRegistry,
    /// The snapshotter's program. [default: beside this one, else on the PATH]
    #[arg(long, value_name = "FILE")]
    snapshotter_bin: Option<PathBuf>,
    /// Configuration of the snapshotter, in place of the one that --mode and the flags about the registry make.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Go on after the workload is ready, until it ends.
    #[arg(long)]
    wait: bool,
    /// Write what the start took as JSON to a file.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    #[command(flatten)]
    overwrite: Overwrite,
    /// Write what the start took as JSON to standard output; what the workload writes there goes to standard error.
    #[arg(long)]
    json: bool,
}

/// Runs.
pub(crate) fn run(args: &Args, global: &Global) -> Result<ExitCode> {
    args.workload.until()?; // before anything is fetched
    if let Some(path) = &args.report {
        check(path, args.overwrite.is_on())?;
    }
    let runtime = Runtime::new().context("cannot start the runtime")?;
    let mut stop = runtime.block_on(async { Stop::listen(global) })?;
    let done = started(args, global, &mut stop, runtime.handle()).and_then(|ended| {
        if let Some(report) = &ended.report {
            tell(args, report)?;
        }
        Ok(ExitCode::from(ended.code))
    });
    stop::outcome(runtime, done)
}

/// One start that is over.
pub(super) struct Ended {
    /// The exit code.
    pub(super) code: u8,
    /// What it took; none of a command that could not be executed.
    pub(super) report: Option<Report>,
}

/// Runs, and says nothing of what it took.
pub(super) fn started(args: &Args, global: &Global, stop: &mut Stop, runtime: &Handle) -> Result<Ended> {
    let reference: Reference = args.image.parse().with_context(|| format!("image {:?}", args.image))?;
    let registry = args.registry.flags().registry(&args.image)?;
    // Removed outside of the private mounts, where nothing is mounted on it.
    let place = Place::new(global.root.as_deref(), args.keep_root)?;
    let start = Start { args, global, reference, registry, stop, root: place.path(), runtime };
    with_private_mounts(move || start.run()).context("cannot make private mounts (this needs root)").flatten()
}

impl Args {
    /// A cold start of an image in a temporary directory, whose workload writes to standard error.
    pub(super) fn cold(
        image: &str,
        workload: WorkloadArgs,
        registry: WorkloadRegistry,
        mode: Mode,
        workload_name: Option<String>,
    ) -> Result<Self> {
        Ok(Self { workload, registry, mode, workload_name, json: true, ..usage::args(&[image])? })
    }
}

/// Writes down and says what a start took.
fn tell(args: &Args, report: &Report) -> Result<()> {
    if let Some(path) = &args.report {
        let json = serde_json::to_vec_pretty(report)?;
        let mut pending = Pending::new(path, args.overwrite.is_on())?;
        pending.put(&json)?;
        pending.finish()?;
    }
    if args.json {
        out!("{}", serde_json::to_string(report)?);
    } else if !args.workload.until.is_empty() {
        stream::remarks(&report.text());
    }
    Ok(())
}

/// All that one start needs.
struct Start<'a> {
    args: &'a Args,
    global: &'a Global,
    reference: Reference,
    registry: Registry,
    stop: &'a mut Stop,
    root: &'a Path,
    runtime: &'a Handle,
}

impl Start<'_> {
    fn run(self) -> Result<Ended> {
        let args = self.args;
        let program = snapshotter_program(args.snapshotter_bin.as_deref())?;
        let host = self.reference.resolve_registry().to_owned();
        let mut daemon = Daemon::start(&Setup {
            root: self.root,
            program: &program,
            config: args.config.as_deref(),
            mode: args.mode,
            plain_http: args.registry.plain_http.then_some(host.as_str()),
            hosts_dir: args.registry.hosts_for(self.root, &host)?.as_deref(),
            docker_config: args.registry.docker_config(self.root, &host)?.as_deref(),
            stop: &*self.stop,
        })?;
        let mut client = self.wait(snapshots_client(daemon.socket()))?;
        self.wait(remove_leftovers(&mut client))?;
        self.registry.make_ahead();
        let begin = Instant::now();
        let source = ImageSource::registry(&self.reference, &self.registry);
        let image = self.wait(source.resolve(&Platform::host())).map_err(hinted)?;
        if let Some(digest) = &args.index_digest {
            self.wait(self.find_index(digest)).map_err(hinted)?;
        }
        let process = Process::new(&image.config, &args.workload.overrides())?;
        let mut snapshots = Snapshots::new(client, &image, args.workload_name.clone())?;
        let progress = Progress::new(args.json);
        let pulled = self.wait(snapshots.pull(args.index_digest.as_ref(), &progress));
        // Its log goes with its directory.
        let pulled = pulled.map_err(|error| match daemon.last_complaint() {
            Some(said) if error.downcast_ref::<stop::Stopped>().is_none() => {
                error.context(format!("the snapshotter says: {said}"))
            }
            _ => error,
        })?;
        let pull = begin.elapsed();

        let mounts = self.wait(snapshots.container())?;
        let lived = self.live(&mut daemon, process, &mounts);
        // A start that was cut short leaves its snapshot to the next one: the daemon may not answer any more.
        let hurried = matches!(&lived, Ok(Ok(life)) if is_urgent(&life.verdict));
        let removed = if hurried { Ok(()) } else { self.runtime.block_on(snapshots.remove_container()) };
        let lived = lived?;
        removed?;
        daemon.stop(if hurried { URGENT_PATIENCE } else { STOP_PATIENCE })?;
        let Life { started, ready, verdict, traffic } = match lived {
            Ok(life) => life,
            Err(code) => return Ok(Ended { code, report: None }),
        };

        let since = |at: Instant| at.saturating_duration_since(begin).as_secs_f64();
        let report = Report {
            image: image.reference.clone(),
            manifest: image.manifest.digest,
            mode: args.config.is_none().then_some(args.mode),
            layers: image.layers().len(),
            layers_present: pulled.present,
            pull_s: pull.as_secs_f64(),
            start_s: since(started),
            ready_s: ready.map(since),
            exit_s: since(verdict.ended),
            outcome: verdict.outcome,
            exit_code: verdict.exit.map(|exit| exit.code),
            bytes: traffic.counters.as_ref().map(|_| traffic.bytes),
            requests: traffic.counters.as_ref().map(|_| traffic.requests),
            counters: traffic.counters,
            start: traffic.record,
        };
        let code = exit_code(&args.workload, &verdict, ready.is_some());
        Ok(Ended { code, report: Some(report) })
    }

    /// Waits for something that a signal or the end of the time may cut short.
    fn wait<T, E>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T>
    where
        anyhow::Error: From<E>,
    {
        self.runtime.block_on(self.stop.or(work))
    }

    /// The index that the user names must be there: without it, the layers would be pulled whole, and nobody told.
    async fn find_index(&self, digest: &Digest) -> Result<()> {
        match self.registry.repository(&self.reference).manifest(&digest.to_string()).await {
            Ok(_) => Ok(()),
            Err(RegistryError::NotFound { .. }) => {
                let hint = "soci index list --remote IMAGE shows those that the registry has";
                Err(Hinted::new(format!("{} has no index {digest}", self.args.image), hint).into())
            }
            Err(error) => Err(error).context("cannot look up the index"),
        }
    }

    /// Where the workload's output goes; none when it writes to ours itself.
    fn output(&self, searched: bool) -> Option<Output> {
        match (self.args.json, searched) {
            (true, _) => Some((Box::new(Passing::Err), Box::new(Passing::Err))),
            (false, true) => Some((Box::new(Passing::Out), Box::new(Passing::Err))),
            (false, false) => None,
        }
    }

    /// The workload's life on the snapshotter's mounts; the inner error is the exit code of a command that could not be
    /// executed.
    fn live(&self, daemon: &mut Daemon, process: Process, mounts: &[Mount]) -> Result<Result<Life, u8>> {
        let args = self.args;
        let run = RunDir::new(self.root)?;
        let rootfs = Rootfs::mount(mounts, &run.path().join("rootfs"))?;
        let net = args.workload.net();
        let spec = workload_args::spec(process, net, rootfs.path(), rootfs.path(), run.path())?;
        let until = args.workload.until()?;
        let output = self.output(!until.logs().is_empty());
        self.stop.check()?;
        let rules = Rules {
            until,
            tail: if args.wait { Duration::MAX } else { Duration::ZERO },
            timeout: limit(self.global),
        };
        let supervisor = Supervisor::start(&spec, &workload_args::init_command()?, output, &rules, |_| ());
        let mut supervisor = match supervisor {
            Err(SessionError::Workload(error)) if let Some(code) = workload_args::exec_code(&error) => {
                say!("error: {error}");
                return Ok(Err(code));
            }
            started => started?,
        };
        let started = supervisor.started();
        let mut at_ready = None;
        let mut verdict = loop {
            let verdict = supervisor.poll(self.stop.signals());
            if at_ready.is_none() && supervisor.ready().is_some() {
                at_ready = Some(self.traffic(daemon));
            }
            match verdict {
                Some(verdict) => break verdict,
                None => sleep(TICK),
            }
        };
        let ready = supervisor.ready();
        // A read that the registry keeps waiting cannot be killed: without the daemon it fails.
        let stuck = || daemon.kill();
        supervisor.finish(&mut verdict, self.stop.signals(), STUCK, stuck);
        let traffic = at_ready.unwrap_or_else(|| self.traffic(daemon));
        Ok(Ok(Life { started, ready, verdict, traffic }))
    }

    fn traffic(&self, daemon: &Daemon) -> Traffic {
        let own = self.registry.traffic();
        let counters = daemon.counters();
        let counter = |name: &str| {
            counters.as_ref().and_then(|counters| counters.get(name)).copied().unwrap_or(0.0) as u64
        };
        Traffic {
            bytes: own.bytes_received() + counter("soci_registry_bytes_total"),
            requests: own.total_requests() + counter("soci_registry_requests_total"),
            record: daemon.record(),
            counters,
        }
    }
}

/// How the workload lived.
struct Life {
    started: Instant,
    ready: Option<Instant>,
    verdict: Verdict,
    traffic: Traffic,
}

/// What had come from the registry at one moment; without the daemon's counters, by this program alone.
struct Traffic {
    bytes: u64,
    requests: u64,
    counters: Option<std::collections::BTreeMap<String, f64>>,
    record: Option<serde_json::Value>,
}

/// Does the user wait for the end, who has asked for it or given up?
fn is_urgent(verdict: &Verdict) -> bool {
    matches!(verdict.outcome, Outcome::Interrupted | Outcome::TimedOut)
}

fn exit_code(workload: &WorkloadArgs, verdict: &Verdict, ready: bool) -> u8 {
    match (verdict.outcome, verdict.exit, verdict.signal) {
        (Outcome::Interrupted, _, signal) => signal.map_or(130, stop::code),
        (Outcome::TimedOut, ..) => {
            say!("error: the workload was not ready in time");
            if let Some(hint) = workload.late_hint() {
                say!("hint: {hint}");
            }
            4
        }
        (Outcome::Exited, Some(exit), _) if exit.code == 0 && !ready => {
            say!("error: the workload ended before it was ready");
            4
        }
        (_, Some(exit), _) => exit.code,
        (_, None, _) => 0,
    }
}

/// The daemon's program: the one that was named, the one beside this program, or the one on the path.
pub(crate) fn snapshotter_program(named: Option<&Path>) -> Result<PathBuf> {
    if let Some(named) = named {
        return Ok(named.to_path_buf());
    }
    let own = program::own()?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let beside = own.parent().map(Path::to_path_buf);
    beside
        .into_iter()
        .chain(std::env::split_paths(&path))
        .map(|dir| dir.join(SNAPSHOTTER))
        .find(|file| file.is_file())
        .with_context(|| {
            format!("no {SNAPSHOTTER} beside this program or on the PATH: use --snapshotter-bin")
        })
}
