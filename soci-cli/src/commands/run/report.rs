//! What one start took: `--report` and the lines for people.

use std::collections::BTreeMap;

use serde::Serialize;
use soci_core::digest::Digest;

use super::daemon::Mode;

/// One start. Times count from the moment at which the snapshotter was ready to take requests, in seconds.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Report {
    /// The image as the registry knows it.
    pub(super) image: String,
    /// Digest of its manifest.
    pub(super) manifest: Digest,
    /// How it was brought here; absent when a configuration file decided.
    pub(super) mode: Option<Mode>,
    /// Layers of the image.
    pub(super) layers: usize,
    /// Layers that were there before.
    pub(super) layers_present: usize,
    /// Until all layers were prepared.
    pub(super) pull_s: f64,
    /// Until the command was executed.
    pub(super) start_s: f64,
    /// Until the first end rule came true; absent if none did.
    pub(super) ready_s: Option<f64>,
    /// Until the workload ended or was stopped.
    pub(super) exit_s: f64,
    /// `ready`, `exited`, `timed_out` or `interrupted`.
    pub(super) outcome: soci_core::trace::Outcome,
    /// The workload's exit code, if it ended by itself.
    pub(super) exit_code: Option<u8>,
    /// Bytes from the registry until ready (or the end): layers, index, manifests, those of this program included. None:
    /// not measured.
    pub(super) bytes: Option<u64>,
    /// Requests to the registry, likewise.
    pub(super) requests: Option<u64>,
    /// The snapshotter's counters at that moment, those with several labels added up; none when it does not show them.
    pub(super) counters: Option<BTreeMap<String, f64>>,
    /// The snapshotter's record of the start at that moment, as `soci status --json` has it.
    pub(super) start: Option<serde_json::Value>,
}

impl Report {
    /// Lines for people.
    pub(super) fn text(&self) -> String {
        let ready = self.ready_s.map_or("never".to_owned(), |s| format!("{s:.3} s"));
        let traffic = match (self.bytes, self.requests) {
            (Some(bytes), Some(requests)) => format!("{bytes} bytes in {requests} requests"),
            _ => "traffic not measured (--config switches the status socket off or moves it)".to_owned(),
        };
        format!(
            "pulled {:.3} s ({} layers, {} present), started {:.3} s, ready {ready}, ended {:.3} s; {traffic}\n",
            self.pull_s, self.layers, self.layers_present, self.start_s, self.exit_s,
        )
    }
}
