//! `soci optimize`: record an image, make what its starts are served with, bring that to the registry, and look whether it is
//! there. Each step is a command of its own, too; here they follow each other.
//!
//! What must always hold: what was recorded is kept, and an error says how to go on from there; what is pushed is announced when
//! it is whole.

mod deliver;
mod learn;
mod outcome;
mod target;
mod traffic;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use soci_core::pack::Budget;
use tokio::runtime::{Handle, Runtime};

use self::outcome::Outcome;
use self::target::Target;
use super::engine::EngineArgs;
use super::globs::Globs;
use super::stop::{self, Stop};
use super::workload_args::WorkloadArgs;
use super::workload_registry::WorkloadRegistry;
use super::{pack_args, record};
use crate::help::heading::{INPUT, OUTPUT, PLANNING};
use crate::{global::Global, output::json};

/// Make the starts of an image fast: record it, make its SOCI index, fine index and pack, push them, and check that they are
/// there. Needs root, as soci record does.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The image: a name in a registry, oci:DIR[:TAG] or oci-archive:FILE[:TAG].
    image: String,
    /// Push what is made beside IMAGE, which stays as it is. Nodes need [pull_modes.soci_v1] enable = true.
    #[arg(long, help_heading = OUTPUT, conflicts_with = "to")]
    push: bool,
    /// Make a new image that has all of it, and push it: a tag of IMAGE's repository, or REGISTRY/NAME:TAG. oci:DIR writes it to a
    /// directory. Nodes need no configuration. [default: oci:DIR-soci for an image on disk; for one in a registry no image is
    /// made, and nothing is pushed]
    #[arg(long, help_heading = OUTPUT, value_name = "TAG")]
    to: Option<String>,
    #[command(flatten)]
    workload: WorkloadArgs,
    /// Record this many times, each time from cold.
    #[arg(long, help_heading = INPUT, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Go on this long after the workload is ready (60, 60s, 300ms, 1m30s).
    #[arg(long, help_heading = INPUT, value_name = "TIME", default_value = "1s", value_parser = crate::output::duration::parse)]
    tail: Duration,
    /// Record nothing: go on with this profile, of an earlier call or of another build.
    #[arg(long, help_heading = INPUT, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Name of the workload; an image can have a pack for each of several. Also the name of the recordings.
    #[arg(long, help_heading = INPUT, value_name = "WORKLOAD")]
    name: Option<String>,
    /// Go on even if accesses were lost while recording.
    #[arg(long, help_heading = INPUT)]
    allow_incomplete: bool,
    #[command(flatten)]
    engine: EngineArgs,
    /// Directory for unpacked layers, which are kept and used again. [default: /var/lib/soci-record]
    #[arg(long, help_heading = INPUT, value_name = "DIR")]
    state: Option<PathBuf>,
    #[command(flatten)]
    globs: Globs,
    /// Largest size of all spans that the prefetch artifacts name, compressed, in bytes (20MB, 16MiB) or as a share of the image
    /// as it is stored (25%): what is needed last is left out.
    #[arg(long, help_heading = PLANNING, value_name = "SIZE", value_parser = pack_args::budget)]
    prefetch_budget: Option<Budget>,
    /// The same for the pack.
    #[arg(long, help_heading = PLANNING, value_name = "SIZE", value_parser = pack_args::budget)]
    pack_budget: Option<Budget>,
    /// Start the image cold with soci run, once pulled whole and once with what was made, and compare.
    #[arg(long, help_heading = OUTPUT)]
    measure: bool,
    /// Directory for the recordings and the profile.
    #[arg(long, help_heading = OUTPUT, value_name = "DIR", default_value = ".")]
    output: PathBuf,
    /// Replace the recordings of an earlier call.
    #[arg(long, help_heading = OUTPUT)]
    force: bool,
    /// Print the outcome as JSON; what the workload writes to standard output goes to standard error.
    #[arg(long, help_heading = OUTPUT)]
    json: bool,
    #[command(flatten)]
    registry: WorkloadRegistry,
}

/// Does all of it.
pub(crate) fn run(args: &Args, global: &Global) -> Result<ExitCode> {
    args.workload.until()?; // before anything is fetched
    args.engine.choice()?;
    args.globs.paths(true)?;
    let target = Target::of(args)?;
    let runtime = Runtime::new().context("cannot start the runtime")?;
    let mut stop = runtime.block_on(async { Stop::listen(global) })?;
    let done = optimize(args, global, &target, &mut stop, runtime.handle());
    stop::outcome(runtime, done)
}

fn optimize(
    args: &Args,
    global: &Global,
    target: &Target,
    stop: &mut Stop,
    runtime: &Handle,
) -> Result<ExitCode> {
    let recording = args.recording()?;
    let name = target.source(&args.image);
    let image = record::find(&recording, global, stop, runtime, &name)?;
    let profile = match &args.profile {
        Some(profile) => profile.clone(),
        None => match learn::learn(args, &recording, global, &image, stop, runtime)? {
            Ok(profile) => profile,
            Err(code) => return Ok(ExitCode::from(code)),
        },
    };
    let rest = || -> Result<Outcome> {
        let made = deliver::deliver(args, global, target, &image, &profile, stop)?;
        let verified =
            target.pushed_to(args)?.map(|place| verify::verify(place, &made.pushed, stop)).transpose()?;
        Ok(Outcome::new(args, target, &profile, image.layers().len() as u64, made, verified))
    };
    let mut outcome = rest().inspect_err(|_| {
        if args.profile.is_none() {
            say!(
                "kept:        {0}; go on from there with the same command and --profile {0}",
                profile.display()
            );
        }
    })?;
    if args.measure {
        stop.renew(global);
        match traffic::measure(args, global, target, stop, runtime) {
            Ok(measured) => outcome.measured = Some(measured),
            Err(error) => {
                outcome.tell(args.json);
                return Err(error.context("cannot measure starts"));
            }
        }
    }
    if args.json {
        out!("{}", json::pretty(&outcome)?);
    } else {
        outcome.tell(false);
    }
    Ok(ExitCode::SUCCESS)
}
