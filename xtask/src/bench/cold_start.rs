//! `cargo xtask bench cold-start`: from nothing on the node to a workload that did useful work, over links of
//! several rates and delays, beside the physical bound.
//!
//! Modes take turns within a round, so that a noisy minute hits all of them; figures are medians.

use std::path::PathBuf;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::median;
use super::start::{Bench, Start};
use crate::lab::LabArgs;
use crate::link::{Link, Net};
use crate::prepared::Prepared;
use crate::product::{Mode, Product};
use crate::requests::{Counts, beyond_fixed};

/// Cold starts over an emulated link: ready time, bytes, requests, share of the physical bound
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// Images to start
    #[arg(long = "image", value_delimiter = ',', default_values = ["redis", "pyml"])]
    images: Vec<String>,
    /// Links, as MBIT:RTT_MS
    #[arg(long = "net", value_delimiter = ',', default_values = ["100:5"])]
    nets: Vec<Net>,
    /// Ways to start
    #[arg(long = "mode", value_enum, value_delimiter = ',', default_values = ["full", "lazy", "prefetch", "fine", "pack"])]
    modes: Vec<Mode>,
    /// Runs of each mode
    #[arg(short, default_value_t = 3)]
    n: usize,
    /// Plain bytes of the spans of fine indexes [default: the product's]
    #[arg(long, value_name = "BYTES")]
    fine_span_size: Option<u64>,
    /// Also write all runs as a JSON array to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) lab: LabArgs,
}

/// One measured run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Run {
    /// Image's name.
    pub(crate) image: String,
    /// Link, as MBIT:RTT_MS.
    pub(crate) net: String,
    /// How it was started.
    pub(crate) mode: Mode,
    /// From 0.
    pub(crate) round: usize,
    /// From the request for the image to READY, seconds; the snapshotter was running.
    pub(crate) ready_s: f64,
    /// From the same moment until all layers were prepared, seconds.
    pub(crate) pull_s: f64,
    /// Bytes received over the link from the request for the image until READY, headers of packets included.
    pub(crate) bytes: u64,
    /// Bytes that the product counted as received until READY.
    pub(crate) payload: u64,
    /// Bytes that this start cannot do without: its exact pages, deflated.
    pub(crate) need_bytes: u64,
    /// Requests the registry answered until READY.
    pub(crate) requests: u64,
    /// Those besides ping and token, the image's manifest and configuration, referrers and SOCI index.
    pub(crate) asked: u64,
    /// All requests, by kind.
    pub(crate) kinds: Counts,
    /// Physical bound of this image on this link, seconds.
    pub(crate) bound_s: f64,
    /// Ready time of a start with all bytes on the node, seconds.
    pub(crate) t_warm_s: f64,
    /// How much of it came before the workload's first instruction, seconds.
    #[serde(default)]
    pub(crate) warm_begin_s: f64,
}

/// Runs the subcommand.
pub(crate) fn run(args: &Args) -> Result<()> {
    measured(args).map(drop)
}

/// Measures, prints the table, and gives all runs.
pub(crate) fn measured(args: &Args) -> Result<Vec<Run>> {
    let lab = args.lab.open()?;
    let mut product = Product::build()?;
    product.fine_span_size = args.fine_span_size;
    let bench = Bench { lab: &lab, product: &product };
    let mut images = Vec::new();
    {
        let link = Link::up(&lab, Net::UNLIMITED)?;
        for name in &args.images {
            let image = Prepared::new(&lab, &product, &link, name, &args.modes)?;
            let warm = bench.warm(&link, &image, args.n)?;
            images.push((image, warm));
        }
    }
    let mut runs = Vec::new();
    for net in &args.nets {
        let link = Link::up(&lab, *net)?;
        runs.extend(measure(&bench, &link, &images, &args.modes, args.n)?);
    }
    print_table(&runs);
    if let Some(file) = &args.json {
        std::fs::write(file, serde_json::to_string_pretty(&runs)?)?;
    }
    Ok(runs)
}

