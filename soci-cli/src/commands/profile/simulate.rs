//! `soci profile simulate`: how long starts of an image take over a link, predicted.

use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use indicatif::HumanBytes;
use planner::profile::{Profile, Threshold};
use planner::simulate::{Advice, Case, Condition, LINKS, Layout, Link, Mode, Node, Row, chart, table};
use serde::Serialize;
use soci_core::image::{Image, ImageSource};
use soci_core::index;
use soci_core::trace::{TraceReader, is_trace};
use tokio::runtime::{Handle, Runtime};

use super::create::platform;
use crate::commands::evidence::{self, read_profile};
use crate::global::Global;
use crate::help::heading::PLANNING;
use crate::hint::Hinted;
use crate::output::{json, place, progress::Progress, stream::Results};
use crate::size;
use crate::sources::RegistryFlags;

/// Predict how long the workload takes to start, for each way in which the image can be served and for each link.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A profile of the workload, or a trace of it. A profile of another build is rebased onto the image.
    #[arg(value_name = "PROFILE")]
    profile: PathBuf,
    /// The image: oci:DIR[:TAG], oci-archive:FILE[:TAG], or a registry reference. Its layers are read once.
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The platform of the image, os/arch[/variant]; the default is this machine's.
    #[arg(long, short = 'p', value_name = "PLATFORM")]
    platform: Option<String>,
    #[command(flatten)]
    registry: RegistryFlags,
    /// Round trip and bandwidth of the link to the registry, as in 5ms/100Mbit. May be repeated.
    /// [default: 1ms/1000Mbit, 5ms/100Mbit, 100ms/25Mbit]
    #[arg(long, help_heading = PLANNING, value_name = "RTT/BANDWIDTH", value_delimiter = ',')]
    link: Vec<Link>,
    /// Ways to start: full, lazy, prefetch, pack. May be repeated. [default: all]
    #[arg(long, help_heading = PLANNING, value_name = "MODE", value_delimiter = ',', value_parser = mode)]
    mode: Vec<Mode>,
    /// How long the workload takes until it is ready when all bytes are on the node, in seconds. [default: the fastest recording]
    #[arg(long, help_heading = PLANNING, value_name = "SECONDS", value_parser = seconds)]
    compute: Option<f64>,
    /// Cores of the node. [default: 2]
    #[arg(long, help_heading = PLANNING, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    cores: Option<u16>,
    /// Size of a span, uncompressed. [default: 4MiB]
    #[arg(long, help_heading = PLANNING, value_name = "SIZE", value_parser = size::parse)]
    span_size: Option<u64>,
    /// Smallest layer that has a zTOC, compressed. [default: 10MiB]
    #[arg(long, help_heading = PLANNING, value_name = "SIZE", value_parser = size::parse)]
    min_layer_size: Option<u64>,
    /// Fail (exit code 1) when this is true for any link: two of ready (the fastest way), bound, full, lazy, prefetch, pack or
    /// seconds, compared with < or >.
    #[arg(long, value_name = "CONDITION")]
    fail_if: Option<Condition>,
    /// Also draw the table into this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    overwrite: place::Overwrite,
    /// Print the table as JSON.
    #[arg(long)]
    json: bool,
}

fn mode(text: &str) -> Result<Mode, String> {
    let mode = Mode::of(text).filter(|mode| *mode != Mode::Bound);
    mode.ok_or_else(|| format!("{text:?} is not full, lazy, prefetch or pack"))
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds: &f64| (0.0..=86_400.0).contains(seconds));
    seconds.ok_or_else(|| format!("{text:?} is not 0 to 86400 seconds"))
}

pub(crate) fn run(args: &Args, _: &Global) -> Result<()> {
    if let Some(path) = &args.svg {
        place::check(path, args.overwrite.is_on())?;
    }
    let profile = profile_or_trace(&args.profile)?;
    let platform = platform(args.platform.as_deref())?;
    let runtime = Runtime::new().context("cannot start the runtime")?;
    let source = ImageSource::parse(&args.image, &args.registry.registry(&args.image)?)?;
    let image = runtime.block_on(source.resolve(&platform))?;
    let profile = fitted(profile, &image, runtime.handle())?;
    let progress = Progress::new(args.json);
    let tell = |event: index::Event<'_>| crate::commands::told::tell(event, &progress);
    let layers = index::anatomy(&image, runtime.handle(), &tell).context("cannot read the layers")?;
    let case = Case::new(layers, &profile, Threshold::default(), args.compute).map_err(|error| {
        let message = format!("cannot predict with {}: {error}", args.profile.display());
        Hinted::new(message, "record the workload on this image until it is ready")
    })?;
    let (node, layout) = (args.node(), args.layout());
    let links = if args.link.is_empty() {
        LINKS.map(|(ms, mbit)| Link::new(ms, mbit)).into()
    } else {
        args.link.clone()
    };
    let modes = if args.mode.is_empty() { Mode::ALL.to_vec() } else { args.mode.clone() };
    let rows = table(&case, &modes, &links, &node, &layout);
    let advice = Advice::of(&case, Mode::Pack, &node, &layout);
    let text = if args.json {
        json::pretty(&document(args, &case, &rows, &advice))? + "\n"
    } else {
        text(&case, &rows, &advice)
    };
    let mut out = Results::buffered();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    if let Some(path) = &args.svg {
        let pending = place::Pending::new(path, args.overwrite.is_on())?;
        std::fs::write(pending.path(), chart(&rows))
            .with_context(|| format!("cannot write {}", path.display()))?;
        pending.finish()?;
    }
    args.judge(&rows)
}

