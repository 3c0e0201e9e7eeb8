//! A directory of this machine under observation, while a command of the machine uses it.
//!
//! [`Watched`] owns the eBPF programs and the cgroup that the command has to run in. There is no mount in between: the
//! command reaches the files where they are, which is why a FUSE can see nothing of it.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::statfs;

use crate::capture::{Capture, Ebpf, EbpfError, Settings};
use crate::stage::Engine;
use crate::workload::{Cgroup, CgroupError};

/// File systems that have no page cache of their own to be watched: memory is all they have.
const MEMORY: [(i64, &str); 2] = [(0x0102_1994, "tmpfs"), (0x8584_58f6, "ramfs")];

/// Why a directory cannot be observed.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The FUSE engine was asked for.
    #[error(
        "the command reads the directory itself, and not through a FUSE: only the eBPF engine can see it"
    )]
    Fuse,
    /// Reads of these files are seen by nobody.
    #[error(
        "{path} is on {name}: its files are in memory, and reads of them do not pass the page cache's tracepoints"
    )]
    Memory {
        /// The directory.
        path: PathBuf,
        /// Its file system.
        name: &'static str,
    },
    /// The directory cannot be looked at.
    #[error("look at {path}")]
    Look {
        /// The directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The command's cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The eBPF programs.
    #[error(transparent)]
    Ebpf(#[from] EbpfError),
}

/// A directory under observation.
#[derive(Debug)]
pub struct Watched {
    capture: Ebpf,
    cgroup: Cgroup,
}

impl Watched {
    /// Watches the regular files that are below `dir` now, on its file system. `mountpoint` is as for [`Cgroup::new`].
    pub fn new(
        engine: Engine,
        settings: &Settings,
        dir: &Path,
        mountpoint: &Path,
    ) -> Result<Self, DirectoryError> {
        if engine == Engine::Fuse {
            return Err(DirectoryError::Fuse);
        }
        let kind = statfs(dir)
            .map_err(|errno| DirectoryError::Look { path: dir.into(), source: errno.into() })?
            .f_type;
        if let Some((_, name)) = MEMORY.iter().find(|(magic, _)| *magic == kind as i64) {
            return Err(DirectoryError::Memory { path: dir.into(), name });
        }
        let cgroup = Cgroup::new(mountpoint)?;
        let capture = Ebpf::attach(&cgroup, &[dir.to_owned()], dir, dir, settings)?;
        Ok(Self { capture, cgroup })
    }

    /// The engine at work.
    pub fn capture(&mut self) -> &mut dyn Capture {
        &mut self.capture
    }

    /// The cgroup that the command has to run in.
    pub fn cgroup(&self) -> &Path {
        self.cgroup.dir()
    }
}
