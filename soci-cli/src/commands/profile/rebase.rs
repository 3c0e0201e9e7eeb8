//! `soci profile rebase`: a profile of one build becomes one of another image.

use std::path::PathBuf;

use anyhow::{Context, Result};
use planner::profile::{Coverages, Fate};
use soci_core::image::ImageSource;
use tokio::runtime::Runtime;

use super::{Output, create::platform};
use crate::commands::evidence::{self, read_profile, words};
use crate::global::Global;
use crate::hint::Hinted;
use crate::output::{json, progress::Progress};
use crate::sources::RegistryFlags;

/// Apply a profile of one build to another image, whose layers are read once. Files are found again by what they contain: in their
/// place, under another path, or changed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The profile.
    #[arg(value_name = "PROFILE")]
    profile: PathBuf,
    /// The image: oci:DIR[:TAG], oci-archive:FILE[:TAG], or a registry reference.
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The platform of the image, os/arch[/variant]; the default is this machine's.
    #[arg(long, short = 'p', value_name = "PLATFORM")]
    platform: Option<String>,
    #[command(flatten)]
    registry: RegistryFlags,
    /// Fail when less than this share of what is needed before readiness is known to be right (80%).
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    min_coverage: Option<f64>,
    #[command(flatten)]
    output: Output,
    /// Print what was made as JSON.
    #[arg(long)]
    json: bool,
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse().ok();
    let share = number.filter(|number| (0.0..=100.0).contains(number));
    share.map(|percent: f64| percent / 100.0).ok_or_else(|| format!("{text:?} is not 0% to 100%"))
}

pub(crate) fn run(args: &Args, _: &Global) -> Result<()> {
    let profile = read_profile(&args.profile)?;
    if profile.files().all(|(_, file)| file.content.is_none()) {
        say!("warning: the profile does not know what its files contain; it is taken by paths alone");
        say!("hint: make it with --image, the image that was recorded");
    }
    let platform = platform(args.platform.as_deref())?;
    let runtime = Runtime::new().context("cannot start the runtime")?;
    let source = ImageSource::parse(&args.image, &args.registry.registry(&args.image)?)?;
    let image = runtime.block_on(source.resolve(&platform))?;
    let progress = Progress::new(args.json);
    let tell = |event: soci_core::index::Event<'_>| crate::commands::told::tell(event, &progress);
    let files = evidence::inventory(&image, runtime.handle(), &tell)?;
    let (rebased, coverages) = profile.rebase(evidence::source(&image), &files);
    args.output.write(&rebased)?;
    let path = args.output.path().display();
    if args.json {
        out!("{}", json::pretty(&made(&path.to_string(), &coverages))?);
    } else {
        out!("{path}: {}", words(&coverages));
    }
    match args.min_coverage {
        Some(least) if coverages.share() < least => Err(Hinted::new(
            format!(
                "only {:.1} % of what is needed before readiness is known to be right",
                coverages.share() * 100.0
            ),
            "record the workload on this image",
        )
        .into()),
        _ => Ok(()),
    }
}

/// The keys are an interface.
fn made(path: &str, coverages: &Coverages) -> serde_json::Value {
    let fate = |fate| {
        let amount = coverages.by_fate.get(&fate).copied().unwrap_or_default();
        serde_json::json!({ "files": amount.files, "bytes": amount.bytes, "must_have": amount.must_have })
    };
    serde_json::json!({
        "profile": path,
        "coverage": coverages.share(),
        "kept": fate(Fate::Kept),
        "moved": fate(Fate::Moved),
        "changed": fate(Fate::Changed),
        "gone": fate(Fate::Gone),
    })
}
