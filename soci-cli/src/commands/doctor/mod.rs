//! `soci doctor`: what this machine has and lacks for recording and for lazy starts, and what to do about it.
//!
//! Holds no state and changes nothing: what is tried for real (a mount, eBPF programs) is taken away at once. Each check
//! is independent of the others; the exit code is 1 when any of them failed.

mod containerd_config;
mod kernel;
mod registry;
mod services;

use std::fmt::Write as _;
use std::io::stdout;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use crate::{
    error::words_of,
    global::Global,
    output::{json, stream},
    sources::RegistryFlags,
};

/// Arguments of `soci doctor`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// An image to ask its registry for: credentials, ranges, referrers.
    image: Option<String>,
    /// Configuration of the snapshotter. [default: /etc/soci-snapshotter-grpc/config.toml or /etc/soci-snapshotter/config.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Socket of the snapshotter. [default: /run/soci-snapshotter-grpc/soci-snapshotter-grpc.sock or
    /// /run/soci-snapshotter/soci-snapshotter.sock]
    #[arg(long, value_name = "SOCKET")]
    snapshotter: Option<PathBuf>,
    /// Configuration of containerd: are pulls lazy?
    #[arg(long, value_name = "FILE", default_value = "/etc/containerd/config.toml")]
    containerd_config: PathBuf,
    /// Print the findings as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    registry: RegistryFlags,
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// Usable.
    Ok,
    /// Usable, with something missing that has a substitute.
    Warning,
    /// Not usable.
    Failed,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    check: &'static str,
    state: State,
    found: String,
    /// What the user can do; empty where there is nothing to do.
    #[serde(skip_serializing_if = "str::is_empty")]
    advice: &'static str,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, state: State::Ok, found: found.into(), advice: "" }
    }

    fn warning(check: &'static str, found: impl Into<String>, advice: &'static str) -> Self {
        Self { check, state: State::Warning, found: found.into(), advice }
    }

    fn failed(check: &'static str, found: impl Into<String>, advice: &'static str) -> Self {
        Self { check, state: State::Failed, found: found.into(), advice }
    }
}

/// An error with its causes, on one line.
fn causes(error: impl std::error::Error + 'static) -> String {
    words_of(&error)
}

/// Runs the command.
pub(crate) fn run(args: &Args, global: &Global) -> Result<ExitCode> {
    let mut findings = kernel::check();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    findings.extend(services::check(&runtime, args, global));
    if let Some(image) = &args.image {
        findings.extend(runtime.block_on(registry::check(image, &args.registry)));
    }
    let text = if args.json { json::pretty(&findings)? + "\n" } else { text(&findings) };
    stream::results(&text);
    let failed = findings.iter().any(|finding| finding.state == State::Failed);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn text(findings: &[Finding]) -> String {
    let colours = stream::colours(&stdout());
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    findings.iter().fold(String::new(), |mut text, finding| {
        let (mark, colour) = match finding.state {
            State::Ok => ("ok  ", 32),
            State::Warning => ("warn", 33),
            State::Failed => ("FAIL", 31),
        };
        let mark = if colours { format!("\x1b[{colour}m{mark}\x1b[0m") } else { mark.to_owned() };
        let (check, found) = (finding.check, &finding.found);
        let _ = writeln!(text, "{mark}  {check:<width$}  {found}"); // a String takes everything
        if !finding.advice.is_empty() {
            let _ = writeln!(text, "      {:width$}  -> {}", "", finding.advice);
        }
        text
    })
}