impl Args {
    fn node(&self) -> Node {
        let node = Node::default();
        Node { cores: self.cores.map_or(node.cores, usize::from), ..node }
    }

    fn layout(&self) -> Layout {
        let layout = Layout::default();
        Layout {
            span_size: self.span_size.unwrap_or(layout.span_size),
            min_layer_size: self.min_layer_size.unwrap_or(layout.min_layer_size),
            ..layout
        }
    }

    fn judge(&self, rows: &[Row]) -> Result<()> {
        let Some(condition) = &self.fail_if else { return Ok(()) };
        for row in rows {
            match condition.holds(row) {
                Some(false) => {}
                Some(true) => {
                    let hint = "see the table for the way that is slow, and docs/planning.md for what the figures mean";
                    return Err(
                        Hinted::new(format!("--fail-if is true for the link {}", row.link), hint).into()
                    );
                }
                None => {
                    let hint = "give the mode with --mode, or leave --mode out";
                    return Err(Hinted::new("--fail-if speaks of a mode that is not predicted", hint).into());
                }
            }
        }
        Ok(())
    }
}

/// A profile, or that of the one run that a trace has.
fn profile_or_trace(path: &Path) -> Result<Profile> {
    let read = || format!("cannot read {}", path.display());
    let mut start = [0; 8];
    let length = std::io::Read::read(&mut std::fs::File::open(path).with_context(read)?, &mut start)
        .with_context(read)?;
    if !is_trace(&start[..length]) {
        return read_profile(path);
    }
    let mut reader = TraceReader::open(path).with_context(read)?;
    let accesses = reader.by_ref().collect::<Result<Vec<_>, _>>().with_context(read)?;
    Ok(Profile::of_run("", reader.header(), reader.tail(), &accesses))
}

/// The profile, of this image.
fn fitted(profile: Profile, image: &Image, runtime: &Handle) -> Result<Profile> {
    let knows_contents = profile.files().any(|(_, file)| file.content.is_some());
    if profile.image.manifest == Some(image.manifest.digest) || !knows_contents {
        return Ok(profile);
    }
    let files = evidence::inventory(image, runtime, &|_| {})?;
    let (rebased, coverages) = profile.rebase(evidence::source(image), &files);
    say!("note: the profile is of another build: {}", evidence::words(&coverages));
    Ok(rebased)
}

fn text(case: &Case, rows: &[Row], advice: &Advice) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{} of {} are needed until ready (compressed image: {})",
        HumanBytes(case.needed()),
        HumanBytes(case.plain()),
        HumanBytes(case.compressed())
    );
    let _ = writeln!(
        text,
        "{:<16} {:<9} {:>9} {:>9} {:>12} {:>9} {:>8}",
        "link", "mode", "ready", "begin", "bytes", "requests", "% bound"
    );
    for row in rows {
        for (mode, start) in &row.starts {
            let _ = writeln!(
                text,
                "{:<16} {:<9} {:>7.2} s {:>7.2} s {:>12} {:>9} {:>7.0}%",
                row.link.to_string(),
                mode.name(),
                start.ready,
                start.begin,
                HumanBytes(start.bytes as u64).to_string(),
                start.requests,
                100.0 * row.bound.ready / start.ready
            );
        }
        let bytes = HumanBytes(row.bound.bytes as u64).to_string();
        let _ = writeln!(
            text,
            "{:<16} {:<9} {:>7.2} s {:>9} {bytes:>12}",
            row.link.to_string(),
            "bound",
            row.bound.ready,
            ""
        );
    }
    if advice.is_whole() {
        let _ = writeln!(
            text,
            "The workload touches so much that a parallel pull of the whole image is faster than a pack, over any of these links:"
        );
        for compared in &advice.by_link {
            let _ = writeln!(
                text,
                "  {:<16} full {:.2} s, pack {:.2} s",
                compared.link.to_string(),
                compared.full,
                compared.parts
            );
        }
    }
    text
}

/// The keys are an interface.
#[derive(Serialize)]
struct Document {
    image: String,
    needed_bytes: u64,
    plain_bytes: u64,
    compressed_bytes: u64,
    links: Vec<OfLink>,
    advice: &'static str,
}

#[derive(Serialize)]
struct OfLink {
    link: String,
    bound_s: f64,
    starts: Vec<Start>,
}

#[derive(Serialize)]
struct Start {
    mode: &'static str,
    ready_s: f64,
    begin_s: f64,
    bytes: u64,
    requests: usize,
}

fn document(args: &Args, case: &Case, rows: &[Row], advice: &Advice) -> Document {
    let millis = |seconds: f64| (seconds * 1e3).round() / 1e3;
    let of_link = |row: &Row| OfLink {
        link: row.link.to_string(),
        bound_s: millis(row.bound.ready),
        starts: row
            .starts
            .iter()
            .map(|(mode, start)| Start {
                mode: mode.name(),
                ready_s: millis(start.ready),
                begin_s: millis(start.begin),
                bytes: start.bytes as u64,
                requests: start.requests,
            })
            .collect(),
    };
    Document {
        image: args.image.clone(),
        needed_bytes: case.needed(),
        plain_bytes: case.plain(),
        compressed_bytes: case.compressed(),
        links: rows.iter().map(of_link).collect(),
        advice: if advice.is_whole() { "whole" } else { "parts" },
    }
}
