//! `soci run`: start a container of an image in a registry, through a snapshotter of its own, without containerd.
//!
//! The same door as containerd's: the daemon is asked over gRPC, its mounts are mounted, the workload runs on them.
//! The directory given with --root is kept, and makes the next start a warm one.
//! Everything happens in a mount namespace of its own, and the daemon is tied to this process: nothing stays behind.
//! Exit codes: the workload's own; 0 when it was stopped after it became ready; 4 when it never became ready in time
//! or ended well before; 130, 143, 129 stopped by SIGINT, SIGTERM, SIGHUP; 126, 127 the command could not be executed.

mod daemon;
mod pull;
mod report;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::Receiver;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use recorder::rootfs::{Overlay, RunDir};
use recorder::session::{Rules, SessionError, Supervisor, Verdict};
use recorder::workload::{Process, namespace::with_private_mounts};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, mount_bind_recursive, unmount};
use rustix::process::Signal;
use soci_core::containerd::snapshots_client;
use soci_core::containerd::types::Mount;
use soci_core::digest::Digest;
use soci_core::image::{ImageSource, Platform};
use soci_core::registry::{Reference, Registry};
use soci_core::trace::Outcome;
use tokio::runtime::{Handle, Runtime};

use self::daemon::{Daemon, Mode, Setup};
use self::pull::{Snapshots, remove_leftovers};
use self::report::Report;
use super::workload_args::{self, PlainHttp, WorkloadArgs, limit};
use crate::{
    cli::Global,
    output::{
        progress::Progress,
        stream::{self, Passing},
    },
};

/// How often the workload is looked at.
const TICK: Duration = Duration::from_millis(2);
/// The daemon's program.
const SNAPSHOTTER: &str = "soci-snapshotter-grpc";

/// Run a container of an image, its layers served by a private snapshotter.
#[derive(Debug, clap::Args)]
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
    #[command(flatten)]
    registry: PlainHttp,
    /// The snapshotter's program. [default: beside this one, else on the PATH]
    #[arg(long, value_name = "FILE")]
    snapshotter_bin: Option<PathBuf>,
    /// Configuration of the snapshotter, in place of the one that --mode makes.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Go on after the workload is ready, until it ends.
    #[arg(long)]
    wait: bool,
    /// Write what the start took as JSON.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Show what the start took as JSON on standard error.
    #[arg(long)]
    json: bool,
}

/// Runs.
pub(crate) fn run(args: &Args, global: &Global) -> Result<ExitCode> {
    args.workload.until()?; // before anything is fetched
    let reference: Reference = args.image.parse().with_context(|| format!("image {:?}", args.image))?;
    let runtime = Runtime::new().context("start the runtime")?;
    let registry = args.registry.client(&args.image)?;
    let signals = runtime.block_on(async { workload_args::signals() })?;
    // Removed outside of the private mounts, where nothing is mounted on it.
    let (root, _temporary) = root(args, global)?;
    let start = Start { args, global, reference, registry, signals, root: &root, runtime: runtime.handle() };
    with_private_mounts(|| start.run()).context("make private mounts (this needs root)")?
}

fn root(args: &Args, global: &Global) -> Result<(PathBuf, Option<tempfile::TempDir>)> {
    if let Some(root) = &global.root {
        fs::create_dir_all(root).with_context(|| format!("make {}", root.display()))?;
        return Ok((root.canonicalize().with_context(|| format!("find {}", root.display()))?, None));
    }
    let dir = tempfile::Builder::new().prefix("soci-run-").tempdir().context("make a temporary directory")?;
    if args.keep_root {
        let root = dir.keep();
        say!("root: {}", root.display());
        return Ok((root, None));
    }
    Ok((dir.path().to_path_buf(), Some(dir)))
}

/// Takes the directory for this process; two snapshotters on one directory would break each other.
fn occupy(root: &Path) -> Result<fs::File> {
    let path = root.join("lock");
    let lock = fs::File::options().create(true).append(true).open(&path);
    let lock = lock.with_context(|| format!("open {}", path.display()))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => bail!("{} is in use by another soci run", root.display()),
        locked => locked.context("lock the directory").map(|()| lock),
    }
}

/// All that one start needs.
struct Start<'a> {
    args: &'a Args,
    global: &'a Global,
    reference: Reference,
    registry: Registry,
    signals: Receiver<Signal>,
    root: &'a Path,
    runtime: &'a Handle,
}

