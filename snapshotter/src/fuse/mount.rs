//! Mounting a layer, and unmounting it.
//!
//! We mount by ourselves with mount(2) and hand the descriptor of /dev/fuse to the session: the mount is then ours alone
//! to take away, and the descriptor can outlive a session. An image's file system of FUSE is mounted nowhere. A [`FuseMount`] owns its mountpoint and unmounts on drop.
//!
//! What must always hold: nobody waits for a file system to end that others may use for as long as they like.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use fuser::{BackgroundSession, Config, Filesystem, Session, SessionACL};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, UnmountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use soci_core::unpack::UnpackError;

use super::Adapter;
use super::device;
use super::kernel::Kernel;
use crate::erofs;
use crate::erofs::device::Device;
use crate::fs::LayerFs;

/// Name of the device in the mount table.
const SOURCE: &str = "soci";
/// Options of each mount, besides the device's descriptor.
const OPTIONS: &str = "rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions";
/// How long the last answers of a file system that nobody uses may take, before who unmounts it goes on.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// Bytes of metadata that are given to the kernel at once.
const METADATA_AT_ONCE: usize = 1 << 20;

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
    /// The kernel cannot mount images from files, or not this one.
    #[error("erofs mount on {path} failed")]
    Image {
        /// The mountpoint.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The layers below could not be asked what directories look like that this one implies.
    #[error("read what the layers below say of the layer's directories")]
    Below(#[source] UnpackError),
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

impl MountError {
    /// Does it say that this machine mounts no images, and not only this one not now? `any_before`: it has mounted some.
    pub(crate) fn is_of_every_image(&self, any_before: bool) -> bool {
        let Self::Image { source, .. } = self else { return false };
        let Some(errno) = Errno::from_io_error(source) else { return false };
        match errno {
            // No EROFS; none from files; no system call; a /sys that cannot be written.
            Errno::NODEV | Errno::NOTBLK | Errno::NOSYS | Errno::ROFS => true,
            // Older kernels say so to files, and all to an image that they do not understand.
            Errno::INVAL => !any_before,
            _ => false,
        }
    }
}

/// A mounted layer: a file system of FUSE, or an image whose file is in one. Dropping it unmounts; files that are still open stay readable until they are closed.
#[derive(Debug)]
pub struct FuseMount {
    mountpoint: PathBuf,
    session: Option<BackgroundSession>,
    kernel: Option<Arc<Kernel>>,
    /// It has left the tree.
    is_over: bool,
}

impl FuseMount {
    /// Mounts and starts answering; returns after the kernel's INIT was answered.
    pub(crate) fn new<K: Send + Sync + 'static>(
        adapter: Adapter<LayerFs, K>,
        mountpoint: &Path,
    ) -> Result<Self, MountError> {
        let threads = adapter.options.threads;
        let device = device()?;
        let options = CString::new(options(&device)).expect("the options have no NUL");
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
        let mut mount =
            Self { mountpoint: mountpoint.to_owned(), session: None, kernel: None, is_over: false };
        let session = serve(adapter, device, threads)
            .map_err(|source| MountError::Session { path: mountpoint.to_owned(), source })?;
        let notifier = session.notifier();
        mount.session = Some(session);
        mount.kernel =
            Kernel::new(mountpoint, notifier, None).map(Arc::new).map_err(cannot_tell(mountpoint)).ok();
        Ok(mount)
    }

    /// Mounts a layer's image: the kernel has its names and attributes, and asks for content only.
    pub(crate) fn of_image<K: Send + Sync + 'static>(
        adapter: Adapter<Device, K>,
        mountpoint: &Path,
    ) -> Result<Self, MountError> {
        let mount_error = |source: io::Error| MountError::Image { path: mountpoint.to_owned(), source };
        let (threads, read_ahead) = (adapter.options.threads, adapter.options.read_ahead);
        let image = Arc::clone(&adapter.of);
        let device = device()?;
        // Nobody else sees this file system: it is as long as the image is mounted.
        let hidden = detached(&device).map_err(|errno| mount_error(errno.into()))?;
        let session = serve(adapter, device, threads)
            .map_err(|source| MountError::Session { path: mountpoint.to_owned(), source })?;
        let notifier = session.notifier();
        let mounted = openat(&hidden, device::NAME, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(io::Error::from)
            .and_then(|file| {
                for (at, part) in image.image().metadata().chunks(METADATA_AT_ONCE).enumerate() {
                    notifier.store(device::FILE, (at * METADATA_AT_ONCE) as u64, part)?;
                }
                erofs::mount::mount(file.as_fd(), mountpoint, read_ahead)
            });
        drop(hidden);
        if let Err(error) = mounted {
            reap(session, mountpoint, LAST_ANSWERS);
            return Err(mount_error(error));
        }
        let kernel = Kernel::new(mountpoint, notifier, Some(image));
        let kernel = kernel.map(Arc::new).map_err(cannot_tell(mountpoint)).ok();
        Ok(Self { mountpoint: mountpoint.to_owned(), session: Some(session), kernel, is_over: false })
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

fn device() -> Result<File, MountError> {
    File::options().read(true).write(true).open("/dev/fuse").map_err(MountError::Device)
}

fn options(device: &File) -> String {
    format!("fd={},{OPTIONS}", device.as_raw_fd())
}

/// A file system of FUSE that is mounted nowhere.
fn detached(device: &File) -> rustix::io::Result<OwnedFd> {
    let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", SOURCE)?;
    for option in options(device).split(',') {
        match option.split_once('=') {
            Some((key, value)) => fsconfig_set_string(&context, key, value)?,
            None => fsconfig_set_flag(&context, option)?,
        }
    }
    fsconfig_set_flag(&context, "ro")?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)
}

/// Starts answering; returns after the kernel's INIT was answered.
fn serve<F: Filesystem + Send + 'static>(
    adapter: F,
    device: File,
    threads: usize,
) -> io::Result<BackgroundSession> {
    let mut config = Config::default();
    config.acl = SessionACL::All;
    config.n_threads = Some(threads.max(1));
    Session::from_fd(adapter, device.into(), SessionACL::All, config)?.spawn()
}

fn cannot_tell(mountpoint: &Path) -> impl FnOnce(io::Error) + '_ {
    move |error| {
        tracing::warn!(mountpoint = %mountpoint.display(), %error, "the kernel can be told nothing ahead");
    }
}

