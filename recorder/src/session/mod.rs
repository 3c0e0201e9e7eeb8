//! One recording, from the start of the workload to a sealed trace; and workloads under watch in general.
//!
//! [`record`] owns the trace file and, through [`Supervisor`], the workload; when it returns, all of it is over. The
//! trace is sealed in every case in which the workload has run, also when it never became ready, failed, or the user
//! stopped it: [`Recorded`] says which.

mod arrival;
mod container;
mod container_error;
mod container_options;
mod course;
mod host_command;
mod log;
mod output;
mod recorded;
mod recording;
mod supervise;
mod watched;

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use soci_core::digest::Digest;
use soci_core::trace::{Header, LayerRef, TraceError, TraceWriter};

use crate::capture::Capture;
use crate::resolve::Resolver;
use crate::until::Rule;
use crate::workload::{InitCommand, Spec, WorkloadError};

pub use container::{RecordedContainer, Starter, record_attached, record_started};
pub use container_error::ContainerSessionError;
pub use container_options::ContainerOptions;
pub use course::{Rules, Verdict};
use log::Log;
pub use log::Progress;
pub use recorded::Recorded;
pub use supervise::{Output, Supervisor};

/// Accesses are kept back this long, so that one is never written before an event that came ahead of it.
const SETTLE: Duration = Duration::from_millis(100);
/// How long one look for accesses waits.
const TICK: Duration = Duration::from_millis(20);
/// How long a workload that handles SIGTERM may take to end.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// The same where the user waits for it: after a signal or a time-out.
const URGENT_GRACE: Duration = Duration::from_millis(1200);

/// What to record and for how long.
pub struct Options<'a> {
    /// Where the trace goes.
    pub trace: PathBuf,
    /// The image as the user named it, or `dir:PATH` for a directory.
    pub image: String,
    /// Digest of the image's manifest.
    pub manifest: Option<Digest>,
    /// Its layers, lowest first.
    pub layers: Vec<LayerRef>,
    /// When the recording is over.
    pub rules: Rules,
    /// Where the workload's output goes.
    pub output: Output,
    /// Signals that came to the recorder.
    pub signals: &'a Receiver<Signal>,
}

impl std::fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("trace", &self.trace)
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

/// Why a workload was not watched to its end.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// A port or URL rule is true before the workload has been started.
    #[error("end rule {0} is true before the start: something else on this host answers")]
    AlreadyTrue(Rule),
    /// The workload could not be run.
    #[error("run the workload")]
    Workload(#[from] WorkloadError),
    /// The trace could not be written.
    #[error("cannot write the trace")]
    Trace(#[from] TraceError),
    /// A thread could not be started.
    #[error("watch the workload")]
    Watch(#[source] io::Error),
}

/// Runs the workload on `spec.rootfs`, which the capture serves or watches, and records what it reads.
pub fn record(
    capture: &mut dyn Capture,
    resolver: &mut Resolver,
    spec: &Spec,
    init: &InitCommand,
    options: Options<'_>,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Recorded, SessionError> {
    let go = |pid| capture.follow(pid);
    let mut supervisor = Supervisor::start(spec, init, Some(options.output), &options.rules, go)?;
    let started = supervisor.started();
    let header = Header {
        image: options.image,
        manifest: options.manifest,
        layers: options.layers,
        engine: capture.engine().into(),
        argv: spec.process.args.clone(),
        started_at: wall_clock(started),
        warm: capture.warm(),
        waits: Some(capture.measures_waits()),
        partial: capture.partial().is_some(),
    };
    let log = Log::new(started, TraceWriter::create(&options.trace, &header)?);
    Ok(recording::run(log, capture, resolver, &mut supervisor, options.signals, progress)?)
}

/// A moment of the recent past as RFC 3339 UTC.
fn wall_clock(at: Instant) -> String {
    let ago = jiff::SignedDuration::try_from(at.elapsed()).unwrap_or_default();
    (jiff::Timestamp::now() - ago).to_string()
}
