//! The disk of the daemon: a small one, so that it can be full. A [`Disk`] owns the mount.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// Bytes of it: more than all images of a run that are there at the same time.
const SIZE: &str = "size=400m,mode=700";
/// What takes the room.
const FILLER: &str = "filler";
const PIECE: usize = 1 << 20;

/// A small file system in memory.
#[derive(Debug)]
pub(crate) struct Disk(PathBuf);

impl Disk {
    /// Mounts it on a directory, which is made.
    pub(crate) fn new(on: &Path) -> Self {
        fs::create_dir_all(on).expect("a directory can be made");
        let options = std::ffi::CString::new(SIZE).expect("no NUL");
        mount("chaos", on, "tmpfs", MountFlags::empty(), options.as_c_str()).expect("a tmpfs can be mounted");
        Self(on.to_owned())
    }

    /// Takes all room. Drop of what comes back gives it back.
    pub(crate) fn fill(&self) -> Full {
        let path = self.0.join(FILLER);
        let file = File::options().create(true).append(true).mode(0o600).open(&path);
        let mut file = file.expect("a file can be made");
        let mut piece = vec![1; PIECE];
        while !piece.is_empty() {
            if file.write_all(&piece).is_err() {
                piece.truncate(piece.len() / 2);
            }
        }
        Full(path)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.0, UnmountFlags::DETACH) {
            eprintln!("{} stays mounted: {error}", self.0.display());
        }
    }
}

/// A disk without room.
#[derive(Debug)]
pub(crate) struct Full(PathBuf);

impl Drop for Full {
    fn drop(&mut self) {
        fs::remove_file(&self.0).expect("it is there");
    }
}
