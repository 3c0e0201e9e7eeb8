//! `cargo xtask bench record`: what recording with eBPF costs the workload and the machine.
//!
//! Owns nothing: the measurement is the bench target of the recorder crate, because it needs the engine without the
//! command line around it.

use anyhow::Result;

use crate::exec;
use crate::lab::cargo;
use crate::setup::{self, Need};

/// Cost of the eBPF recorder: the workload's CPU with and without, the tracer's CPU, memory and set-up time
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Rounds; each measures with and without
    #[arg(short, default_value_t = 7)]
    n: usize,
}

/// Runs the subcommand.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::require_root("recording with eBPF")?;
    setup::ensure(&[Need::Oracles])?;
    let rounds = args.n.to_string();
    exec::run(&mut cargo([
        "bench", "--quiet", "--locked", "-p", "recorder", "--bench", "record", "--", "-n", &rounds,
    ]))
}
