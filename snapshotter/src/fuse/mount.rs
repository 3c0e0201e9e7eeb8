//! Mounting a layer, and unmounting it.
//!
//! We mount by ourselves with mount(2) and hand the descriptor of /dev/fuse to the session: the mount is then ours alone
//! to take away, and the descriptor can outlive a session. A [`FuseMount`] owns its mountpoint and unmounts on drop.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fuser::{BackgroundSession, Config, Session, SessionACL};
use rustix::mount::{MountFlags, UnmountFlags};

use super::Adapter;
use super::kernel::Kernel;

/// Name of the device in the mount table.
const SOURCE: &str = "soci";

/// Why a layer could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// /dev/fuse is not there or not allowed.
    #[error("/dev/fuse cannot be opened")]
    Device(#[source] io::Error),
    /// mount(2) failed.
    #[error("fuse mount on {path} failed")]
    Mount {
        /// The mountpoint.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The kernel did not begin to talk, or the event loops did not start.
    #[error("fuse session on {path} did not start")]
    Session {
        /// The mountpoint.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

/// A mounted layer. Dropping it unmounts; files that are still open stay readable until they are closed.
#[derive(Debug)]
pub struct FuseMount {
    mountpoint: PathBuf,
    session: Option<BackgroundSession>,
    kernel: Option<Arc<Kernel>>,
}

impl FuseMount {
    /// Mounts and starts answering; returns after the kernel's INIT was answered.
    pub(crate) fn new<K: Send + Sync + 'static>(
        adapter: Adapter<K>,
        mountpoint: &Path,
    ) -> Result<Self, MountError> {
        let threads = adapter.options.threads.max(1);
        let device = File::options().read(true).write(true).open("/dev/fuse").map_err(MountError::Device)?;
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions",
            device.as_raw_fd()
        );
        let options = CString::new(options).expect("the options have no NUL");
        let mount_error = |source: io::Error| MountError::Mount { path: mountpoint.to_owned(), source };
        rustix::mount::mount(
            SOURCE,
            mountpoint,
            "fuse.soci",
            MountFlags::RDONLY | MountFlags::NOATIME,
            options.as_c_str(),
        )
        .map_err(|errno| mount_error(errno.into()))?;
        // From here on dropping unmounts.
        let mut mount = Self { mountpoint: mountpoint.to_owned(), session: None, kernel: None };
        let mut config = Config::default();
        config.acl = SessionACL::All;
        config.n_threads = Some(threads);
        let session = Session::from_fd(adapter, device.into(), SessionACL::All, config)
            .and_then(Session::spawn)
            .map_err(|source| MountError::Session { path: mountpoint.to_owned(), source })?;
        let notifier = session.notifier();
        mount.session = Some(session);
        match Kernel::new(mountpoint, notifier) {
            Ok(kernel) => mount.kernel = Some(Arc::new(kernel)),
            Err(error) => {
                tracing::warn!(mountpoint = %mountpoint.display(), %error, "the kernel can be told nothing ahead");
            }
        }
        Ok(mount)
    }

    /// The kernel's side.
    pub(crate) const fn kernel(&self) -> Option<&Arc<Kernel>> {
        self.kernel.as_ref()
    }

    /// Where it is mounted.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }
}

impl Drop for FuseMount {
    fn drop(&mut self) {
        if let Some(kernel) = &self.kernel {
            kernel.leave();
        }
        match rustix::mount::unmount(&self.mountpoint, UnmountFlags::empty()) {
            Ok(()) => {
                if let Some(session) = self.session.take()
                    && let Err(error) = session.join()
                {
                    tracing::warn!(mountpoint = %self.mountpoint.display(), %error, "fuse session ended with an error");
                }
            }
            // Still in use: it leaves the tree now, and its event loops end with the last user.
            Err(rustix::io::Errno::BUSY) => {
                if let Err(error) = rustix::mount::unmount(&self.mountpoint, UnmountFlags::DETACH) {
                    tracing::warn!(mountpoint = %self.mountpoint.display(), %error, "layer could not be unmounted");
                }
            }
            Err(error) => {
                tracing::warn!(mountpoint = %self.mountpoint.display(), %error, "layer could not be unmounted");
            }
        }
    }
}
