//! The FUSE access log: the image's root file system served through a pass-through FUSE that tells of every read.
//!
//! Owns the mount and the threads that serve it; dropping it takes both away. Needs CAP_SYS_ADMIN and `/dev/fuse`, no
//! eBPF.
//!
//! # What counts as the workload's wish
//! The kernel would read ahead of a workload, up to 128 KiB at a time and more for mapped files; those pages are a
//! guess, not a need. The connection therefore negotiates a readahead of less than one page, which the kernel rounds
//! down to none: a read asks for the pages that it covers, a fault for the one page that it hit. What is logged are
//! whole pages (4 KiB), cut at the end of the file; a page comes once, at its first need, because the kernel keeps it.
//! The page cache of a new mount is empty, so each recording is cold.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::thread::sleep;
use std::time::{Duration, Instant};

use fuser::{BackgroundSession, Config, Session, SessionACL};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::passthrough::Passthrough;
use super::{Capture, CaptureError, RawAccess};

/// Requests that are served at the same time.
const THREADS: usize = 4;
/// How long the serving threads may take to notice that the mount is gone.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// A mounted, recording file system.
#[derive(Debug)]
pub struct FuseLog {
    mountpoint: PathBuf,
    session: Option<BackgroundSession>,
    accesses: Receiver<RawAccess>,
}

impl FuseLog {
    /// Serves the tree at `backing`, which must not change, at `mountpoint`.
    pub fn mount(backing: &Path, mountpoint: &Path) -> Result<Self, CaptureError> {
        let at_backing =
            |errno: rustix::io::Errno| CaptureError::Backing { path: backing.into(), source: errno.into() };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, backing, flags, Mode::empty()).map_err(at_backing)?;
        let (log, accesses) = channel();
        let fs = Passthrough::new(root, log).map_err(at_backing)?;

        let at_mount = |source: std::io::Error| CaptureError::Mount { path: mountpoint.into(), source };
        let device =
            File::options().read(true).write(true).open("/dev/fuse").map_err(CaptureError::Device)?;
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions",
            device.as_raw_fd()
        );
        let options = CString::new(options).expect("our own words hold no NUL");
        let flags = MountFlags::RDONLY | MountFlags::NOATIME;
        mount("soci-record", mountpoint, "fuse.soci-record", flags, options.as_c_str())
            .map_err(|errno| at_mount(errno.into()))?;
        let mut log = Self { mountpoint: mountpoint.into(), session: None, accesses };
        let mut config = Config::default();
        config.n_threads = Some(THREADS);
        config.clone_fd = true;
        let session =
            Session::from_fd(fs, OwnedFd::from(device), SessionACL::All, config).map_err(at_mount)?;
        log.session = Some(session.spawn().map_err(at_mount)?);
        Ok(log)
    }

    /// Where it is mounted: the workload's root file system is to be an overlay over it.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }
}

impl Capture for FuseLog {
    fn engine(&self) -> &'static str {
        "fuse"
    }

    fn warm(&self) -> Option<bool> {
        Some(false) // its mount is new, and its page cache empty
    }

    fn measures_waits(&self) -> bool {
        true
    }

    fn partial(&self) -> Option<String> {
        None
    }

    fn next(&mut self, patience: Duration) -> Option<RawAccess> {
        self.accesses.recv_timeout(patience).ok()
    }

    fn dropped(&self) -> u64 {
        0 // the channel grows: nothing is ever left out
    }
}

impl Drop for FuseLog {
    fn drop(&mut self) {
        if let Err(errno) = unmount(&self.mountpoint, UnmountFlags::DETACH) {
            tracing::warn!(path = %self.mountpoint.display(), %errno, "cannot unmount the recording file system");
        }
        let Some(session) = self.session.take() else { return };
        let patience = Instant::now() + SHUTDOWN;
        while !session.guard.is_finished() && Instant::now() < patience {
            sleep(Duration::from_millis(1));
        }
    }
}
