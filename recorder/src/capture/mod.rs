//! Sources of accesses: who sees what the workload reads.
//!
//! A capture serves or watches the image's root file system and gives out [`RawAccess`]es in the order it saw them. It
//! knows paths, not layers: [`crate::resolve`] finds those. An access is handed out no later than the workload gets
//! the bytes, so that a capture drained after the workload's end is complete.

mod ebpf;
mod fuse_log;
mod passthrough;
mod process_names;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use soci_core::trace::{AccessKind, Outside, Process};

pub use ebpf::{
    BtfError, Counts, Ebpf, EbpfError, RING_BYTES, Reads, Scope, Settings, TRACKED_MAX, Way, probe_ebpf,
};
pub use fuse_log::FuseLog;

/// One observed use of bytes, as the engine saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawAccess {
    /// When it was asked for.
    pub at: Instant,
    /// How it was asked for.
    pub kind: AccessKind,
    /// Path in the merged root file system, without a leading slash.
    pub path: Arc<[u8]>,
    /// First byte.
    pub offset: u64,
    /// Number of bytes that were there; 0 for an opening only.
    pub len: u64,
    /// Who asked.
    pub process: Arc<Process>,
    /// How long it took to answer, if the engine measures that.
    pub wait: Option<Duration>,
}

/// A source of accesses.
pub trait Capture: std::fmt::Debug {
    /// The engine's name in the trace.
    fn engine(&self) -> &'static str;

    /// Whether pages of the image may have been in memory before the start; none when nobody knows.
    fn warm(&self) -> Option<bool>;

    /// Does it know how long a process waited?
    fn measures_waits(&self) -> bool;

    /// Why it may miss needs although it has lost nothing; none when it sees all of them.
    fn partial(&self) -> Option<String>;

    /// The next access, if one comes within `patience`.
    fn next(&mut self, patience: Duration) -> Option<RawAccess>;

    /// The recording is over: what can be seen only now is handed out next.
    fn settle(&mut self) {}

    /// Accesses that were seen but could not be handed out.
    fn dropped(&self) -> u64;

    /// The workload is this process, which has no children yet, and its descendants. Told before it runs.
    fn follow(&mut self, _pid: u32) {}

    /// Other names that the image shows of the files handed out, by the path of the accesses; as text, see
    /// [`soci_core::escape`].
    fn links(&self) -> BTreeMap<String, Vec<String>> {
        BTreeMap::new()
    }

    /// Accesses that were left out because they are of no file of the image. To be asked when the workload is over and
    /// what it wrote is still there.
    fn outside(&self) -> Outside {
        Outside::default()
    }
}

/// Why a capture could not be started.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The FUSE device could not be opened.
    #[error("cannot open /dev/fuse")]
    Device(#[source] io::Error),
    /// The file system could not be mounted.
    #[error("cannot mount the recording file system on {path}")]
    Mount {
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The root file system to be served could not be opened.
    #[error("cannot open the root file system {path}")]
    Backing {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}
