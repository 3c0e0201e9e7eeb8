//! `soci profile info`: what a profile has.

use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use indicatif::HumanBytes;
use planner::profile::{Profile, Threshold};
use planner::report::words::{printable, time};

use super::remote;
use crate::commands::{beside, evidence::read_profile};
use crate::output::{json, stream::Results};
use crate::sources::RegistryFlags;

/// Files that are named.
const FILES: usize = 20;

/// Show what a profile has: its recordings, and what the next start is expected to need.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// As JSON: the document itself.
    #[arg(long)]
    json: bool,
    /// The profile: a file, or IMAGE@DIGEST for one that the image's registry has.
    #[arg(value_name = "FILE")]
    profile: PathBuf,
    #[command(flatten)]
    registry: RegistryFlags,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let remote = args.profile.to_str().filter(|_| !args.profile.exists()).and_then(beside::named);
    let profile = match remote {
        Some((image, digest)) => remote::fetch(image, &digest, &args.registry)?,
        None => read_profile(&args.profile)?,
    };
    let text = if args.json {
        let document: serde_json::Value = serde_json::from_slice(&profile.to_json())?;
        json::pretty(&document)? + "\n"
    } else {
        text(&profile)
    };
    let mut out = Results::buffered();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

fn text(profile: &Profile) -> String {
    let mut text = String::new();
    let workload =
        if profile.workload.is_empty() { "-".to_owned() } else { printable(profile.workload.as_bytes()) };
    let planned = profile.plan(Threshold::default());
    let all = profile.bytes();
    let known = profile.files().filter(|(_, file)| file.content.is_some()).count();
    let _ = writeln!(text, "workload:   {workload}");
    let _ = writeln!(text, "image:      {}", printable(profile.image.reference.as_bytes()));
    if let Some(manifest) = profile.image.manifest {
        let _ = writeln!(text, "manifest:   {manifest}");
    }
    let _ = writeln!(text, "files:      {} ({known} with their contents known)", profile.files().len());
    let _ = writeln!(
        text,
        "bytes:      {} in any run, {} worth to be fetched ahead",
        HumanBytes(all),
        HumanBytes(all - planned.left_out.bytes)
    );
    for run in profile.runs() {
        let ready = run
            .ready_us
            .map_or_else(|| "never ready".to_owned(), |us| format!("ready after {}", time(us * 1000)));
        let _ = writeln!(
            text,
            "run:        {}  {}  {ready}",
            printable(run.started_at.as_bytes()),
            printable(run.engine.as_bytes())
        );
    }
    let _ = writeln!(text, "first:      {:>10} {:>12} {:>5}  file", "at", "bytes", "runs");
    for item in planned.plan.items.iter().take(FILES) {
        let runs = profile.files().find(|(path, _)| **path == item.path).map_or(0, |(_, file)| {
            file.support()
                .iter()
                .filter(|part| part.range.start >= item.range.start && part.range.end <= item.range.end)
                .map(|part| part.runs)
                .max()
                .unwrap_or(0)
        });
        let _ = writeln!(
            text,
            "            {:>10} {:>12} {runs:>5}  {}",
            time(item.first_need_ns),
            HumanBytes(item.range.len()).to_string(),
            printable(&item.path)
        );
    }
    if planned.plan.items.len() > FILES {
        let _ = writeln!(text, "            and {} more (--json has all)", planned.plan.items.len() - FILES);
    }
    text
}
