//! `soci profile create`: traces and profiles become one profile.

use anyhow::{Context, Result};
use soci_core::image::{ImageSource, Platform};
use tokio::runtime::Runtime;

use super::Output;
use crate::commands::evidence::{self, Evidence};
use crate::global::Global;
use crate::output::{json, progress::Progress};
use crate::sources::RegistryFlags;

/// Make one profile of traces and other profiles. The same recordings give the same bytes, in whatever order; one that is there twice
/// counts once.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    evidence: Evidence,
    /// Name of the workload; an image can have a profile for each of several.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The image that was recorded, to remember what its files contain, so that the profile can be rebased: oci:DIR[:TAG],
    /// oci-archive:FILE[:TAG], or a registry reference. Its layers are read.
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// The platform of the image, os/arch[/variant]; the default is this machine's.
    #[arg(long, short = 'p', value_name = "PLATFORM", requires = "image")]
    platform: Option<String>,
    #[command(flatten)]
    registry: RegistryFlags,
    /// Keep only the latest recordings, so many.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep_runs: Option<u32>,
    #[command(flatten)]
    output: Output,
    /// Print what was made as JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, _: &Global) -> Result<()> {
    let mut profile = args.evidence.merged(args.name.as_deref())?;
    if let Some(runs) = args.keep_runs {
        profile = profile.latest_runs(runs as usize);
    }
    if let Some(name) = &args.image {
        let platform = platform(args.platform.as_deref())?;
        let runtime = Runtime::new().context("cannot start the runtime")?;
        let source = ImageSource::parse(name, &args.registry.registry(name)?)?;
        let image = runtime.block_on(source.resolve(&platform))?;
        if profile.image.manifest.is_some_and(|manifest| manifest != image.manifest.digest) {
            say!(
                "warning: the latest recording is of image manifest {}, this one is {}",
                profile.image.manifest.map_or_else(String::new, |manifest| manifest.to_string()),
                image.manifest.digest
            );
        }
        let progress = Progress::new(args.json);
        let tell = |event: soci_core::index::Event<'_>| crate::commands::told::tell(event, &progress);
        let files = evidence::inventory(&image, runtime.handle(), &tell)?;
        profile = profile.with_contents(&files);
        profile.image = evidence::source(&image);
    }
    args.output.write(&profile)?;
    let (runs, files, bytes) = (profile.runs().len(), profile.files().len(), profile.bytes());
    let path = args.output.path().display();
    if args.json {
        let made = serde_json::json!({
            "profile": path.to_string(), "workload": profile.workload, "runs": runs, "files": files, "bytes": bytes,
        });
        out!("{}", json::pretty(&made)?);
    } else {
        out!("{path}: {runs} runs, {files} files, {}", indicatif::HumanBytes(bytes));
    }
    Ok(())
}

/// The platform that was named, or this machine's.
pub(super) fn platform(text: Option<&str>) -> Result<Platform> {
    match text {
        Some(text) => text.parse().with_context(|| format!("could not parse platform {text}")),
        None => Ok(Platform::host().normalized()),
    }
}
