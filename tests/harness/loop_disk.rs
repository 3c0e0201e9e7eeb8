//! A file system of its own kind in a file, mounted through a loop device.
//!
//! [`LoopDisk`] owns the file and the mount; dropping it takes both away.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::{UnmountFlags, unmount};
use tempfile::TempDir;

/// Smallest size that `mkfs.xfs` takes; the file has holes.
const SIZE: u64 = 320 << 20;

/// The mounted file system.
#[derive(Debug)]
pub struct LoopDisk {
    mountpoint: PathBuf,
    _dir: TempDir,
}

impl LoopDisk {
    /// An XFS, whose files can share blocks.
    ///
    /// # Panics
    /// When it cannot be made or mounted.
    pub fn xfs(below: &Path) -> Self {
        let dir = tempfile::tempdir_in(below).expect("a temporary directory");
        let (file, mountpoint) = (dir.path().join("disk"), dir.path().join("mount"));
        std::fs::File::create(&file).and_then(|file| file.set_len(SIZE)).expect("make the file");
        std::fs::create_dir(&mountpoint).expect("make the directory");
        run(Command::new("mkfs.xfs").arg("-q").arg(&file));
        run(Command::new("mount").args(["-o", "loop"]).args([&file, &mountpoint]));
        Self { mountpoint, _dir: dir }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.mountpoint
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        let _ = unmount(&self.mountpoint, UnmountFlags::DETACH); // its loop device goes with it
    }
}

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error} (Debian: xfsprogs)"));
    assert!(status.success(), "{command:?}");
}
