//! `soci-snapshotter-grpc`: flags -> configuration -> runtime -> ready. The only place that reads flags and environment.

mod malloc;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand, ValueEnum};
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;
use snapshotter::config::{self, Config};
use snapshotter::daemon::Daemon;
use snapshotter::grpc::ImageService;
use snapshotter::hidden::helper::{self, Program};
use snapshotter::hidden::holder;
use snapshotter::keychain::{KeychainOptions, ProviderOptions, Sources};
use snapshotter::socket;
use snapshotter::takedown::take_down;
use snapshotter::telemetry::text;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

const DEFAULT_ADDRESS: &str = "/run/soci-snapshotter-grpc/soci-snapshotter-grpc.sock";

/// containerd proxy snapshotter that serves image layers before they are downloaded.
#[derive(Debug, Parser)]
#[command(name = "soci-snapshotter-grpc", version = env!("SOCI_VERSION"), args_conflicts_with_subcommands = false)]
struct Cli {
    /// Unix socket to listen on: a path, unix://PATH, or fd:// for a socket passed by systemd.
    #[arg(long, env = "SOCI_SNAPSHOTTER_ADDRESS", default_value = DEFAULT_ADDRESS)]
    address: String,
    /// Configuration file. [default: /etc/soci-snapshotter-grpc/config.toml or /etc/soci-snapshotter/config.toml]
    #[arg(long, env = "SOCI_SNAPSHOTTER_CONFIG", global = true)]
    config: Option<PathBuf>,
    /// How much is logged.
    #[arg(long, env = "SOCI_SNAPSHOTTER_LOG_LEVEL", value_enum, default_value_t = LogLevel::Info)]
    log_level: LogLevel,
    /// Directory for everything that is kept.
    #[arg(long, env = "SOCI_SNAPSHOTTER_ROOT", default_value = "/var/lib/soci-snapshotter-grpc/")]
    root: PathBuf,
    /// Whether mounts outlive the process, in place of what the configuration says.
    #[arg(long, env = "SOCI_SNAPSHOTTER_KEEP_MOUNTS", value_name = "true|false")]
    keep_mounts: Option<bool>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show configuration.
    #[command(subcommand)]
    Config(Show),
    /// Print the page of metrics, docs/metrics.md.
    #[command(hide = true)]
    Metrics,
    /// Take down all mounts that a daemon has left, and the process that keeps them. The daemon must be stopped.
    Unmount {
        /// Also if containers use layers. They get errors then.
        #[arg(long)]
        force: bool,
    },
    /// Keep the connection of the mounts while no daemon runs. The daemon starts this by itself.
    #[command(hide = true)]
    Hold {
        /// Where daemons come.
        #[arg(long)]
        socket: PathBuf,
        /// How many seconds readers wait for a daemon before they get errors.
        #[arg(long)]
        abort_after: u64,
    },
    /// Work on mounts for a daemon. The daemon starts this by itself.
    #[command(hide = true)]
    Assist,
}

