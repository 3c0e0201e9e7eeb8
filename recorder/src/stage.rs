//! A root file system under observation: the engine, and the mounts and the cgroup that go with it.
//!
//! [`Stage`] owns all of them and takes them away in the right order. Which engine is used when nobody insists on one
//! is decided here; [`Stage::refused`] then says why it is not eBPF.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::capture::{Capture, CaptureError, Ebpf, EbpfError, FuseLog, Reads, Scope, Settings, TRACKED_MAX};
use crate::rootfs::{Overlay, RootfsError, RunDir};
use crate::workload::{Cgroup, CgroupError};

/// How accesses are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// eBPF where it can be used and sees every need, else FUSE.
    Auto,
    /// eBPF programs on the page cache: the workload runs on the layers themselves.
    Ebpf,
    /// A pass-through FUSE: page-exact, and slower for the workload.
    Fuse,
}

/// Why a root file system cannot be observed.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The workload's cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The eBPF programs.
    #[error(transparent)]
    Ebpf(#[from] EbpfError),
    /// The pass-through FUSE.
    #[error(transparent)]
    Fuse(#[from] CaptureError),
    /// The overlay.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// A directory of the run.
    #[error("{action} {path}")]
    Directory {
        /// What was being done.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// A root file system under observation.
#[derive(Debug)]
pub struct Stage {
    rootfs: Overlay,
    capture: Box<dyn Capture>,
    cgroup: Option<Cgroup>,
    no_cgroup: Option<CgroupError>,
    refused: Option<StageError>,
}

impl Stage {
    /// Sets it up in `run` for the layer directories `layers`, the topmost first, whose read-only view is `merged`.
    /// The settings are those of eBPF.
    pub fn new(
        engine: Engine,
        settings: &Settings,
        layers: &[PathBuf],
        merged: &Path,
        run: &RunDir,
    ) -> Result<Self, StageError> {
        let refused = match engine {
            Engine::Fuse => None,
            Engine::Ebpf => return Self::ebpf(settings, layers, run),
            // FUSE sees every need; page events alone do not.
            Engine::Auto => match Self::ebpf(&Settings { reads: Reads::Exact, ..*settings }, layers, run) {
                Ok(stage) => return Ok(stage),
                Err(error) => Some(error),
            },
        };
        let fuse = FuseLog::mount(merged, &make(run, "fuse")?)?;
        let rootfs = overlay(&[fuse.mountpoint()], run)?;
        Ok(Self { rootfs, capture: Box::new(fuse), cgroup: None, no_cgroup: None, refused })
    }

    fn ebpf(settings: &Settings, layers: &[PathBuf], run: &RunDir) -> Result<Self, StageError> {
        // Where no cgroup of the unified hierarchy can be used, the workload is told by its process tree.
        let (cgroup, no_cgroup) = match Cgroup::new(&make(run, "cgroup")?) {
            Ok(cgroup) => (Some(cgroup), None),
            Err(error @ (CgroupError::NoUnified | CgroupError::Namespace)) => (None, Some(error)),
            Err(error) => return Err(error.into()),
        };
        let lower: Vec<&Path> = layers.iter().map(PathBuf::as_path).collect();
        let rootfs = overlay(&lower, run)?;
        let scope = match &cgroup {
            Some(cgroup) => Scope::Cgroup { id: cgroup.id(), level: cgroup.level() },
            None => Scope::Tree { room: TRACKED_MAX },
        };
        let mut capture = Ebpf::watch(scope, settings)?;
        capture.identify(layers, rootfs.path(), Some(&run.path().join("upper")))?;
        Ok(Self { rootfs, capture: Box::new(capture), cgroup, no_cgroup, refused: None })
    }

    /// Why eBPF is not used although it was tried.
    pub fn refused(&self) -> Option<&StageError> {
        self.refused.as_ref()
    }

    /// Why the workload has no cgroup, although eBPF is used: its processes are tracked.
    pub fn no_cgroup(&self) -> Option<&CgroupError> {
        self.no_cgroup.as_ref()
    }

    /// The engine at work.
    pub fn capture(&mut self) -> &mut dyn Capture {
        self.capture.as_mut()
    }

    /// The workload's root directory.
    pub fn rootfs(&self) -> &Path {
        self.rootfs.path()
    }

    /// The cgroup that the workload has to run in.
    pub fn cgroup(&self) -> Option<&Path> {
        self.cgroup.as_ref().map(Cgroup::dir)
    }
}

/// The workload's root, writable. An attempt with another engine may have left an upper directory that belongs to other
/// layers: it goes, since nothing has run on it.
fn overlay(lower: &[&Path], run: &RunDir) -> Result<Overlay, StageError> {
    let part = |name: &str| run.path().join(name);
    for path in [part("upper"), part("work")] {
        match fs::remove_dir_all(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(StageError::Directory { action: "remove", path, source });
            }
            _ => {}
        }
    }
    let target = part("rootfs");
    fs::create_dir_all(&target).map_err(|source| StageError::Directory {
        action: "make",
        path: target.clone(),
        source,
    })?;
    Ok(Overlay::writable(lower, &part("upper"), &part("work"), &target)?)
}

fn make(run: &RunDir, name: &str) -> Result<PathBuf, StageError> {
    let path = run.path().join(name);
    match fs::create_dir(&path) {
        Ok(()) => Ok(path),
        Err(source) => Err(StageError::Directory { action: "make", path, source }),
    }
}
