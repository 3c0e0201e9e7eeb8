//! `cargo xtask demo`: the product's one job on real images, from a clean checkout: record, index, push,
//! start cold over a slow link in four ways, and prove that what was served is the image.
//!
//! Exits with an error when a workload was not READY, a served file differs from an independent unpack, or
//! the start with a pack is not the fastest of the four.

use std::time::Instant;

use anyhow::{Result, ensure};

use crate::bench::cold_start::{Run, measure, print_table, rows};
use crate::bench::start::Bench;
use crate::lab::LabArgs;
use crate::link::{Link, Net};
use crate::prepared::Prepared;
use crate::product::{MIN_LAYER_SIZE, Mode, Product, SPAN_SIZE};
use crate::setup::{self, Need};

mod verify;

const MODES: [Mode; 4] = [Mode::Full, Mode::Lazy, Mode::Prefetch, Mode::Pack];

/// Record, index, push and start real images cold over a slow link; prints the table
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Images to start
    #[arg(long = "image", value_delimiter = ',', default_values = ["redis", "pyml"])]
    images: Vec<String>,
    /// The link, as MBIT:RTT_MS
    #[arg(long, default_value = "100:5")]
    net: Net,
    /// Runs of each mode
    #[arg(short, default_value_t = 3)]
    n: usize,
    #[command(flatten)]
    lab: LabArgs,
}

/// Runs the subcommand.
pub(crate) fn run(args: &Args) -> Result<()> {
    let begun = Instant::now();
    let step = |what: &str| eprintln!("[{:>4.0} s] {what}", begun.elapsed().as_secs_f64());
    setup::require_root("the demo")?;
    setup::require_fuse()?;
    step("installing what is missing");
    setup::ensure(&[Need::Images, Need::Registry, Need::Link])?;
    let lab = args.lab.open()?;
    step("building the release binaries");
    let product = Product::build()?;
    let bench = Bench { lab: &lab, product: &product };

    let unlimited = Link::up(&lab, Net::UNLIMITED)?;
    let mut images = Vec::new();
    for name in &args.images {
        step(&format!("{name}: image, registry, recording, SOCI index"));
        let image = Prepared::new(&lab, &product, &unlimited, name, &MODES)?;
        step(&format!("{name}: every file through every mode, against an independent unpack"));
        let lines = verify::image(&bench, &unlimited, &image, &MODES)?;
        step(&format!("{name}: {lines} lines of the listing are the same in all modes"));
        let warm = bench.warm(&unlimited, &image, args.n)?;
        images.push((image, warm));
    }
    drop(unlimited);

    step(&format!("cold starts at {} Mbit/s, {} ms round trip", args.net.mbit, args.net.rtt_ms));
    let link = Link::up(&lab, args.net)?;
    let runs = measure(&bench, &link, &images, &MODES, args.n)?;
    drop(link);
    step("done");

    println!(
        "\npack: fine index and the very bytes that the recorded start read; prefetch: spans hug what the recording needs, and are {} KiB elsewhere (layers below {} KiB have no zTOC); lazy: an \
         index as upstream's tool makes it. With even spans of 4 MiB a perfect prefetch of the Python image would move 73 % of it, and at 1 MiB 87 MB and 19 MB of \
         zTOCs",
        SPAN_SIZE >> 10,
        MIN_LAYER_SIZE >> 10
    );
    for (image, warm) in &images {
        println!(
            "{}: {:.1} MB of gzip layers, {:.1} MB of it needed until READY (exact pages, deflated); warm start {:.2} s",
            image.name,
            image.size as f64 / 1e6,
            image.bound.bytes() / 1e6,
            warm.ready_s
        );
    }
    print_table(&runs);
    check(&runs)
}

/// The promise: a pack is the fastest way for every image.
fn check(runs: &[Run]) -> Result<()> {
    let rows = rows(runs);
    for row in rows.iter().filter(|row| row.runs[0].mode == Mode::Pack) {
        let pack = row.median(|run| run.ready_s);
        for other in rows.iter().filter(|other| other.runs[0].image == row.runs[0].image) {
            let seconds = other.median(|run| run.ready_s);
            ensure!(
                other.runs[0].mode == Mode::Pack || pack < seconds,
                "{}: the start with a pack took {pack:.2} s, {} only {seconds:.2} s",
                row.runs[0].image,
                other.runs[0].mode.name()
            );
        }
    }
    Ok(())
}
