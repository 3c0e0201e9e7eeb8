//! `cargo xtask bench ztoc`: the one-pass zTOC build against what inflating the same file costs with stock
//! zlib, in the same run.
//!
//! Each measurement is a process of its own, so that CPU time and peak memory are nobody else's; the two
//! programs take turns. Figures are medians of CPU time: MB of gzip for each second of one core.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use soci_core::ztoc::{BuildOptions, build_gzip};

use super::median;
use crate::exec;
use crate::images;
use crate::lab::{Lab, LabArgs, cargo, release_dir};
use crate::setup::{self, Need};

const INFLATE: &str = include_str!("../../bench/zlib_inflate.c");

/// One-pass zTOC build against stock zlib: MB/s of gzip per core, peak memory
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A gzip layer [default: the largest layer of the pyml image, built when needed]
    file: Option<PathBuf>,
    /// Rounds; each measures both programs
    #[arg(short, default_value_t = 5)]
    n: usize,
    /// Span size in bytes
    #[arg(long, default_value_t = 4 << 20)]
    span_size: u64,
    /// Build the zTOC of FILE once in this process and print the figures
    #[arg(long, hide = true, requires = "file")]
    once: bool,
    #[command(flatten)]
    lab: LabArgs,
}

/// What one process did.
struct Measured {
    cpu_seconds: f64,
    peak_bytes: f64,
}

/// Runs the subcommand.
pub(crate) fn run(args: &Args) -> Result<()> {
    if let (true, Some(file)) = (args.once, &args.file) {
        return once(file, args.span_size);
    }
    let lab = args.lab.open()?;
    let file = args.file.clone().map_or_else(|| largest_layer(&lab), Ok)?;
    let size = std::fs::metadata(&file).with_context(|| format!("cannot read {}", file.display()))?.len();
    setup::ensure(&[Need::Zlib])?;
    let inflate = lab.compile("zlib_inflate", INFLATE, &["-lz"])?;
    exec::run(&mut cargo(["build", "--release", "--package", "xtask", "--quiet"]))?;
    let xtask = release_dir()?.join("xtask");
    let span_size = args.span_size.to_string();
    let (mut stock, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..args.n.max(1) {
        stock.push(measure(&inflate, &[], &file)?);
        ours.push(measure(&xtask, &["bench", "ztoc", "--once", "--span-size", &span_size], &file)?);
    }
    println!("{} ({:.1} MB), medians of {}", file.display(), size as f64 / 1e6, ours.len());
    println!("{:<34} {:>12} {:>12}", "", "MB/s gzip", "peak RSS MB");
    let row = |name: &str, runs: &[Measured]| {
        let seconds = median(runs.iter().map(|run| run.cpu_seconds));
        let peak = median(runs.iter().map(|run| run.peak_bytes));
        println!("{name:<34} {:>12.1} {:>12.1}", size as f64 / 1e6 / seconds, peak / 1e6);
        seconds
    };
    let inflate = row("stock zlib, inflate alone", &stock);
    let build = row("one pass: zTOC with all digests", &ours);
    println!("one pass / inflate alone: {:.2} x as fast", inflate / build);
    ensure!(build <= inflate, "the one-pass build is slower than stock zlib's inflate alone");
    Ok(())
}

/// Builds the zTOC of a file once; prints CPU nanoseconds and peak KiB for [`measure`].
fn once(file: &Path, span_size: u64) -> Result<()> {
    let options = BuildOptions { span_size, ..BuildOptions::default() };
    let reader = BufReader::with_capacity(1 << 18, File::open(file)?);
    std::hint::black_box(build_gzip(reader, &options)?);
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next());
    println!(
        "{} {}",
        cpu.tv_sec * 1_000_000_000 + cpu.tv_nsec,
        peak.context("no VmHWM in /proc/self/status")?
    );
    Ok(())
}

/// Runs `program … file`, which prints its CPU time (ns) and its peak memory (KiB).
fn measure(program: &Path, words: &[&str], file: &Path) -> Result<Measured> {
    let mut command = exec::command([program]);
    command.args(words).arg(file);
    let text = exec::read(&mut command)?;
    let figures: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [nanos, kib] = figures[..] else { bail!("{} printed no figures", exec::line(&command)) };
    Ok(Measured { cpu_seconds: nanos / 1e9, peak_bytes: kib * 1024.0 })
}

fn largest_layer(lab: &Lab) -> Result<PathBuf> {
    let built = images::ensure(lab, "pyml", false)?;
    let layer = built.layers.iter().max_by_key(|layer| layer.size).context("pyml has layers")?;
    Ok(images::blob_path(&lab.image("pyml"), &layer.digest))
}
