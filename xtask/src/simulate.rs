//! `cargo xtask simulate`: spans and their engine in an order that a seed decides, for many seeds. What is simulated is in
//! snapshotter/src/simulation.
//!
//! Owns no state. Needs no privileges, no network and no time: the simulation has its own.

use anyhow::Result;

use crate::exec;
use crate::lab::cargo;

/// The test that takes its seeds from the environment.
const TEST: &str = "simulation::tests::what_must_hold_holds";

/// Run the fetch engine and the span cache in a deterministic simulation, one run for each seed
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Runs
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// Seed of the first run; the others follow. A failure names its seed
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut test =
        cargo(["test", "--workspace", "--lib", "--locked", "--features", "soci-tests/shared", "--"]);
    test.args([TEST, "--exact", "--nocapture"]);
    test.env("SOCI_SIMULATE_SEED", args.seed.to_string()).env("SOCI_SIMULATE_SEEDS", args.seeds.to_string());
    exec::run(&mut test)
}
