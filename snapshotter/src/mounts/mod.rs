//! Where layers become file systems: all on one hidden connection to the kernel ([`crate::hidden`]), which outlives the
//! process.
//!
//! A layer is on the connection under a name that says all that its answers depend on. As an EROFS image it is mounted from its
//! one file; else its tree is shown where it belongs. Two mounts that would show the same share the place.
//!
//! A [`Mounts`] owns the connection of this process, and how many mounts use each name. What must always hold: nothing that
//! the connection serves is touched by this process, only by helpers; a name that is not used any more is served until the
//! kernel has forgotten it; nothing is unmounted or waited for on drop.

mod error;
pub(crate) mod kernel;
mod mounted;
mod options;
mod tree;

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::mount::UnmountFlags;
use tokio::runtime::Handle;

pub use error::MountError;
pub use mounted::Mounted;
pub use options::{FuseOptions, Keep, MountsOptions};

use crate::erofs::device::Device;
use crate::fs::LayerFs;
use crate::hidden::helper::Work;
use crate::hidden::holder::Holder;
use crate::hidden::{
    Connection, Helpers, HiddenError, KeepError, Keeper, Nobody, Options, Terms, Timeouts, Tree,
};
use crate::idmap::IdMaps;
use crate::telemetry::stats::Stats;
use kernel::Kernel;
use tree::Served;

/// Where the hidden file system is mounted, below the daemon's directory.
pub const HIDDEN: &str = "hidden";
/// The holder's socket, there, too.
pub const HOLDER_SOCKET: &str = "holder.sock";
/// How long one mount may take.
const MOUNT_LIMIT: Duration = Duration::from_secs(30);
/// How long an earlier process that still serves may go on.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long requests in work may take when the process leaves.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// The mounts of one process.
#[derive(Debug)]
pub struct Mounts {
    options: MountsOptions,
    helpers: Arc<Helpers>,
    connection: Mutex<Option<Arc<Connection>>>,
    /// How many mounts use a name. Held while a name comes or goes.
    users: Mutex<HashMap<String, usize>>,
    /// Images are wanted, and none has failed in a way that is of all.
    images: AtomicBool,
    runtime: Handle,
    stats: Arc<Stats>,
}

impl Mounts {
    /// Opens nothing yet.
    pub fn new(options: MountsOptions, runtime: Handle, stats: Arc<Stats>) -> Arc<Self> {
        let mut program = options.program.clone();
        program.words.push("assist".into());
        Arc::new(Self {
            helpers: Arc::new(Helpers::new(program)),
            images: AtomicBool::new(options.fuse.erofs),
            options,
            connection: Mutex::default(),
            users: Mutex::default(),
            runtime,
            stats,
        })
    }

    /// The connection; the first call takes over what an earlier process has left, or makes a new one. Blocking.
    fn connection(&self) -> Result<Arc<Connection>, MountError> {
        let mut connection = self.connection.lock();
        if let Some(connection) = &*connection {
            return Ok(Arc::clone(connection));
        }
        let keeper = self.keeper().map_err(|error| MountError::Connection(HiddenError::Keeper(error)))?;
        let fuse = &self.options.fuse;
        let options = Options {
            mountpoint: self.hidden(),
            helpers: Arc::clone(&self.helpers),
            readers: fuse.threads.max(1),
            patience: PATIENCE,
            terms: Terms { read_ahead: fuse.read_ahead.max(4096), ..Terms::default() },
            timeouts: Timeouts {
                attr: fuse.attr_timeout,
                entry: fuse.entry_timeout,
                negative: fuse.negative_timeout,
            },
            without_resend: false,
        };
        let opened = Arc::new(Connection::open(keeper, options).map_err(MountError::Connection)?);
        *connection = Some(Arc::clone(&opened));
        Ok(opened)
    }

    fn keeper(&self) -> Result<Box<dyn Keeper>, KeepError> {
        let socket = self.options.root.join(HOLDER_SOCKET);
        let Keep::Mounts { abort_after } = self.options.keep else {
            // One with another configuration may have left mounts, whose readers would wait for nobody.
            if let Some(mut holder) = Holder::connect(&socket)? {
                holder.acquire(PATIENCE)?;
                holder.give_up()?;
            }
            return Ok(Box::new(Nobody));
        };
        let program = &self.options.program;
        let mut hold = Command::new(&program.path);
        std::os::unix::process::CommandExt::arg0(&mut hold, &program.name);
        let seconds: OsString = abort_after.as_secs().to_string().into();
        hold.args(&program.words).arg("hold").arg("--socket").arg(&socket).arg("--abort-after").arg(seconds);
        Ok(Box::new(Holder::connect_or_start(&socket, &mut hold)?))
    }

