//! Overlay mounts. Owns one mount; dropping it unmounts.
//!
//! Directories are named to the kernel by descriptor (`/proc/self/fd/N`): short enough for the longest chain of layers
//! that an image may have, and free of characters that would need quoting.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::RootfsError;

/// A mounted overlay.
#[derive(Debug)]
pub struct Overlay {
    target: PathBuf,
}

impl Overlay {
    /// The merged view of layers, the topmost first, read-only.
    ///
    /// `empty` is made as an empty directory and becomes the lowest layer: overlayfs wants at least two.
    pub fn read_only(layers: &[PathBuf], empty: &Path, target: &Path) -> Result<Self, RootfsError> {
        fs::create_dir_all(empty).map_err(RootfsError::state("make", empty))?;
        let lower: Vec<&Path> = layers.iter().map(PathBuf::as_path).chain([empty]).collect();
        Self::mount(&lower, None, &[], target)
    }

    /// A writable view of `lower`; what is written goes to `upper`. `work` is on the same file system, both are made.
    pub fn writable(lower: &[&Path], upper: &Path, work: &Path, target: &Path) -> Result<Self, RootfsError> {
        for dir in [upper, work] {
            fs::create_dir_all(dir).map_err(RootfsError::state("make", dir))?;
        }
        Self::mount(lower, Some((upper, work)), &[], target)
    }

    /// The overlay that mount options describe, as a snapshotter gives them: `lowerdir=`, `upperdir=`, `workdir=` and
    /// whatever else.
    pub fn from_options(options: &[String], target: &Path) -> Result<Self, RootfsError> {
        let value = |key: &str| options.iter().find_map(|option| option.strip_prefix(key));
        let lower: Vec<&Path> = value("lowerdir=").unwrap_or_default().split(':').map(Path::new).collect();
        let upper = value("upperdir=").zip(value("workdir="));
        let named = ["lowerdir=", "upperdir=", "workdir="];
        let known = |option: &&String| {
            matches!(option.as_str(), "ro" | "rw") || named.iter().any(|key| option.starts_with(key))
        };
        let others: Vec<&str> = options.iter().filter(|option| !known(option)).map(String::as_str).collect();
        Self::mount(&lower, upper.map(|(upper, work)| (Path::new(upper), Path::new(work))), &others, target)
    }

    fn mount(
        lower: &[&Path],
        upper: Option<(&Path, &Path)>,
        others: &[&str],
        target: &Path,
    ) -> Result<Self, RootfsError> {
        fs::create_dir_all(target).map_err(RootfsError::state("make", target))?;
        let lower = lower.iter().map(|dir| open(dir)).collect::<Result<Vec<_>, _>>()?;
        let names: Vec<String> = lower.iter().map(name).collect();
        let mut options = format!("lowerdir={}", names.join(":"));
        let upper = upper.map(|(upper, work)| Ok((open(upper)?, open(work)?))).transpose()?;
        let mut flags = MountFlags::empty();
        match &upper {
            Some((upper, work)) => {
                options = format!("{options},upperdir={},workdir={}", name(upper), name(work));
            }
            None => flags |= MountFlags::RDONLY,
        }
        for other in others {
            options = format!("{options},{other}");
        }
        let options =
            CString::new(options).map_err(|error| RootfsError::state("mount", target)(error.into()))?;
        mount("overlay", target, "overlay", flags, options.as_c_str())
            .map_err(|errno| RootfsError::Mount { path: target.into(), source: errno.into() })?;
        Ok(Self { target: target.into() })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.target
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        if let Err(errno) = unmount(&self.target, UnmountFlags::DETACH) {
            tracing::warn!(path = %self.target.display(), %errno, "cannot unmount overlay");
        }
    }
}

fn open(dir: &Path) -> Result<OwnedFd, RootfsError> {
    openat(CWD, dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| RootfsError::state("open", dir)(io::Error::from(errno)))
}

fn name(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}
