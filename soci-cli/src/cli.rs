//! The tree of commands and the flags they share. Each command's file has its own arguments; here they are listed.

use std::{
    process::ExitCode,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
};

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};

use crate::{
    commands::{self, index, pack, prefetch, profile, trace, ztoc},
    global::Global,
    help,
    output::scratch,
};

/// SOCI: record what workloads read, index images, start containers before their layers are here.
#[derive(Debug, Parser)]
#[command(
    name = "soci",
    version = env!("SOCI_VERSION"),
    disable_version_flag = true,
    after_help = help::SOCI,
    arg_required_else_help = true,
    args_override_self = true
)]
pub(crate) struct Cli {
    /// Print the version.
    #[arg(long, short = 'v', visible_short_alias = 'V', action = clap::ArgAction::Version)]
    version: Option<bool>,
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make the starts of an image fast: record, index, pack and push, in one go.
    #[command(after_help = help::OPTIMIZE)]
    Optimize(Box<commands::optimize::Args>),
    /// Record what a workload reads from its image.
    Record(commands::record_args::Args),
    /// Show what a recording has seen, as text, JSON or a page.
    #[command(after_help = help::REPORT)]
    Report(commands::report::Args),
    /// Build the SOCI index of an image, so that nodes can load its layers lazily.
    #[command(after_help = help::CREATE)]
    Create(commands::create::Args),
    /// Make a SOCI-enabled image (index version 2) of an image.
    #[command(after_help = help::CONVERT)]
    Convert(commands::convert::Args),
    /// Push the SOCI index of an image, its fine indexes and its packs to the registry.
    #[command(after_help = help::PUSH)]
    Push(commands::push::Args),
    /// Pull an image into containerd lazily, for who has neither CRI nor nerdctl.
    #[command(after_help = help::PULL)]
    Pull(commands::pull::Args),
    /// List, show and remove SOCI indexes.
    #[command(subcommand)]
    Index(index::Command),
    /// List and show zTOCs, and get files through them.
    #[command(subcommand)]
    Ztoc(ztoc::Command),
    /// List and show prefetch artifacts.
    #[command(subcommand)]
    Prefetch(prefetch::Command),
    /// Make, list, show, check and push working-set packs.
    #[command(subcommand)]
    Pack(pack::Command),
    /// Keep the local store small.
    #[command(subcommand)]
    Store(commands::store::Command),
    /// Make the records anew from what the content store holds.
    #[command(after_help = help::REBUILD)]
    RebuildDb(commands::rebuild_db::Args),
    /// Look into recordings, and exchange them with other tools.
    #[command(subcommand)]
    Trace(trace::Command),
    /// Make, show, compare and rebase profiles of workloads, and predict starts.
    #[command(subcommand)]
    Profile(profile::Command),
    /// Run a container of an image, its layers served by a private snapshotter.
    Run(commands::run::Args),
    /// Show what came of the starts on this node: times, packs, bytes that were there in time and bytes that were not.
    #[command(after_help = help::STATUS)]
    Status(commands::status::Args),
    /// Check what this machine has and lacks for recording and for lazy starts.
    #[command(after_help = help::DOCTOR)]
    Doctor(commands::doctor::Args),
    /// Print the completions of a shell.
    #[command(after_help = help::COMPLETION)]
    Completion(commands::completion::Args),
    /// Print or write the manual pages.
    #[command(after_help = help::MAN)]
    Man(commands::man::Args),
    /// Execute a program that dies with its parent.
    #[command(hide = true)]
    Tied(commands::tied::Args),
    /// Ends a workload when the recorder is killed.
    #[command(hide = true)]
    WorkloadGuard(commands::workload_guard::Args),
    /// The first process of a workload.
    #[command(hide = true)]
    WorkloadInit(commands::workload_init::Args),
}

impl Command {
    /// Runs the command.
    pub(crate) fn run(self, global: &Global) -> Result<ExitCode> {
        match self {
            Self::Optimize(args) => commands::optimize::run(&args, global),
            Self::Record(args) => commands::record::run(&args, global),
            Self::Run(args) => commands::run::run(&args, global),
            Self::Doctor(args) => with_code(global, move |global| commands::doctor::run(&args, global)),
            Self::Status(args) => within(global, move |global| commands::status::run(&args, global)),
            Self::Completion(args) => within(global, move |_| commands::completion::run(&args)),
            Self::Man(args) => within(global, move |_| commands::man::run(&args)),
            Self::Tied(args) => commands::tied::run(&args),
            Self::WorkloadGuard(args) => commands::workload_guard::run(args),
            Self::WorkloadInit(args) => Ok(commands::workload_init::run(&args)),
            Self::Report(args) => within(global, |_| commands::report::run(args)),
            Self::Create(args) => within(global, |global| commands::create::run(args, global)),
            Self::Convert(args) => within(global, |global| commands::convert::run(args, global)),
            Self::RebuildDb(args) => within(global, move |global| commands::rebuild_db::run(&args, global)),
            Self::Push(args) => within(global, |global| commands::push::run(args, global)),
            Self::Pull(args) => within(global, move |global| commands::pull::run(&args, global)),
            Self::Index(command) => within(global, |global| command.run(global)),
            Self::Ztoc(command) => within(global, |global| command.run(global)),
            Self::Prefetch(command) => within(global, |global| command.run(global)),
            Self::Pack(command) => within(global, |global| command.run(global)),
            Self::Store(command) => within(global, |global| command.run(global)),
            Self::Trace(command) => within(global, |global| command.run(global)),
            Self::Profile(command) => within(global, |global| command.run(global)),
        }
    }
}

/// Runs a command that has nothing to clean up but [`scratch`], for as long as `--timeout` allows. When the time is over the process
/// ends with whatever the command is doing; the store is whole at every moment.
fn within(global: &Global, command: impl FnOnce(&Global) -> Result<()> + Send + 'static) -> Result<ExitCode> {
    with_code(global, move |global| command(global).map(|()| ExitCode::SUCCESS))
}

/// The same for a command with an exit code of its own.
fn with_code(
    global: &Global,
    command: impl FnOnce(&Global) -> Result<ExitCode> + Send + 'static,
) -> Result<ExitCode> {
    if global.timeout.is_zero() {
        return command(global);
    }
    let (done, outcome) = mpsc::channel();
    let shared = global.clone();
    thread::spawn(move || done.send(command(&shared)));
    match outcome.recv_timeout(global.timeout) {
        Ok(outcome) => outcome,
        Err(RecvTimeoutError::Timeout) => {
            scratch::remove_all();
            bail!("deadline exceeded")
        }
        Err(RecvTimeoutError::Disconnected) => bail!("the command ended without a result"),
    }
}