    /// Begins to serve. Whether an earlier process has served before: what it has mounted is still there. Blocking.
    ///
    /// # Errors
    /// When there is no connection to the kernel.
    pub fn begin(&self) -> Result<bool, MountError> {
        Ok(self.connection()?.is_resumed())
    }

    fn hidden(&self) -> PathBuf {
        self.options.root.join(HIDDEN)
    }

    /// What is mounted below a directory, with the name of the layer that it shows, if that is one of ours.
    ///
    /// # Errors
    /// When the mount table cannot be read.
    pub fn below(&self, directory: &Path) -> Result<HashMap<PathBuf, Option<String>>, MountError> {
        mounted::below(directory, &self.hidden()).map_err(MountError::Table)
    }

    /// Stops to serve what an earlier process has served and nobody has asked for here, but for names that `stay`. Who still
    /// reads it gets ESTALE.
    pub fn drop_awaited(&self, stay: impl Fn(&str) -> bool) {
        let connection = self.connection.lock().clone();
        let Some(connection) = connection else { return };
        for (slot, name) in connection.awaited() {
            if std::str::from_utf8(&name).is_ok_and(&stay) {
                continue;
            }
            tracing::info!(name = %String::from_utf8_lossy(&name), "a layer of an earlier process is not served any more");
            connection.detach(slot);
        }
    }

    /// Whether layers are to be mounted as images.
    pub(crate) fn wants_images(&self) -> bool {
        self.images.load(Ordering::Relaxed)
    }

    /// Images cannot be mounted here at all.
    pub(crate) fn give_up_images(&self) {
        self.images.store(false, Ordering::Relaxed);
    }

