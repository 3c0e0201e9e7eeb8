//! One recording of a container that somebody else runs: what it reads, from the runtime's first step or from now on.
//!
//! [`record_started`] runs a command of the host and records the container that comes of it; [`record_attached`] takes
//! one that runs. A container is watched and not owned: it goes on after the recording, unless the user wants it stopped.
//! The command is ours, and over when the recording is.
//!
//! The container's end is that of its first process, which a descriptor of that process tells; the exit code is
//! containerd's to say.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::time::Instant;

use soci_core::trace::{Header, TraceWriter};

use super::arrival::arrival;
use super::container_error::ContainerSessionError;
use super::container_options::ContainerOptions;
use super::host_command::HostCommand;
use super::watched::{Watched, telling};
use super::{Log, Output, Progress, Recorded, Rules, recording, wall_clock};
use crate::capture::{Capture, Ebpf};
use crate::container::attach::Attached;
use crate::container::{Container, Wanted};
use crate::resolve::Resolver;
use crate::until::Condition;
use crate::workload::InitCommand;

/// A command that starts a container.
pub struct Starter<'a> {
    /// The program that becomes the command and ties it to its parent.
    pub launcher: &'a InitCommand,
    /// The command.
    pub words: &'a [OsString],
    /// Where its output goes.
    pub output: Output,
    /// Which of its containers is meant.
    pub wanted: &'a Wanted,
}

impl std::fmt::Debug for Starter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Starter").field("words", &self.words).finish_non_exhaustive()
    }
}

/// A recording that is over.
#[derive(Debug)]
pub struct RecordedContainer {
    /// How it ended.
    pub recorded: Recorded,
    /// Whose it is.
    pub container: Container,
    /// Where the trace is.
    pub trace: PathBuf,
    /// Other containers that came meanwhile, and why they are not in it.
    pub others: Vec<String>,
    /// Does the container still run?
    pub runs: bool,
}

/// Runs a command and records the container that comes of it. `capture` watches a [`crate::capture::Scope::Tree`].
pub fn record_started(
    capture: &mut Ebpf,
    starter: Starter<'_>,
    options: &ContainerOptions<'_>,
    progress: &mut dyn FnMut(&Progress),
) -> Result<RecordedContainer, ContainerSessionError> {
    check(&options.rules, true)?;
    let (tell, events) = channel();
    let patterns = options.rules.until.logs();
    let command =
        HostCommand::start(starter.launcher, starter.words, starter.output, patterns, telling(&tell));
    let mut command = command.map_err(ContainerSessionError::Command)?;
    let mut others = Vec::new();
    let container = arrival(capture, &mut command, starter.wanted, options, &mut others)?;
    capture.follow_new(container.pid);
    identify(capture, &container)?;
    let mut watched = Watched::new(container, Some(command), options, others, (tell, events));
    let started = watched.execution(capture)?;
    finish(watched, started, None, capture, options, progress)
}

/// Records a container that runs, as `attached` tells its processes. `capture` watches the scope that goes with it.
pub fn record_attached(
    capture: &mut Ebpf,
    container: Container,
    attached: &Attached,
    options: &ContainerOptions<'_>,
    progress: &mut dyn FnMut(&Progress),
) -> Result<RecordedContainer, ContainerSessionError> {
    check(&options.rules, false)?;
    identify(capture, &container)?;
    match attached {
        Attached::Cgroup { .. } => {}
        Attached::Container(pid) => capture.follow_running(&[*pid], true)?,
        Attached::Processes(pids) => capture.follow_running(pids, false)?,
    }
    let watched = Watched::new(container, None, options, Vec::new(), channel());
    // What it has mapped before is not seen again.
    finish(watched, Instant::now(), Some(true), capture, options, progress)
}

/// Records what is watched. Of a new container every need is seen, whatever is cached: then nobody says that it is `warm`.
fn finish(
    mut watched: Watched<'_>,
    started: Instant,
    warm: Option<bool>,
    capture: &mut Ebpf,
    options: &ContainerOptions<'_>,
    progress: &mut dyn FnMut(&Progress),
) -> Result<RecordedContainer, ContainerSessionError> {
    let container = watched.container().clone();
    let mut resolver = Resolver::new(&container.dirs).map_err(ContainerSessionError::Layers)?;
    let trace = (options.trace)(&container).map_err(ContainerSessionError::Place)?;
    let header = Header {
        image: container.image.clone(),
        manifest: Some(container.manifest),
        layers: container.layers.clone(),
        engine: capture.engine().into(),
        argv: container.process.args.clone(),
        started_at: wall_clock(started),
        warm,
        waits: Some(capture.measures_waits()),
        partial: capture.partial().is_some(),
    };
    let log = Log::new(started, TraceWriter::create(&trace, &header)?);
    watched.begin(started)?;
    let recorded = recording::run(log, capture, &mut resolver, &mut watched, options.signals, progress)?;
    let (others, runs) = watched.over();
    Ok(RecordedContainer { recorded, container, trace, others, runs })
}

fn identify(capture: &mut Ebpf, container: &Container) -> Result<(), ContainerSessionError> {
    let topmost_first: Vec<PathBuf> = container.dirs.iter().rev().cloned().collect();
    Ok(capture.identify(&topmost_first, &container.view(), container.upper.as_deref())?)
}

/// Refuses rules that cannot come true.
fn check(rules: &Rules, has_command: bool) -> Result<(), ContainerSessionError> {
    for rule in rules.until.rules() {
        let why = match rule.when {
            Condition::Log(_) if !has_command => {
                "the output of a container that runs already goes elsewhere; use tcp:, http: or exec:"
            }
            Condition::Notify => {
                "nothing can be put into somebody else's container; use log:, tcp:, http: or exec:"
            }
            _ => continue,
        };
        return Err(ContainerSessionError::Rule { rule: rule.clone(), why });
    }
    Ok(())
}
