//! The product's two binaries as this checkout builds them, and how xtask calls them.
//!
//! Owns no state but paths. What is written here is what a user would type.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::exec;
use crate::lab::{cargo, release_dir};

/// Ready is the line that every workload of [`crate::images`] prints.
pub(crate) const READY: &str = "log:^READY";
/// A start that takes longer (seconds) has failed.
const LONGEST_START: &str = "600";

/// Recordings of which an index and a pack are made.
const RECORDED_RUNS: &str = "3";
/// How long recordings go on after READY: what a server does from time to time may be needed before READY when that is later.
const RECORDED_TAIL: &str = "1s";

/// Span size where the trace needs nothing. Where it does, spans hug the needed ranges (`--span-layout trace`): with
/// even spans of 4 MiB a perfect prefetch moves three quarters of the Python image, at 1 MiB still 87 MB and 19 MB of
/// zTOCs; hugging spans move 53 MB and 17 MB.
pub(crate) const SPAN_SIZE: u64 = 4 << 20;
/// Smaller layers get no zTOC: one request for all of the layer is cheaper than two for a part.
pub(crate) const MIN_LAYER_SIZE: u64 = 1 << 20;

/// How an image is brought to the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// Pull and unpack all layers, then start.
    Full,
    /// Start at once; bytes come when they are read, by zTOCs as upstream's tool makes them.
    Lazy,
    /// With the recorded prefetch artifacts.
    Prefetch,
    /// As prefetch, with the fine index in place of the zTOCs.
    Fine,
    /// As fine, with the pack of what the recorded start read.
    Pack,
    /// The second start on a root that has everything, over a link without limits.
    Warm,
}

impl Mode {
    /// As `soci run --mode` and the tables call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Lazy => "lazy",
            Self::Prefetch => "prefetch",
            Self::Fine => "fine",
            Self::Pack => "pack",
            Self::Warm => "warm",
        }
    }
}

/// Release binaries.
#[derive(Debug, Clone)]
pub(crate) struct Product {
    dir: PathBuf,
    /// Plain bytes of a fine span, when it is not the product's choice.
    pub(crate) fine_span_size: Option<u64>,
}

impl Product {
    /// Builds `soci` and `soci-snapshotter-grpc` in release mode.
    pub(crate) fn build() -> Result<Self> {
        exec::run(&mut cargo([
            "build",
            "--release",
            "--locked",
            "--package",
            "soci-cli",
            "--package",
            "snapshotter",
        ]))?;
        Ok(Self { dir: release_dir()?, fine_span_size: None })
    }

    /// Both programs, for reading them ahead of a measurement.
    pub(crate) fn programs(&self) -> [PathBuf; 2] {
        [self.soci(), self.dir.join("soci-snapshotter-grpc")]
    }

    fn soci(&self) -> PathBuf {
        self.dir.join("soci")
    }

    /// Records some runs of the image's own command into `out`, since runs differ in a few pages; unpacked layers are kept in
    /// `state`. The workload sees loopback only, so that no server of this machine answers in its place. By FUSE, on every machine, so that
    /// results can be compared: eBPF adds pages that were only mapped beside a fault (docs/recording.md has what that
    /// costs a start).
    pub(crate) fn record(&self, layout: &Path, state: &Path, out: &Path) -> Command {
        let mut command = exec::command([self.soci()]);
        command.args(["record", "--image", &layout_reference(layout), "--net", "none", "--until", READY]);
        command.args(["--engine", "fuse", "--runs", RECORDED_RUNS, "--tail", RECORDED_TAIL]);
        command.arg("--state").arg(state).arg("--out").arg(out).arg("--force"); // of an earlier call
        command
    }

    /// Makes the SOCI index of an image in the local store `store` without knowing what a start reads: spans and smallest
    /// layer are upstream's.
    pub(crate) fn create_plain(&self, store: &Path, layout: &Path) -> Command {
        let mut command = exec::command([self.soci()]);
        command.args(["create", &layout_reference(layout), "--root"]).arg(store);
        command
    }

    /// Makes the SOCI index of an image, with prefetch artifacts from `traces`, in the local store `store`, and the
    /// companions that `modes` start with.
    pub(crate) fn create(&self, store: &Path, layout: &Path, traces: &[PathBuf], modes: &[Mode]) -> Command {
        let mut command = exec::command([self.soci()]);
        command.args(["create", &layout_reference(layout), "--span-size", &SPAN_SIZE.to_string()]);
        command.args(["--min-layer-size", &MIN_LAYER_SIZE.to_string()]);
        for trace in traces {
            command.arg("--trace").arg(trace);
        }
        command.args(["--span-layout", "trace"]).arg("--root").arg(store);
        if modes.iter().any(|mode| matches!(mode, Mode::Fine | Mode::Pack)) {
            command.arg("--fine");
            command.args(self.fine_span_size.map(|size| format!("--fine-span-size={size}")));
        } else {
            command.arg("--no-fine");
        }
        command.arg(if modes.contains(&Mode::Pack) { "--pack" } else { "--no-pack" });
        command
    }

    /// The words that push an image and its SOCI index from the local store.
    pub(crate) fn push(&self, store: &Path, layout: &Path, reference: &str) -> Vec<String> {
        let (soci, image, store) = (self.soci(), layout_reference(layout), store.to_string_lossy());
        let words = [&soci.to_string_lossy(), "push", "--quiet", "--plain-http", "--existing-index", "allow"];
        [&words[..], &["--image", &image, "--root", &store, reference]]
            .concat()
            .iter()
            .map(|&w| w.to_owned())
            .collect()
    }

    /// The words that start `reference` on the private root `root`; `workload` replaces the image's command.
    pub(crate) fn run(
        &self,
        reference: &str,
        mode: Mode,
        root: &Path,
        report: &Path,
        workload: &[&str],
    ) -> Vec<String> {
        let mode = if mode == Mode::Warm { Mode::Full } else { mode };
        let (soci, root, report) = (self.soci(), root.to_string_lossy(), report.to_string_lossy());
        let mut words =
            ["timeout", "--kill-after=10", LONGEST_START, &soci.to_string_lossy(), "run", reference]
                .map(str::to_owned)
                .to_vec();
        let flags = [
            "--root",
            &root,
            "--plain-http",
            "--mode",
            mode.name(),
            "--until",
            READY,
            "--overwrite",
            "--report",
            &report,
        ];
        words.extend(flags.map(str::to_owned));
        if !workload.is_empty() {
            words.push("--".to_owned());
            words.extend(workload.iter().map(|&word| word.to_owned()));
        }
        words
    }
}

/// An OCI layout as `soci` takes it.
fn layout_reference(layout: &Path) -> String {
    format!("oci:{}", layout.display())
}
