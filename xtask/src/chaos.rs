//! `cargo xtask chaos` and `cargo xtask soak`: the daemon dies, ends, is replaced and meets bad registries and full disks while
//! containers read; and it pulls, runs and removes for hours. What they do is in tests/programs/chaos.
//!
//! Owns no state. Each runs on EROFS images and on FUSE trees, one after the other, and fails when anything was wrong.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::exec;
use crate::lab::{cargo, workspace};
use crate::setup::{self, Need};

/// What the tests of each change run: seconds of each leg of chaos, and cycles of soak for each way of mounting.
const SHORT_SECONDS: u64 = 30;
const SHORT_CYCLES: u64 = 20;
/// The seed of those.
const SHORT_SEED: u64 = 1;
/// The ways of mounting.
const WAYS: [&str; 2] = ["erofs", "fuse"];
/// Who runs the containers: containerd and runc, or the test itself by the daemon's own requests.
const RUNTIMES: [&[&str]; 2] = [&[], &["without-containerd"]];

/// What chaos and soak need of this machine.
pub(crate) const NEEDS: [Need; 2] = [Need::Busybox, Need::Containerd];

/// Kill, end and replace the daemon, and spoil its registry, while containers read with checksums
#[derive(Debug, clap::Args)]
pub(crate) struct ChaosArgs {
    /// Minutes in all
    #[arg(long, default_value_t = 20)]
    minutes: u64,
    /// The same seed makes the same choices; what they meet depends on time
    #[arg(long, default_value_t = SHORT_SEED)]
    seed: u64,
}

/// Pull, run, read and remove, over and over, and tell what grows
#[derive(Debug, clap::Args)]
pub(crate) struct SoakArgs {
    /// Cycles for each way of mounting
    #[arg(long, default_value_t = 300)]
    cycles: u64,
}

pub(crate) fn run_chaos(args: &ChaosArgs) -> Result<()> {
    let binaries = prepare()?;
    chaos(&binaries, args.minutes.saturating_mul(60) / (WAYS.len() * RUNTIMES.len()) as u64, args.seed)
}

pub(crate) fn run_soak(args: &SoakArgs) -> Result<()> {
    let binaries = prepare()?;
    soak(&binaries, args.cycles)
}

/// What each change must hold.
pub(crate) fn short(binaries: &Path) -> Result<()> {
    chaos(binaries, SHORT_SECONDS, SHORT_SEED)?;
    soak(binaries, SHORT_CYCLES)
}

/// The daemon as a later release might be: another version, other code, another layout of layers. With the same packages and
/// features as everything else, so that one crate is compiled.
pub(crate) fn build_successor(features: &[&str]) -> Result<()> {
    let words = ["build", "--workspace", "--locked", "--bin", "soci-snapshotter-grpc-successor"];
    let mut command = cargo(words);
    command.args(features).args(["--features", "snapshotter/successor"]);
    command.args(["--config", "profile.dev.package.snapshotter.opt-level=1"]);
    exec::run(&mut command)
}

fn prepare() -> Result<std::path::PathBuf> {
    setup::require_root("chaos and soak")?;
    setup::require_fuse()?;
    setup::ensure(&NEEDS)?;
    exec::run(&mut cargo(["build", "--workspace", "--bins", "--locked", "--features", "soci-tests/shared"]))?;
    build_successor(&["--features", "soci-tests/shared"])?;
    Ok(workspace().join("target/debug"))
}

fn chaos(binaries: &Path, seconds: u64, seed: u64) -> Result<()> {
    let (seconds, seed) = (seconds.to_string(), seed.to_string());
    for way in WAYS {
        go(binaries, &["versions", way])?;
        for runtime in RUNTIMES {
            go(binaries, &[&["chaos", &seconds, &seed, way], runtime].concat())?;
        }
    }
    Ok(())
}

fn soak(binaries: &Path, cycles: u64) -> Result<()> {
    for way in WAYS {
        go(binaries, &["soak", &cycles.to_string(), way])?;
    }
    Ok(())
}

fn go(binaries: &Path, words: &[&str]) -> Result<()> {
    let program = binaries.join("chaos");
    let mut command = std::process::Command::new(&program);
    command.args(words).env("SOCI_BIN_DIR", binaries);
    let status = command.status().with_context(|| format!("run {}", program.display()))?;
    if !status.success() {
        bail!("{} ended with {status}", words.join(" "));
    }
    Ok(())
}
