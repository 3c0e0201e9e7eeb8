//! `soci record`: run a workload of an image and write down what it reads. With `--rootfs`, see `record_rootfs.rs`;
//! containers that somebody else starts are in `record_container.rs`.
//!
//! Outputs `<name>.trace` and `<name>.prefetch.json` (paths in first-use order). The exit codes are those of `EXIT_CODES`,
//! which `--help` shows. With `--runs`, see `record_runs.rs`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use recorder::resolve::Resolver;
use recorder::rootfs::{Overlay, RunDir, forget_pages};
use recorder::stage::Stage;
use recorder::workload::{Process, namespace::with_private_mounts};
use soci_core::image::{Descriptor, Image, Platform};
use soci_core::trace::LayerRef;
use tokio::runtime::{Handle, Runtime};

use super::record_args::Args;
use super::record_once::{Done, Run, Runs, What, code, finish, session};
use super::results::Results;
use super::stop::{self, Stop};
use super::unpack::unpack;
use super::workload_registry::hinted;
use super::{record_container, record_prune, record_rootfs, record_runs, workload_args};
use crate::output::progress::Progress as Bars;
use crate::{global::Global, sources};

/// Said when mounts of one's own are refused.
const PRIVATE_MOUNTS: &str = "cannot make private mounts (this needs root)";

/// Records.
pub(crate) fn run(args: &Args, global: &Global) -> Result<ExitCode> {
    if args.prune {
        return record_prune::run(args.state(), args.json);
    }
    args.workload.until()?; // before anything is fetched
    args.engine.choice()?;
    fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    let runtime = Runtime::new().context("cannot start the runtime")?;
    let stop = runtime.block_on(async { Stop::listen(global) })?;
    let done = started(args, global, stop, runtime.handle());
    stop::outcome(runtime, done)
}

/// Records, until it is stopped.
fn started(args: &Args, global: &Global, mut stop: Stop, runtime: &Handle) -> Result<ExitCode> {
    let source = match (&args.rootfs, &args.image) {
        (Some(dir), _) => Files::Directory(record_rootfs::directory(args, dir)?),
        (None, Some(name)) => Files::Image(Box::new(find(args, global, &stop, runtime, name)?)),
        (None, None) => return record_container::run(args, global, &stop, runtime),
    };
    let runs = match &source {
        Files::Image(image) => of_image(args, global, image, runtime, &mut stop)?.1,
        Files::Directory(dir) => with_private_mounts(move || {
            let results = Results::choose(args, &dir.to_string_lossy())?;
            runs(args, &results, |run| record_rootfs::record(args, global, dir, &stop, run))
        })
        .context(PRIVATE_MOUNTS)??,
    };
    Ok(ExitCode::from(runs.code))
}

/// Records an image, as often as the user wants, and says where the results are.
pub(super) fn of_image(
    args: &Args,
    global: &Global,
    image: &Image,
    runtime: &Handle,
    stop: &mut Stop,
) -> Result<(Results, Runs)> {
    with_private_mounts(move || {
        let results = Results::choose(args, image.reference.split('@').next().unwrap_or_default())?;
        let runs = runs(args, &results, |run| record(args, global, image, runtime, stop, run))?;
        Ok((results, runs))
    })
    .context(PRIVATE_MOUNTS)?
}

/// Finds the image that is meant.
pub(super) fn find(args: &Args, global: &Global, stop: &Stop, runtime: &Handle, name: &str) -> Result<Image> {
    // Connected outside of the runtime, as its owner wants it.
    let containerd = sources::containerd_for(name, global)?;
    let flags = args.registry.flags();
    let image = runtime.block_on(stop.or(async {
        let source = sources::find_with(name, containerd.as_ref(), &flags).await?;
        Ok::<_, anyhow::Error>(source.resolve(&Platform::host()).await?)
    }));
    image.map_err(hinted)
}

/// Where the files are.
enum Files {
    Image(Box<Image>),
    Directory(PathBuf),
}

/// As many recordings as the user wants.
fn runs(args: &Args, results: &Results, once: impl FnMut(&Run) -> Result<Result<Done, u8>>) -> Result<Runs> {
    if args.runs > 1 { record_runs::repeat(args, results, once) } else { alone(args, results, once) }
}

/// One recording, and no other.
fn alone(
    args: &Args,
    results: &Results,
    mut once: impl FnMut(&Run) -> Result<Result<Done, u8>>,
) -> Result<Runs> {
    let run = Run { trace: results.trace(), label: String::new() };
    let done = match once(&run)? {
        Ok(done) => done,
        Err(code) => return Ok(Runs { code, traces: Vec::new() }),
    };
    finish(args, results, &done.layers, None)?;
    Ok(Runs { code: code(args, &done.recorded), traces: vec![run.trace] })
}

/// Records once; the inner error is the exit code of a command that could not be executed.
fn record(
    args: &Args,
    global: &Global,
    image: &Image,
    runtime: &Handle,
    stop: &Stop,
    this: &Run,
) -> Result<Result<Done, u8>> {
    let process = Process::new(&image.config, &args.workload.overrides())?;
    let layers = unpack(args.state(), image, runtime, stop, &Bars::new(args.json))?;
    forget_pages(layers.iter().map(|layer| layer.dir.as_path()))?;
    let run = RunDir::new(args.state())?;
    let dir = |name: &str| -> Result<PathBuf> {
        let path = run.path().join(name);
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    };
    let top_first: Vec<PathBuf> = layers.iter().rev().map(|layer| layer.dir.clone()).collect();
    let bottom_first: Vec<PathBuf> = layers.iter().map(|layer| layer.dir.clone()).collect();

    // Declared in the order of their building: they go in the reverse one.
    let merged = Overlay::read_only(&top_first, &dir("empty")?, &dir("merged")?)?;
    let (engine, settings) = args.engine.choice()?;
    let mut stage = Stage::new(engine, &settings, &top_first, merged.path(), &run)?;
    args.engine.tell(&mut stage);
    let mut spec =
        workload_args::spec(process, args.workload.net(), merged.path(), stage.rootfs(), run.path())?;
    spec.cgroup = stage.cgroup().map(Path::to_owned);
    let mut resolver = Resolver::new(&bottom_first).context("cannot open the unpacked layers")?;

    let layer = |layer: &Descriptor| LayerRef { digest: layer.digest, size: layer.size };
    let what = What {
        image: image.reference.clone(),
        manifest: Some(image.manifest.digest),
        layers: image.layers().iter().map(layer).collect(),
    };
    let recorded = session(args, global, what, stage.capture(), &mut resolver, &spec, stop, this)?;
    drop(stage);
    drop(merged);
    let recorded = match recorded {
        Ok(recorded) => recorded,
        Err(code) => return Ok(Err(code)),
    };
    if args.keep {
        say!("what the workload wrote: {}", run.keep("upper")?.display());
    }
    Ok(Ok(Done { recorded, layers }))
}
