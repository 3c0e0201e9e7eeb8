//! What one start took: `--report` and the lines for people.

use std::collections::BTreeMap;

use serde::Serialize;
use soci_core::digest::Digest;

use super::daemon::Mode;

/// One start. Times count from the moment at which the snapshotter was ready to take requests, in seconds.
#[derive(Debug, Clone, Serialize)]
pub(in crate::commands) struct Report {
    /// The image as the registry knows it.
    pub(in crate::commands) image: String,
    /// Digest of its manifest.
    pub(in crate::commands) manifest: Digest,
    /// How it was brought here; absent when a configuration file decided.
    pub(in crate::commands) mode: Option<Mode>,
    /// Layers of the image.
    pub(in crate::commands) layers: usize,
    /// Layers that were there before.
    pub(in crate::commands) layers_present: usize,
    /// Until all layers were prepared.
    pub(in crate::commands) pull_s: f64,
    /// Until the command was executed.
    pub(in crate::commands) start_s: f64,
    /// Until the first end rule came true; absent if none did.
    pub(in crate::commands) ready_s: Option<f64>,
    /// Until the workload ended or was stopped.
    pub(in crate::commands) exit_s: f64,
    /// `ready`, `exited`, `timed_out` or `interrupted`.
    pub(in crate::commands) outcome: soci_core::trace::Outcome,
    /// The workload's exit code, if it ended by itself.
    pub(in crate::commands) exit_code: Option<u8>,
    /// Bytes from the registry until ready (or the end): layers, index, manifests, those of this program included. None:
    /// not measured.
    pub(in crate::commands) bytes: Option<u64>,
    /// Requests to the registry, likewise.
    pub(in crate::commands) requests: Option<u64>,
    /// The snapshotter's counters at that moment, those with several labels added up; none when it does not show them.
    pub(in crate::commands) counters: Option<BTreeMap<String, f64>>,
    /// The snapshotter's record of the start at that moment, as `soci status --json` has it.
    pub(in crate::commands) start: Option<serde_json::Value>,
}

impl Report {
    /// Lines for people.
    pub(in crate::commands) fn text(&self) -> String {
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
