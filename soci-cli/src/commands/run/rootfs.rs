//! The container's root file system: what the snapshotter's mounts say, mounted. A [`Rootfs`] owns the mount.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use recorder::rootfs::Overlay;
use rustix::mount::{UnmountFlags, mount_bind_recursive, unmount};
use soci_core::containerd::types::Mount;

/// The container's root file system, as the snapshotter's mounts describe it.
#[derive(Debug)]
pub(super) enum Rootfs {
    Overlay(Overlay),
    Bind(PathBuf),
}

impl Rootfs {
    pub(super) fn mount(mounts: &[Mount], target: &Path) -> Result<Self> {
        let [mount] = mounts else { bail!("the snapshotter gave {} mounts, expected one", mounts.len()) };
        match mount.r#type.as_str() {
            "overlay" => Ok(Self::Overlay(Overlay::from_options(&mount.options, target)?)),
            "bind" => {
                fs::create_dir_all(target).with_context(|| format!("cannot make {}", target.display()))?;
                mount_bind_recursive(mount.source.as_str(), target).context("cannot bind the snapshot")?;
                Ok(Self::Bind(target.to_path_buf()))
            }
            other => bail!("the snapshotter gave a mount of type {other:?}"),
        }
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Overlay(overlay) => overlay.path(),
            Self::Bind(path) => path,
        }
    }
}

impl Drop for Rootfs {
    fn drop(&mut self) {
        if let Self::Bind(path) = self
            && let Err(errno) = unmount(path.as_path(), UnmountFlags::DETACH)
        {
            tracing::warn!(path = %path.display(), %errno, "cannot unmount the snapshot");
        }
    }
}
