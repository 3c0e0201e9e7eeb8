//! `cargo xtask bench create`: the whole index of an image against stock zlib inflating its layers twice (once for the table,
//! once for the checkpoints, as upstream's tool does), in the same run.
//!
//! Each measurement is a process of its own, so that CPU time, peak memory and bytes written are nobody else's; the two
//! programs take turns.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use soci_core::image::{ImageSource, Platform};
use soci_core::index::{IndexVersion, Settings, build};
use soci_core::prefetch::Selection;
use soci_core::registry::{Registry, RegistryOptions};
use soci_core::store::{Artifacts, ContentStore, LayoutStore};

use self::image::{ENTRIES, LAYERS, gzip_bytes, layers};
use super::median;
use crate::exec;
use crate::lab::{LabArgs, cargo, release_dir};
use crate::setup::{self, Need};

mod image;

const INFLATE: &str = include_str!("../../bench/zlib_inflate.c");
const MB: f64 = 1e6;

/// Index of a 400 MB image against stock zlib: MB/s of gzip per core, busy cores, peak memory
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Rounds; each measures both programs
    #[arg(short, default_value_t = 3)]
    n: usize,
    /// Build the index of the image in this layout once in this process and print the figures
    #[arg(long, hide = true, value_name = "DIR")]
    once: Option<PathBuf>,
    /// Span size of --once
    #[arg(long, hide = true, default_value_t = 4 << 20)]
    span_size: u64,
    #[command(flatten)]
    lab: LabArgs,
}

/// What one process did.
struct Measured {
    cpu_seconds: f64,
    wall_seconds: f64,
    peak_bytes: f64,
    /// Written beyond the zTOCs and the index.
    excess_bytes: f64,
}

/// Runs the subcommand.
pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some(layout) = &args.once {
        return once(layout, args.span_size);
    }
    setup::ensure(&[Need::Zlib, Need::Oracles])?;
    let lab = args.lab.open()?;
    let inflate = lab.compile("zlib_inflate", INFLATE, &["-lz"])?;
    let folder = lab.dir("bench-create")?;
    let image = image::ensure(&folder.join("four-layers"), image::four_layers)?;
    let many = image::ensure(&folder.join("million-entries"), image::million_entries)?;
    exec::run(&mut cargo(["build", "--release", "--package", "xtask", "--quiet"]))?;
    let xtask = release_dir()?.join("xtask");
    let (mut stock, mut ours, mut small_spans) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..args.n.max(1) {
        stock.push(inflate_all(&inflate, &image)?);
        ours.push(index(&xtask, &image, 4 << 20)?);
        small_spans.push(index(&xtask, &image, 1 << 20)?);
    }
    let entries = index(&xtask, &many, 4 << 20)?;

    let size = gzip_bytes(&image)? as f64;
    println!("{LAYERS} layers, {:.1} MB of gzip, medians of {}", size / MB, ours.len());
    println!("{:<38} {:>10} {:>10} {:>12}", "", "MB/s core", "CPU/wall", "peak RSS MB");
    let row = |name: &str, runs: &[Measured]| {
        let of = |field: fn(&Measured) -> f64| median(runs.iter().map(field));
        let cpu = of(|run| run.cpu_seconds);
        let (busy, peak) = (cpu / of(|run| run.wall_seconds), of(|run| run.peak_bytes));
        println!("{name:<38} {:>10.1} {busy:>10.2} {:>12.1}", size / MB / cpu, peak / MB);
        (cpu, peak)
    };
    let zlib = stock.iter().map(|seconds| seconds * 2.0);
    let zlib = median(zlib);
    println!("{:<38} {:>10.1}", "stock zlib, inflate twice, no digests", size / MB / zlib);
    let (cpu, peak) = row("index, spans of 4 MiB", &ours);
    let (_, small_peak) = row("index, spans of 1 MiB", &small_spans);
    println!("stock zlib twice / index: {:.2} x as fast", zlib / cpu);
    let excess = median(ours.iter().map(|run| run.excess_bytes));
    println!("written beyond the index and its zTOCs: {:.2} MB", excess / MB);
    println!(
        "a layer of {ENTRIES} entries: {:.1} s of CPU, peak RSS {:.1} MB",
        entries.cpu_seconds,
        entries.peak_bytes / MB
    );
    ensure!(zlib / cpu >= 3.0, "the index is built less than 3 times as fast as stock zlib inflates twice");
    ensure!(peak <= 150.0 * MB && small_peak <= 250.0 * MB, "the index needs too much memory");
    ensure!(entries.peak_bytes <= 1e9, "a layer of a million entries needs more than 1 GB");
    ensure!(excess < MB, "layers were copied");
    Ok(())
}