impl Start<'_> {
    fn run(self) -> Result<ExitCode> {
        let args = self.args;
        let program = snapshotter_program(args.snapshotter_bin.as_deref())?;
        let _alone = occupy(self.root)?;
        let host = self.reference.resolve_registry().to_owned();
        let daemon = Daemon::start(&Setup {
            root: self.root,
            program: &program,
            config: args.config.as_deref(),
            mode: args.mode,
            plain_http: args.registry.plain_http.then_some(host.as_str()),
        })?;
        let mut client = self.runtime.block_on(snapshots_client(daemon.socket()))?;
        self.runtime.block_on(remove_leftovers(&mut client))?;
        self.registry.make_ahead();
        let begin = Instant::now();
        let source = ImageSource::registry(&self.reference, &self.registry);
        let image = self.runtime.block_on(source.resolve(&Platform::host()))?;
        let process = Process::new(&image.config, &args.workload.overrides())?;
        let mut snapshots = Snapshots::new(client, &image)?;
        let pulled =
            self.runtime.block_on(snapshots.pull(args.index_digest.as_ref(), &Progress::new(args.json)))?;
        let pull = begin.elapsed();

        let mounts = self.runtime.block_on(snapshots.container())?;
        let lived = self.live(&daemon, process, &mounts);
        let removed = self.runtime.block_on(snapshots.remove_container());
        let lived = lived?;
        removed?;
        daemon.stop()?;
        let Life { started, ready, verdict, traffic } = match lived {
            Ok(life) => life,
            Err(code) => return Ok(ExitCode::from(code)),
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
            bytes: traffic.bytes,
            requests: traffic.requests,
            counters: traffic.counters,
        };
        if let Some(path) = &args.report {
            let json = serde_json::to_vec_pretty(&report)?;
            fs::write(path, json).with_context(|| format!("write {}", path.display()))?;
        }
        if args.json {
            say!("{}", serde_json::to_string(&report)?);
        } else if !args.workload.until.is_empty() {
            stream::remarks(&report.text());
        }
        Ok(ExitCode::from(exit_code(&verdict, ready.is_some())))
    }

    /// The workload's life on the snapshotter's mounts; the inner error is the exit code of a command that could not be
    /// executed.
    fn live(&self, daemon: &Daemon, process: Process, mounts: &[Mount]) -> Result<Result<Life, u8>> {
        let args = self.args;
        let run = RunDir::new(self.root)?;
        let rootfs = Rootfs::mount(mounts, &run.path().join("rootfs"))?;
        let net = args.workload.net();
        let spec = workload_args::spec(process, net, rootfs.path(), rootfs.path(), run.path())?;
        let until = args.workload.until()?;
        let output = (!until.logs().is_empty())
            .then(|| (Box::new(Passing::Out) as Box<_>, Box::new(Passing::Err) as Box<_>));
        let rules = Rules {
            until,
            tail: if args.wait { Duration::MAX } else { Duration::ZERO },
            timeout: limit(self.global),
        };
        let supervisor = Supervisor::start(&spec, &workload_args::init_command()?, output, rules, |_| ());
        let mut supervisor = match supervisor {
            Err(SessionError::Workload(error)) if let Some(code) = workload_args::exec_code(&error) => {
                say!("error: {error}");
                return Ok(Err(code));
            }
            started => started?,
        };
        let started = supervisor.started();
        let mut at_ready = None;
        let verdict = loop {
            let verdict = supervisor.poll(&self.signals);
            if at_ready.is_none() && supervisor.ready().is_some() {
                at_ready = Some(self.traffic(daemon));
            }
            match verdict {
                Some(verdict) => break verdict,
                None => sleep(TICK),
            }
        };
        let ready = supervisor.ready();
        supervisor.finish();
        let traffic = at_ready.unwrap_or_else(|| self.traffic(daemon));
        Ok(Ok(Life { started, ready, verdict, traffic }))
    }

    fn traffic(&self, daemon: &Daemon) -> Traffic {
        let own = self.registry.traffic();
        let counters = daemon.counters();
        let counter = |name: &str| counters.get(name).copied().unwrap_or(0.0) as u64;
        Traffic {
            bytes: own.bytes_received() + counter("soci_registry_bytes_total"),
            requests: own.total_requests() + counter("soci_registry_requests_total"),
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

/// What had come from the registry at one moment.
struct Traffic {
    bytes: u64,
    requests: u64,
    counters: std::collections::BTreeMap<String, f64>,
}

fn exit_code(verdict: &Verdict, ready: bool) -> u8 {
    match (verdict.outcome, verdict.exit, verdict.signal) {
        (Outcome::Interrupted, _, signal) => 128 + signal.map_or(2, |signal| signal.as_raw() as u8),
        (Outcome::TimedOut, ..) => {
            say!("error: the workload was not ready in time");
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
    let own = std::env::current_exe().context("find the running program")?;
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

/// The container's root file system, as the snapshotter's mounts describe it.
#[derive(Debug)]
enum Rootfs {
    Overlay(Overlay),
    Bind(PathBuf),
}

impl Rootfs {
    fn mount(mounts: &[Mount], target: &Path) -> Result<Self> {
        let [mount] = mounts else { bail!("the snapshotter gave {} mounts, expected one", mounts.len()) };
        match mount.r#type.as_str() {
            "overlay" => Ok(Self::Overlay(Overlay::from_options(&mount.options, target)?)),
            "bind" => {
                fs::create_dir_all(target).with_context(|| format!("make {}", target.display()))?;
                mount_bind_recursive(mount.source.as_str(), target).context("bind the snapshot")?;
                Ok(Self::Bind(target.to_path_buf()))
            }
            other => bail!("the snapshotter gave a mount of type {other:?}"),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Overlay(overlay) => overlay.path(),
            Self::Bind(path) => path,
        }
    }
}

impl Drop for Rootfs {
    fn drop(&mut self) {
        if let Self::Bind(path) = self
            && let Err(errno) = unmount(path.as_path(), UnmountFlags::DETACH)
        {
            tracing::warn!(path = %path.display(), %errno, "cannot unmount the snapshot");
        }
    }
}