    /// Mounts a layer's image on an existing directory; `keep` is kept as long as the kernel may ask. Blocking.
    pub(crate) fn mount_image<K: Send + Sync + 'static>(
        &self,
        name: &str,
        device: &Arc<Device>,
        keep: K,
        mountpoint: &Path,
    ) -> Result<Mounted, MountError> {
        let mounted = self.attach_image(name, device, keep, mountpoint)?;
        let connection = self.connection()?;
        let read_ahead = self.options.fuse.read_ahead;
        if let Err(source) = connection.mount_image(name, mountpoint, read_ahead, MOUNT_LIMIT) {
            self.leave(&mounted);
            return Err(MountError::Image { path: mountpoint.to_owned(), source });
        }
        if let Err(error) = mounted.kernel.give_metadata() {
            tracing::debug!(%error, "the kernel asks for the image's metadata");
        }
        Ok(mounted)
    }

    /// Shows a layer's tree on an existing directory; `keep` is kept as long as the kernel may ask. Blocking.
    pub(crate) fn mount_tree<K: Send + Sync + 'static>(
        &self,
        name: &str,
        fs: Arc<LayerFs>,
        keep: K,
        mountpoint: &Path,
    ) -> Result<Mounted, MountError> {
        let mounted = self.attach_tree(name, fs, keep, mountpoint)?;
        if let Err(source) = self.connection()?.bind(name, mountpoint, MOUNT_LIMIT) {
            self.leave(&mounted);
            return Err(MountError::Tree { path: mountpoint.to_owned(), source });
        }
        Ok(mounted)
    }

    /// Shows what is in `source` on `mountpoint`, an existing directory, with the ids of a user namespace. Blocking.
    ///
    /// # Errors
    /// When the file system of `source` or the kernel cannot.
    pub(crate) fn show_mapped(
        &self,
        source: &Path,
        mountpoint: &Path,
        maps: &IdMaps,
    ) -> Result<(), MountError> {
        let (path, to) = (source.to_owned(), mountpoint.to_owned());
        let work = Work::ShowMapped { source: path.clone(), mountpoint: to, maps: Box::new(maps.clone()) };
        self.helpers.run(&work, MOUNT_LIMIT).map_err(|source| MountError::Mapped { path, source })
    }

    /// Serves a layer whose image is mounted already.
    pub(crate) fn attach_image<K: Send + Sync + 'static>(
        &self,
        name: &str,
        device: &Arc<Device>,
        keep: K,
        mountpoint: &Path,
    ) -> Result<Mounted, MountError> {
        self.attach(name, self.served(Arc::clone(device), keep), Some(Arc::clone(device)), mountpoint)
    }

    /// Serves a layer whose tree is shown already.
    pub(crate) fn attach_tree<K: Send + Sync + 'static>(
        &self,
        name: &str,
        fs: Arc<LayerFs>,
        keep: K,
        mountpoint: &Path,
    ) -> Result<Mounted, MountError> {
        self.attach(name, self.served(fs, keep), None, mountpoint)
    }

    fn served<A, K>(&self, of: Arc<A>, keep: K) -> Arc<Served<A, K>> {
        Arc::new(Served { of, runtime: self.runtime.clone(), stats: Arc::clone(&self.stats), _keep: keep })
    }

    fn attach(
        &self,
        name: &str,
        tree: Arc<dyn Tree>,
        device: Option<Arc<Device>>,
        mountpoint: &Path,
    ) -> Result<Mounted, MountError> {
        let connection = self.connection()?;
        let mut users = self.users.lock();
        let slot = connection.attach(name, tree)?;
        *users.entry(name.to_owned()).or_default() += 1;
        drop(users);
        let kernel = Arc::new(Kernel::new(mountpoint, slot, &connection, device));
        Ok(Mounted { mountpoint: mountpoint.to_owned(), name: name.to_owned(), slot, kernel })
    }

    /// Takes a mount away, and waits for nobody who still uses it. Blocking, for a moment.
    pub fn unmount(&self, mounted: &Mounted) {
        mounted.kernel.leave();
        if let Err(error) = detach(&mounted.mountpoint) {
            tracing::warn!(mountpoint = %mounted.mountpoint.display(), %error, "layer could not be unmounted");
        }
        self.leave(mounted);
    }

    /// One mount less has its name.
    fn leave(&self, mounted: &Mounted) {
        mounted.kernel.leave();
        let Some(connection) = self.connection.lock().clone() else { return };
        let mut users = self.users.lock();
        let Some(count) = users.get_mut(&mounted.name) else { return };
        *count -= 1;
        if *count > 0 {
            return;
        }
        users.remove(&mounted.name);
        // Under the lock: whoever wants the name again must find it either whole or gone.
        let retired = connection.retire(mounted.slot);
        drop(users);
        if let Some(name) = retired {
            connection.forget(mounted.slot, &name);
        }
    }

    /// Ends the service of this process. What outlives it by [`Keep`] stays as it is: readers wait for the next one.
    /// Everything else was unmounted before. Blocking, for a second at most.
    pub fn close(&self) {
        let Some(connection) = self.connection.lock().take() else { return };
        if self.options.keep == Keep::Nothing
            && let Err(error) = connection.end()
        {
            tracing::warn!(%error, "the hidden file system could not be unmounted");
        }
        let left = connection.leave(LAST_ANSWERS);
        if left > 0 {
            tracing::info!(left, "requests are left to the next process");
        }
    }

    /// What outlives this process.
    pub const fn keep(&self) -> Keep {
        self.options.keep
    }

    /// Sees to it that the connection has a keeper, for as long as the process serves: a holder may be ended by somebody. Blocking.
    pub fn look_after(&self) {
        let connection = self.connection.lock().clone();
        let Some(connection) = connection.filter(|connection| !connection.is_kept()) else { return };
        tracing::warn!("the holder has ended: another one is started");
        let renewed = self.keeper().and_then(|keeper| connection.renew(keeper));
        match renewed {
            Ok(()) => tracing::info!("the mounts have a keeper again"),
            Err(error) => tracing::error!(%error, "nobody keeps the mounts if this process dies"),
        }
    }
}

/// Takes what is mounted on a directory out of the tree. It touches nothing of it.
///
/// # Errors
/// When nothing is mounted there, or the kernel refuses.
pub fn detach(mountpoint: &Path) -> std::io::Result<()> {
    Ok(rustix::mount::unmount(mountpoint, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?)
}