/// Builds the index of the layout's image once, in a store of its own; prints CPU and wall nanoseconds, peak KiB, and bytes
/// written beyond what was kept, for [`index`].
fn once(layout: &Path, span_size: u64) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let start = Instant::now();
    let source = ImageSource::parse(
        &format!("oci:{}:bench", layout.display()),
        &Registry::new(RegistryOptions::default()),
    )?;
    let image = runtime.block_on(source.resolve(&Platform::new("linux", "amd64")))?;
    let root = layout.with_extension(format!("store-{}", std::process::id()));
    fs::create_dir(&root)?;
    let store = LayoutStore::open(&root.join("content"))?;
    let artifacts = Artifacts::open(&root.join("artifacts"))?;
    let settings = Settings {
        version: IndexVersion::V1,
        span_size,
        min_layer_size: 0,
        force: true,
        mark_no_xattrs: false,
        prefetch_files: Vec::new(),
        selection: Selection::Image,
        trace: None,
        fine: None,
        advised_whole: false,
    };
    let report =
        build(&image, &settings, &ContentStore::Layout(store), &artifacts, runtime.handle(), &|_| ())?;
    let wall = start.elapsed().as_nanos();
    let kept: u64 = report.index.layers.iter().map(|entry| entry.size).sum::<u64>() + report.descriptor.size;
    fs::remove_dir_all(&root)?;
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let peak = proc_field("/proc/self/status", "VmHWM:")?;
    let written = proc_field("/proc/self/io", "wchar:")?;
    println!("{} {wall} {peak} {}", cpu.tv_sec * 1_000_000_000 + cpu.tv_nsec, written.saturating_sub(kept));
    Ok(())
}

fn proc_field(file: &str, field: &str) -> Result<u64> {
    let text = fs::read_to_string(file)?;
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.split_whitespace().next());
    value.with_context(|| format!("no {field} in {file}"))?.parse().context("not a number")
}

/// Runs [`once`] in a process of its own.
fn index(xtask: &Path, layout: &Path, span_size: u64) -> Result<Measured> {
    let mut command = exec::command([xtask]);
    command.args(["bench", "create", "--span-size", &span_size.to_string(), "--once"]).arg(layout);
    let text = exec::read(&mut command)?;
    let figures: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [cpu, wall, kib, excess] = figures[..] else { bail!("{} printed no figures", exec::line(&command)) };
    Ok(Measured {
        cpu_seconds: cpu / 1e9,
        wall_seconds: wall / 1e9,
        peak_bytes: kib * 1024.0,
        excess_bytes: excess,
    })
}

/// CPU seconds of stock zlib for one inflate of all layers, on as many cores as the index is built on: cores that are busy
/// side by side are slower than one alone.
fn inflate_all(inflate: &Path, layout: &Path) -> Result<f64> {
    let layers = layers(layout)?;
    let cores = thread::available_parallelism()?.get();
    let one = |layer: &PathBuf| -> Result<f64> {
        let text = exec::read(exec::command([inflate]).arg(layer))?;
        let nanos: f64 = text.split_whitespace().next().context("no figures")?.parse()?;
        Ok(nanos / 1e9)
    };
    let share = |core: usize| layers.iter().skip(core).step_by(cores).map(one).sum::<Result<f64>>();
    thread::scope(|scope| {
        let share = &share;
        let running: Vec<_> = (0..cores).map(|core| scope.spawn(move || share(core))).collect();
        running.into_iter().map(|core| core.join().expect("no measurement panics")).sum()
    })
}