/// Starts every image `n` times in each mode, the modes taking turns. Beside each image: its warm start.
pub(crate) fn measure(
    bench: &Bench<'_>,
    link: &Link,
    images: &[(Prepared, Start)],
    modes: &[Mode],
    n: usize,
) -> Result<Vec<Run>> {
    let mut runs = Vec::new();
    for (image, warm) in images {
        let bound_s = image.bound.seconds(link.net(), warm.ready_s, warm.begin_s);
        for round in 0..n {
            for &mode in modes {
                let start = match mode {
                    Mode::Warm => bench.warm(link, image, 1)?,
                    Mode::Full | Mode::Lazy | Mode::Prefetch | Mode::Fine | Mode::Pack => {
                        bench.cold(link, image, mode)?
                    }
                };
                let requests = start.requests.values().sum();
                eprintln!(
                    "  {} {} {}: ready {:.2} s, {:.1} MB, {} requests",
                    image.name,
                    link.net(),
                    mode.name(),
                    start.ready_s,
                    start.bytes as f64 / 1e6,
                    requests
                );
                runs.push(Run {
                    image: image.name.clone(),
                    net: link.net().to_string(),
                    mode,
                    round,
                    ready_s: start.ready_s,
                    pull_s: start.pull_s,
                    bytes: start.bytes,
                    payload: start.payload,
                    need_bytes: image.bound.bytes() as u64,
                    requests,
                    asked: beyond_fixed(&start.requests),
                    kinds: start.requests,
                    bound_s,
                    t_warm_s: warm.ready_s,
                    warm_begin_s: warm.begin_s,
                });
            }
        }
    }
    Ok(runs)
}

/// Runs of one image, link and mode.
pub(crate) struct Row<'a> {
    /// The runs, at least one.
    pub(crate) runs: Vec<&'a Run>,
}

impl Row<'_> {
    /// Median of a figure.
    pub(crate) fn median(&self, figure: impl Fn(&Run) -> f64) -> f64 {
        median(self.runs.iter().map(|run| figure(run)))
    }
}

/// Runs grouped by image, link and mode, in the order in which they first appear.
pub(crate) fn rows(runs: &[Run]) -> Vec<Row<'_>> {
    let mut rows: Vec<Row<'_>> = Vec::new();
    for run in runs {
        let same = |row: &&mut Row<'_>| {
            let first = row.runs[0];
            (&first.image, &first.net, first.mode) == (&run.image, &run.net, run.mode)
        };
        match rows.iter_mut().find(same) {
            Some(row) => row.runs.push(run),
            None => rows.push(Row { runs: vec![run] }),
        }
    }
    rows
}

/// Prints medians, one line for each image, link and mode.
pub(crate) fn print_table(runs: &[Run]) {
    let rows = rows(runs);
    println!(
        "{:<9} {:>9} {:<9} {:>8} {:>17} {:>8} {:>8} {:>7} {:>9} {:>6} {:>8} {:>8} {:>8} {:>3}",
        "image",
        "Mbit:ms",
        "mode",
        "ready s",
        "(min-max)",
        "pull s",
        "MB",
        "/ need",
        "requests",
        "asked",
        "bound s",
        "% bound",
        "/ full",
        "n"
    );
    for row in &rows {
        let first = row.runs[0];
        let (ready, bytes) = (row.median(|run| run.ready_s), row.median(|run| run.bytes as f64));
        let times = row.runs.iter().map(|run| run.ready_s);
        let (least, most) = (times.clone().fold(f64::INFINITY, f64::min), times.fold(0.0, f64::max));
        let full = rows.iter().find(|other| {
            let other = other.runs[0];
            (&other.image, &other.net, other.mode) == (&first.image, &first.net, Mode::Full)
        });
        let ratio =
            full.map_or("-".to_owned(), |full| format!("{:.2}x", ready / full.median(|run| run.ready_s)));
        println!(
            "{:<9} {:>9} {:<9} {ready:>8.2} {:>17} {:>8.2} {:>8.1} {:>6.2}x {:>9.0} {:>6.0} {:>8.2} {:>7.0}% {ratio:>8} {:>3}",
            first.image,
            first.net,
            first.mode.name(),
            format!("({least:.2}-{most:.2})"),
            row.median(|run| run.pull_s),
            bytes / 1e6,
            bytes / first.need_bytes.max(1) as f64,
            row.median(|run| run.requests as f64),
            row.median(|run| run.asked as f64),
            first.bound_s,
            100.0 * first.bound_s / ready,
            row.runs.len(),
        );
    }
    println!(
        "MB: received over the link from the request for the image until READY; need: the exact pages of the recorded start, \
         deflated; asked: requests besides ping, image manifest and configuration, referrers and SOCI index; bound: no \
         system is faster"
    );
}
