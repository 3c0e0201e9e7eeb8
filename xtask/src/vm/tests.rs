//! The product's privileged tests on other kernels: the test program as it was built here, on this machine's root, which
//! the guest sees below its own changes.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result};

use super::guest::Guest;
use super::{Args, Runner, build};
use crate::exec;
use crate::lab::{cargo, workspace};

/// Runs the tests whose names begin with one of the modules, one after the other, on every kernel.
pub(super) fn run(args: &Args) -> Result<()> {
    let binaries = build(args.release)?;
    let program = program(args.release)?;
    let runner = Runner::of(args, |run| Guest::over_host(run.join("tree")))?;
    let words: Vec<String> = args.tests.iter().map(|module| format!("{module}::")).collect();
    // Where tests make layers and mounts must not be an overlay, which the root is.
    let scratch = binaries.parent().context("programs lie in target/PROFILE")?.join("tmp");
    let script = format!(
        "mkdir -p /disk/scratch {scratch} && mount --bind /disk/scratch {scratch} && mount --bind /disk/tmp /tmp && cd {tests} && \
         exec env CARGO_MANIFEST_DIR={tests} SOCI_BIN_DIR={binaries} {program} --test-threads=1 {words}",
        scratch = scratch.display(),
        tests = workspace().join("tests").display(),
        binaries = binaries.display(),
        program = program.display(),
        words = words.join(" "),
    );
    runner.command(&script)
}

/// Builds the test program, and says where it is.
fn program(release: bool) -> Result<PathBuf> {
    let mut command = cargo(["test", "--workspace", "--locked", "--no-run", "--test", "privileged"]);
    if release {
        command.arg("--release");
    }
    command.args(["--message-format", "json-render-diagnostics"]).stderr(Stdio::inherit());
    let said = exec::read(&mut command)?;
    let path = said.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        (message["target"]["name"] == "privileged")
            .then(|| message["executable"].as_str().map(PathBuf::from))?
    });
    path.context("cargo built no test program privileged")
}
