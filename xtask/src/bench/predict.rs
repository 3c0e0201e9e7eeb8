//! `cargo xtask bench predict`: cold starts beside what the planner's model says of them.
//!
//! What is predicted is what was measured: the recordings of this run, the image as it was prepared, the link. One figure is measured and
//! given to the model: how long the workload itself works, which is the warm start without what comes before its first instruction.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::PathBuf;

use anyhow::{Context, Result};
use planner::profile::{Profile, Threshold};
use planner::simulate::{self, Case, Layout, Link, Node, Outcome};
use soci_core::image::{ImageSource, Platform};
use soci_core::index::{self, LayerAnatomy};
use soci_core::trace::TraceReader;
use tokio::runtime::Runtime;

use super::cold_start::{self, Row, Run, rows};
use crate::lab::Lab;
use crate::link::Net;
use crate::prepared::recorded_runs;
use crate::product::{MIN_LAYER_SIZE, Mode, SPAN_SIZE};

/// The error that the model is to stay within.
const AIM: f64 = 0.15;

/// Cold starts, and how far off their predictions are
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    starts: cold_start::Args,
    /// Take the starts from a file that `--json` wrote, and the recordings that lie in the work folder; nothing is measured then
    #[arg(long, value_name = "FILE")]
    measured: Vec<PathBuf>,
    /// Another value for a parameter of the model, as in inflate=150e6 (docs/planning.md), to calibrate it for another machine
    #[arg(long = "set", value_name = "NAME=VALUE")]
    set: Vec<String>,
}

impl Args {
    fn node(&self) -> Result<Node> {
        let mut node = Node::default();
        for text in &self.set {
            let set = text.split_once('=').and_then(|(name, value)| node.set(name, value.parse().ok()?));
            set.with_context(|| format!("{text} is not a parameter of the model with a value"))?;
        }
        Ok(node)
    }
}

/// Runs the subcommand.
pub(crate) fn run(args: &Args) -> Result<()> {
    let lab = args.starts.lab.open()?;
    let runs =
        if args.measured.is_empty() { cold_start::measured(&args.starts)? } else { read(&args.measured)? };
    let (rows, node) = (rows(&runs), args.node()?);
    let mut cells = Vec::new();
    let mut images: HashMap<&str, Recorded> = HashMap::new();
    for row in &rows {
        let name = &*row.runs[0].image;
        let image = match images.entry(name) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                new.insert(recorded(&lab, name).with_context(|| format!("cannot predict {name}"))?)
            }
        };
        cells.extend(cell(image, row, &node)?);
    }
    print(&cells);
    Ok(())
}

fn read(files: &[PathBuf]) -> Result<Vec<Run>> {
    let mut runs = Vec::new();
    for file in files {
        let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        runs.extend(
            serde_json::from_slice::<Vec<Run>>(&text).with_context(|| format!("{}", file.display()))?,
        );
    }
    Ok(runs)
}

/// A measured start and its prediction.
struct Cell<'a> {
    row: &'a Row<'a>,
    predicted: Outcome,
}

impl Cell<'_> {
    fn measured(&self) -> f64 {
        self.row.median(|run| run.ready_s)
    }

    fn error(&self) -> f64 {
        self.predicted.ready / self.measured() - 1.0
    }
}

/// `None`: the model does not know the mode.
fn cell<'a>(image: &Recorded, row: &'a Row<'a>, node: &Node) -> Result<Option<Cell<'a>>> {
    let first = row.runs[0];
    let mode = match first.mode {
        Mode::Full => simulate::Mode::Full,
        Mode::Lazy => simulate::Mode::Lazy,
        Mode::Prefetch => simulate::Mode::Prefetch,
        Mode::Pack => simulate::Mode::Pack,
        Mode::Fine | Mode::Warm => return Ok(None),
    };
    let compute = row.median(|run| run.t_warm_s - run.warm_begin_s).max(0.0);
    let case = Case::new(image.layers.clone(), &image.profile, Threshold::default(), Some(compute))?;
    let recorded = Layout { span_size: SPAN_SIZE, min_layer_size: MIN_LAYER_SIZE, ..Layout::default() };
    let layout = if mode == simulate::Mode::Lazy { Layout::default() } else { recorded };
    let predicted = simulate::predict(&case, mode, link(&first.net)?, node, &layout);
    Ok(Some(Cell { row, predicted }))
}

/// A workload and its image, as the work folder has them.
struct Recorded {
    profile: Profile,
    layers: Vec<LayerAnatomy>,
}

fn recorded(lab: &Lab, image: &str) -> Result<Recorded> {
    let mut profiles = Vec::new();
    for trace in recorded_runs(&lab.dir(&format!("recordings/{image}"))?)? {
        let mut reader = TraceReader::open(&trace)?;
        let accesses = reader.by_ref().collect::<Result<Vec<_>, _>>()?;
        profiles.push(Profile::of_run("", reader.header(), reader.tail(), &accesses));
    }
    let profile = Profile::merge(profiles)?.context("there is no recording")?;
    let runtime = Runtime::new()?;
    let source = ImageSource::layout(&lab.image(image))?;
    let image = runtime.block_on(source.resolve(&Platform::host()))?;
    let layers = index::anatomy(&image, runtime.handle(), &|_| {})?;
    Ok(Recorded { profile, layers })
}

fn link(net: &str) -> Result<Link> {
    let net: Net = net.parse()?;
    // 0 stands for no limit.
    Ok(Link::new(net.rtt_ms, if net.mbit > 0.0 { net.mbit } else { 1e5 }))
}

fn print(cells: &[Cell<'_>]) {
    println!(
        "{:<9} {:>9} {:<9} {:>10} {:>11} {:>7} {:>9} {:>9} {:>8} {:>8} {:>3}",
        "image",
        "Mbit:ms",
        "mode",
        "measured s",
        "predicted s",
        "error",
        "MB",
        "predicted",
        "pull s",
        "pred.",
        "n"
    );
    for cell in cells {
        let first = cell.row.runs[0];
        println!(
            "{:<9} {:>9} {:<9} {:>10.2} {:>11.2} {:>6.0}% {:>9.1} {:>9.1} {:>8.2} {:>8.2} {:>3}",
            first.image,
            first.net,
            first.mode.name(),
            cell.measured(),
            cell.predicted.ready,
            100.0 * cell.error(),
            cell.row.median(|run| run.bytes as f64) / 1e6,
            cell.predicted.bytes / 1e6,
            cell.row.median(|run| run.pull_s),
            cell.predicted.begin,
            cell.row.runs.len(),
        );
    }
    let good = cells.iter().filter(|cell| cell.error().abs() <= AIM).count();
    let worst = cells.iter().map(|cell| cell.error().abs()).fold(0.0, f64::max);
    println!(
        "{good} of {} within {:.0} %; the worst is off by {:.0} %",
        cells.len(),
        AIM * 100.0,
        worst * 100.0
    );
}
