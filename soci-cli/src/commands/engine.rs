//! The engine of a recording and the root file system that goes with it.
//!
//! [`Stage`] owns mounts, capture and cgroup, and takes them away in the right order. Which engine is used is decided
//! here, and said on standard error together with the reason.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use recorder::capture::{Capture, Ebpf, FuseLog, RING_BYTES};
use recorder::rootfs::{Overlay, RunDir};
use recorder::workload::Cgroup;

/// How accesses are seen.
#[derive(Debug, Clone, Args)]
pub(crate) struct EngineArgs {
    /// How accesses are seen: by eBPF programs on the page cache, or by serving the files through FUSE.
    #[arg(long, value_enum, default_value_t = EngineArg::Auto)]
    engine: EngineArg,
    /// Size of the eBPF ring buffer in bytes, a power of two; a larger one loses less.
    #[arg(long, value_name = "BYTES", default_value_t = RING_BYTES, value_parser = ring_bytes)]
    ring_buffer: u32,
}

/// `--engine`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum EngineArg {
    /// eBPF where it can be used, else FUSE.
    Auto,
    /// eBPF: the workload runs on the layers themselves.
    Ebpf,
    /// FUSE: page-exact, and slower for the workload.
    Fuse,
}

fn ring_bytes(text: &str) -> Result<u32, String> {
    let bytes: u32 = text.parse().map_err(|_| "not a number of bytes".to_owned())?;
    let page = rustix::param::page_size();
    if !bytes.is_power_of_two() || (bytes as usize) < page {
        return Err(format!("must be a power of two and at least {page}"));
    }
    Ok(bytes)
}

/// A root file system under observation.
#[derive(Debug)]
pub(crate) struct Stage {
    rootfs: Overlay,
    pub(crate) capture: Box<dyn Capture>,
    cgroup: Option<Cgroup>,
}

impl Stage {
    /// Sets it up for an image whose layers are `layers`, the topmost first, and whose read-only view is `merged`.
    pub(crate) fn new(args: &EngineArgs, layers: &[PathBuf], merged: &Path, run: &RunDir) -> Result<Self> {
        let refused = match args.engine {
            EngineArg::Fuse => None,
            EngineArg::Ebpf => return Self::ebpf(args.ring_buffer, layers, run),
            EngineArg::Auto => match Self::ebpf(args.ring_buffer, layers, run) {
                Ok(stage) => {
                    eprintln!("engine:      ebpf");
                    return Ok(stage);
                }
                Err(error) => Some(error),
            },
        };
        if let Some(error) = refused {
            eprintln!("engine:      fuse, because eBPF cannot be used: {error:#}");
            for part in ["upper", "work"] {
                let path = run.path().join(part);
                if path.exists() {
                    fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))?;
                }
            }
        }
        let fuse = FuseLog::mount(merged, &dir(run, "fuse")?)?;
        let rootfs = rootfs(&[fuse.mountpoint()], run)?;
        Ok(Self { rootfs, capture: Box::new(fuse), cgroup: None })
    }

    fn ebpf(ring_bytes: u32, layers: &[PathBuf], run: &RunDir) -> Result<Self> {
        let cgroup = Cgroup::new(&dir(run, "cgroup")?)?;
        let lower: Vec<&Path> = layers.iter().map(PathBuf::as_path).collect();
        let rootfs = rootfs(&lower, run)?;
        let capture = Ebpf::attach(&cgroup, layers, rootfs.path(), ring_bytes)?;
        Ok(Self { rootfs, capture: Box::new(capture), cgroup: Some(cgroup) })
    }

    /// The workload's root directory.
    pub(crate) fn rootfs(&self) -> &Path {
        self.rootfs.path()
    }

    /// The cgroup that the workload has to run in.
    pub(crate) fn cgroup(&self) -> Option<PathBuf> {
        self.cgroup.as_ref().map(|cgroup| cgroup.dir().to_owned())
    }
}

fn rootfs(lower: &[&Path], run: &RunDir) -> Result<Overlay> {
    let part = |name: &str| run.path().join(name);
    Ok(Overlay::writable(lower, &part("upper"), &part("work"), &part("rootfs"))?)
}

fn dir(run: &RunDir, name: &str) -> Result<PathBuf> {
    let path = run.path().join(name);
    fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
    Ok(path)
}