#[derive(Debug, Clone, Subcommand)]
enum Show {
    /// The effective configuration, after defaults.
    Dump,
    /// The defaults.
    Default,
    /// Check a file: errors, keys that are not known, and keys that have no meaning here.
    ///
    /// Exits with 1 if the file cannot be used or has keys that are not known.
    ///
    /// Example: soci-snapshotter-grpc config check /etc/soci-snapshotter-grpc/config.toml
    Check {
        /// The file. [default: as --config]
        file: Option<PathBuf>,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogLevel {
    Trace,
    Debug,
    Info,
    Warn,
    #[value(aliases = ["fatal", "panic"])]
    Error,
}

pub(crate) fn main() -> ExitCode {
    soci_core::plugins::keep_out();
    let cli = Cli::parse();
    let done = match &cli.command {
        None => return serve_until_told(cli),
        Some(Command::Config(Show::Check { file })) => {
            check_config(file.as_deref().or(cli.config.as_deref()))
        }
        Some(Command::Config(show)) => print_config(show, cli.config.as_deref()),
        Some(Command::Metrics) => {
            print!("{}", text::markdown());
            Ok(())
        }
        Some(Command::Unmount { force }) => unmount(&cli.root, *force),
        Some(Command::Hold { socket, abort_after }) => hold(socket, *abort_after, cli.log_level),
        Some(Command::Assist) => {
            helper::serve();
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("soci-snapshotter-grpc: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Takes down what a daemon has left.
fn unmount(root: &Path, force: bool) -> anyhow::Result<()> {
    let mounts = take_down(root, force)?;
    println!("{mounts} mounts taken down below {}", root.display());
    Ok(())
}

/// Keeps descriptors until nobody wants them any more.
fn hold(socket: &Path, abort_after: u64, level: LogLevel) -> anyhow::Result<()> {
    start_log(level);
    let abort_after = Duration::from_secs(abort_after);
    let options = holder::Options { socket: socket.to_owned(), abort_after, without_resend: false };
    // The daemon waits for a line, and then reads no more.
    Ok(holder::run(&options, || println!("ready"))?)
}

fn serve_until_told(cli: Cli) -> ExitCode {
    malloc::tune();
    // Whoever starts us may have another one: nothing that we make may be written by others.
    rustix::process::umask(Mode::from_raw_mode(0o022));
    start_log(cli.log_level);
    raise_descriptor_limit();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(error = format!("{error:#}"), "soci-snapshotter-grpc cannot go on");
            ExitCode::FAILURE
        }
    }
}

fn print_config(show: &Show, path: Option<&Path>) -> anyhow::Result<()> {
    let config = match show {
        Show::Default => Config::default(),
        Show::Dump | Show::Check { .. } => config::load(path)?.config,
    };
    print!("{}", config.to_toml()?);
    Ok(())
}

/// Says what there is to say about a file.
fn check_config(path: Option<&Path>) -> anyhow::Result<()> {
    let loaded = config::load(path)?;
    match &loaded.path {
        Some(path) => println!("{}: can be used", path.display()),
        None => println!("no configuration file: the defaults are in force"),
    }
    if !loaded.unused_keys.is_empty() {
        println!("these keys have no meaning here:");
    }
    let width = loaded.unused_keys.iter().map(|unused| unused.key.len()).max().unwrap_or(0);
    for unused in &loaded.unused_keys {
        println!("  {:width$}  {}", unused.key, unused.reason);
    }
    if loaded.unknown_keys.is_empty() {
        return Ok(());
    }
    bail!("these keys are not known and have no effect: {}", loaded.unknown_keys.join(", "))
}

/// JSON lines on stderr. Libraries only speak up when something is wrong.
fn start_log(level: LogLevel) {
    let level = match level {
        LogLevel::Trace => "trace",
        LogLevel::Debug => "debug",
        LogLevel::Info => "info",
        LogLevel::Warn => "warn",
        LogLevel::Error => "error",
    };
    let ours =
        ["snapshotter", "soci_core", "soci_snapshotter_grpc"].map(|target| format!(",{target}={level}"));
    let filter = EnvFilter::new(format!("error{}", ours.concat()));
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

/// Allows as many descriptors as the system lets us have: mounted layers and connections need some each, and the usual limit
/// of 1024 is for programs that use select(2).
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(%error, "the limit of open files cannot be raised");
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let mut loaded = config::load(cli.config.as_deref())?;
    if let Some(keep) = cli.keep_mounts {
        loaded.config.restart.keep_mounts = keep;
    }
    for key in &loaded.unknown_keys {
        warn!(key, "configuration key is not known and has no effect");
    }
    if !loaded.unused_keys.is_empty() {
        let keys = loaded.unused_keys.len();
        info!(
            keys,
            "some configuration keys have no meaning here: soci-snapshotter-grpc config check lists them"
        );
    }
    rustls::crypto::ring::default_provider().install_default().ok();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    let result = runtime.block_on(serve(&cli, &loaded.config));
    // Reads of files whose bytes never came may still block a thread.
    runtime.shutdown_timeout(Duration::from_secs(2));
    result
}

async fn serve(cli: &Cli, config: &Config) -> anyhow::Result<()> {
    // Taken first: a signal during the start ends the process as cleanly as a later one.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let listener = listen(&cli.address).await?;
    let sources = Sources::new(keychain_options(config));
    let daemon = tokio::select! {
        started = Daemon::start(config, &cli.root, Arc::clone(&sources.keychain), program(cli.log_level)) => started?,
        _ = interrupt.recv() => return Ok(()),
        _ = terminate.recv() => return Ok(()),
    };
    let images = sources.cri.map(|credentials| {
        let socket = config.cri_keychain.socket();
        info!(socket = %socket.display(), "calls to the image service of CRI are passed on");
        ImageService::new(&socket, credentials)
    });
    notify(&[NotifyState::Ready]);
    info!(address = cli.address, "soci-snapshotter-grpc successfully started");
    let served = daemon.serve(listener, images, async {
        let signal = tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
        };
        info!(signal, "stopping");
        notify(&[NotifyState::Stopping]);
    });
    let served = served.await;
    daemon.close().await;
    Ok(served?)
}

/// Where credentials come from, as the configuration and the environment say.
fn keychain_options(config: &Config) -> KeychainOptions {
    let home = std::env::home_dir().unwrap_or_default();
    let named = |name| std::env::var_os(name).map(PathBuf::from);
    let docker = named("DOCKER_CONFIG").unwrap_or_else(|| home.join(".docker"));
    let (secrets, plugins) = (&config.kubeconfig_keychain, &config.credential_providers);
    let kubeconfig = match secrets.kubeconfig_path.as_str() {
        "" => named("KUBECONFIG").unwrap_or_else(|| home.join(".kube/config")),
        path => path.into(),
    };
    KeychainOptions {
        docker: docker.join("config.json"),
        cri: config.cri_keychain.enable_keychain,
        providers: (!plugins.config_path.is_empty()).then(|| ProviderOptions {
            config: plugins.config_path.clone().into(),
            programs: plugins.bin_dir.clone().into(),
        }),
        kubeconfig: secrets.enable_keychain.then_some(kubeconfig),
    }
}

/// This program, even if its file was replaced, as the processes that help it are to be run.
fn program(level: LogLevel) -> Program {
    let level = level.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    let words = ["--log-level".into(), level.into()].to_vec();
    Program { path: "/proc/self/exe".into(), words, name: "soci-snapshotter-grpc".into() }
}

async fn listen(address: &str) -> anyhow::Result<UnixListener> {
    if address.starts_with("fd://") {
        let mut passed = listenfd::ListenFd::from_env();
        match passed.len() {
            0 => return Ok(socket::bind(DEFAULT_ADDRESS.as_ref()).await?),
            1 => {}
            _ => bail!("soci only supports a single systemd socket on activation"),
        }
        let listener = passed.take_unix_listener(0)?.context("the passed socket is gone")?;
        listener.set_nonblocking(true)?;
        return Ok(UnixListener::from_std(listener)?);
    }
    let path = address.strip_prefix("unix://").unwrap_or(address);
    if path.contains("://") {
        bail!("unknown protocol for address {address}");
    }
    Ok(socket::bind(path.as_ref()).await?)
}

/// Tells systemd, if it started us.
fn notify(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "systemd cannot be told");
    }
}
