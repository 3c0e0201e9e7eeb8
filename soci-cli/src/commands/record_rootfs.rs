//! `soci record --rootfs DIR -- CMD`: a command of this machine, and what it reads below a directory.
//!
//! The command runs as its user would run it, but in a cgroup of its own; nothing of it outlives the recording.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use recorder::capture::EbpfError;
use recorder::directory::{DirectoryError, Watched};
use recorder::resolve::Resolver;
use recorder::rootfs::{RunDir, forget_pages};
use recorder::workload::{Process, Spec};

use super::record_args::Args;
use super::record_once::{Done, Run, What, session};
use super::stop::Stop;
use crate::global::Global;
use crate::hint::Hinted;

/// The directory by its real name.
pub(super) fn directory(args: &Args, dir: &Path) -> Result<PathBuf> {
    if let Some(flag) = args.registry.given() {
        bail!("{flag} means nothing with --rootfs: there is no image");
    }
    let real = dir.canonicalize().with_context(|| format!("cannot open {}", dir.display()))?;
    if !real.is_dir() {
        bail!("{} is not a directory", dir.display());
    }
    Ok(real)
}

/// Records once; the inner error is the exit code of a command that could not be executed.
pub(super) fn record(
    args: &Args,
    global: &Global,
    dir: &Path,
    stop: &Stop,
    this: &Run,
) -> Result<Result<Done, u8>> {
    let process = Process::on_host(&args.workload.overrides())?;
    let state = args.state();
    fs::create_dir_all(state).with_context(|| format!("cannot make {}", state.display()))?;
    forget_pages([dir])?;
    let run = RunDir::new(state)?;
    let mountpoint = run.path().join("cgroup");
    fs::create_dir(&mountpoint).with_context(|| format!("cannot make {}", mountpoint.display()))?;
    let engine = &args.engine;
    let (choice, settings) = engine.choice()?;
    let mut watched = match Watched::new(choice, &settings, dir, &mountpoint) {
        Err(error @ DirectoryError::Fuse) => {
            let hint = "leave --engine out, or record an image of these files with --image";
            return Err(Hinted::new(error.to_string(), hint).into());
        }
        Err(DirectoryError::Ebpf(error @ (EbpfError::NoTracepoint(_) | EbpfError::NoTypes { .. }))) => {
            let hint = "record an image of these files with --image: on this kernel, FUSE serves them and sees the reads";
            return Err(Hinted::new(error.to_string(), hint).into());
        }
        watched => watched?,
    };
    let spec = Spec::on_host(process, watched.cgroup());
    let what = What { image: format!("dir:{}", dir.display()), manifest: None, layers: Vec::new() };
    let mut resolver = Resolver::of_directory();
    let recorded = session(args, global, what, watched.capture(), &mut resolver, &spec, stop, this)?;
    Ok(recorded.map(|recorded| Done { recorded, layers: Vec::new() }))
}
