//! `cargo xtask bench plan`: what it costs to plan for a large image, and to apply a profile to its next build.
//!
//! Owns nothing: the measurement is the bench target of the planner crate.

use anyhow::Result;

use crate::exec;
use crate::lab::cargo;

/// Plan and rebase for an image of 100 000 files and as many needed ranges: seconds and peak memory
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Runs the subcommand.
pub(crate) fn run(_: &Args) -> Result<()> {
    exec::run(&mut cargo(["bench", "--quiet", "--locked", "-p", "planner", "--bench", "plan"]))
}