impl FuseMount {
    /// Takes it out of the tree, and waits for nobody who still uses it.
    pub(crate) fn leave(mut self) {
        self.detach(Duration::ZERO);
    }

    fn detach(&mut self, patience: Duration) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        if let Some(kernel) = &self.kernel {
            kernel.leave();
        }
        if let Err(error) = rustix::mount::unmount(&self.mountpoint, UnmountFlags::DETACH) {
            tracing::warn!(mountpoint = %self.mountpoint.display(), %error, "layer could not be unmounted");
        }
        if let Some(session) = self.session.take() {
            reap(session, &self.mountpoint, patience);
        }
    }
}

impl Drop for FuseMount {
    fn drop(&mut self) {
        self.detach(LAST_ANSWERS);
    }
}

/// Waits for the end of a session, so long. It ends with the last user of its file system, and that may be an overlay, or
/// a copy of the mount in another namespace: then the wait goes on beside us.
fn reap(session: BackgroundSession, mountpoint: &Path, patience: Duration) {
    let (mountpoint, (done, ended)) = (mountpoint.to_owned(), sync_channel(1));
    let reaper = thread::Builder::new().name("fuse-reaper".into()).spawn(move || {
        if let Err(error) = session.join() {
            tracing::warn!(mountpoint = %mountpoint.display(), %error, "fuse session ended with an error");
        }
        let _ = done.send(()); // nobody may wait any more
    });
    // Without a thread for it, nobody waits.
    if reaper.is_ok() && ended.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
        tracing::debug!("a layer that was unmounted is still in use");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_image_that_fails_says_nothing_of_the_others() {
        let failed = |errno: Errno| MountError::Image { path: PathBuf::new(), source: errno.into() };
        for errno in [Errno::MFILE, Errno::NOMEM, Errno::BUSY, Errno::IO] {
            assert!(!failed(errno).is_of_every_image(false), "{errno}");
        }
        assert!(failed(Errno::NODEV).is_of_every_image(true));
        assert!(
            failed(Errno::INVAL).is_of_every_image(false) && !failed(Errno::INVAL).is_of_every_image(true)
        );
        assert!(!MountError::Device(Errno::NODEV.into()).is_of_every_image(false));
    }
}
