//! The connection as the layers see it: taken over or made new, and the layers on it.
//!
//! A [`Connection`] owns the descriptor, the journal, the trees and the threads of this process, and the lease of its keeper.
//! The mount and the connection itself are nobody's: they outlive the process.
//!
//! What must always hold:
//! * The keeper has the descriptor and the journal before the first request is read.
//! * The kernel sends again what an earlier process had in hand before this process reads.
//! * Nothing is unmounted or waited for on drop.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::answer::{Answer, Terms, Timeouts};
use super::device::{Device, Notifier, resend};
use super::dispatch::Dispatch;
use super::flags;
use super::forest::Forest;
use super::helper::{HelperError, Helpers, Work};
use super::ids::{NodeId, Slot};
use super::journal::{Journal, JournalError};
use super::keeper::{FUSE, JOURNAL, KeepError, Keeper, Kept};
use super::mount;
use super::serve::Readers;
use super::tree::Tree;
use super::wire::{Header, Init, OLDEST_MINOR, Operation, PROBE};

/// Helper processes that wait for the first mounts and pages.
const HELPERS_AHEAD: usize = 2;
/// How long the kernel may take to learn which operations there are not.
const PRIME_LIMIT: Duration = Duration::from_secs(10);
/// How long a detached mount may take to leave the directory tree.
const DETACH_LIMIT: Duration = Duration::from_secs(10);

/// How a process serves the connection.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the hidden file system is mounted: a directory below the daemon's root that no container sees. It is made.
    pub mountpoint: PathBuf,
    /// Who works on the mount.
    pub helpers: Arc<Helpers>,
    /// Threads that read requests: 2 to 4.
    pub readers: usize,
    /// How long an earlier server may stay after this one asks for its place. It is killed then.
    pub patience: Duration,
    /// What a new connection is told.
    pub terms: Terms,
    /// How long the kernel keeps what it is told.
    pub timeouts: Timeouts,
    /// Do without the kernel's means to send requests again, for tests of what kernels before 6.9 need.
    pub without_resend: bool,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum HiddenError {
    /// The keeper failed.
    #[error(transparent)]
    Keeper(#[from] KeepError),
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The hidden file system was not mounted.
    #[error("cannot mount the hidden file system on {}", .path.display())]
    Mount {
        /// The directory.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The kernel's greeting was not understood.
    #[error(
        "cannot speak with the kernel's FUSE: it is of version {major}.{minor}, and 7.{OLDEST_MINOR} is needed"
    )]
    Version {
        /// Its major version.
        major: u32,
        /// Its minor version.
        minor: u32,
    },
    /// The kernel did not greet.
    #[error("the kernel sent no INIT request")]
    NoInit,
    /// The descriptor does not do what it should.
    #[error("cannot serve the connection")]
    Device(#[source] io::Error),
    /// An old server is in the kernel, and this kernel cannot take requests back from it.
    #[error(
        "the old server (before this one) cannot be ended, and this kernel cannot send its requests again"
    )]
    OldServer,
    /// The helper failed.
    #[error(transparent)]
    Helper(#[from] HelperError),
}

/// One connection, served by this process.
#[derive(Debug)]
pub struct Connection {
    dispatch: Arc<Dispatch>,
    /// Until the process leaves.
    readers: Mutex<Option<Readers>>,
    keeper: Mutex<Box<dyn Keeper>>,
    options: Options,
    resumed: bool,
    resends: bool,
}

impl Connection {
    /// Takes over the connection that the keeper has, or makes a new one. Returns when the threads serve. Blocking.
    ///
    /// The layers of an earlier process are [`Connection::awaited`] then: their readers wait until each is attached again or
    /// detached. The process must have no file of the mount open, then or later, and leaves no core dump: one delays
    /// the moment at which its successor may begin.
    pub fn open(mut keeper: Box<dyn Keeper>, options: Options) -> Result<Self, HiddenError> {
        forbid_core_dumps();
        let mut kept = keeper.acquire(options.patience)?;
        let earlier = (kept.take(FUSE), kept.take(JOURNAL));
        let (start, resumed) = match earlier {
            (Some(fuse), Some(journal)) if is_alive(&fuse) => {
                (Start::resume(fuse, journal, &kept, &options)?, true)
            }
            (fuse, _) => {
                if fuse.is_some() {
                    tracing::warn!("the connection of an earlier process has ended; a new one begins");
                }
                (Start::fresh(&mut *keeper, &options)?, false)
            }
        };
        let Start { fuse, journal, resends } = start;
        let journal = Arc::new(journal);
        let dispatch = Arc::new(Dispatch {
            device: Arc::new(Device::new(fuse)),
            forest: Forest::awaiting(journal.slots()),
            journal: Arc::clone(&journal),
            timeouts: options.timeouts,
            changing: Mutex::new(()),
        });
        let cells = (!resends).then_some(&journal);
        let readers = Readers::start(&dispatch, cells, options.readers).map_err(HiddenError::Device)?;
        let (readers, keeper) = (Mutex::new(Some(readers)), Mutex::new(keeper));
        let connection = Self { dispatch, readers, keeper, options, resumed, resends };
        if let Err(error) = connection.prime() {
            connection.abandon();
            return Err(error);
        }
        Ok(connection)
    }

    /// Takes down a connection that has just begun and has no layers; a resumed one stays, for whoever comes next.
    fn abandon(&self) {
        if !self.resumed
            && let Err(error) = mount::detach(&self.options.mountpoint)
        {
            tracing::warn!(mountpoint = %self.options.mountpoint.display(), %error, "cannot detach the mount of a failed start");
        }
        self.leave(Duration::ZERO);
    }

    /// Makes sure that the kernel knows which operations there are not, once for the connection.
    fn prime(&self) -> Result<(), HiddenError> {
        if !self.dispatch.journal.is_primed() {
            let mountpoint = self.options.mountpoint.clone();
            self.options.helpers.run(&Work::Prime { mountpoint }, PRIME_LIMIT)?;
            self.dispatch.journal.set_primed();
            // A process takes some milliseconds, and the first mount has none to lose.
            if let Err(error) = self.options.helpers.ahead(HELPERS_AHEAD) {
                tracing::debug!(%error, "helper processes are started when there is work");
            }
        }
        Ok(())
    }

    /// Whether an earlier process has served the connection.
    pub const fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// Layers of an earlier process that are not attached yet.
    pub fn awaited(&self) -> Vec<(Slot, Vec<u8>)> {
        self.dispatch.forest.awaited()
    }

    /// Serves a layer under a name, at once. A layer that an earlier process had under this name keeps its slot, and must be
    /// the same in all that the kernel may have kept. The name must not begin with a dot.
    pub fn attach(&self, name: &str, tree: Arc<dyn Tree>) -> Result<Slot, JournalError> {
        if name.as_bytes().starts_with(&PROBE[..1]) {
            return Err(JournalError::Name(name.len()));
        }
        let changing = self.dispatch.changing.lock();
        let slot = self.dispatch.journal.claim(name.as_bytes())?;
        let parked = self.dispatch.forest.attach(slot, name.as_bytes(), tree);
        drop(changing);
        self.dispatch.resume(parked);
        self.forget_listing();
        Ok(slot)
    }

    /// Stops serving a layer, attached or awaited. Who still reads it gets ESTALE. The slot is never used again.
    pub fn detach(&self, slot: Slot) {
        self.dispatch.release(slot, self.dispatch.changing.lock());
        self.forget_listing();
    }

    /// Takes a layer's name away: nobody finds it any more, and who has it open can still read it. The layer goes when the
    /// kernel has forgotten it ([`Connection::forget`]), unless its name is attached again before. It does not block.
    pub fn retire(&self, slot: Slot) -> Option<Vec<u8>> {
        let _changing = self.dispatch.changing.lock();
        self.dispatch.forest.retire(slot)
    }

    /// Tells the kernel to forget a name that was taken away. Blocks while another process looks something up on the hidden
    /// mount, and that may wait for a layer: no lock may be held that attaching needs.
    pub fn forget(&self, slot: Slot, name: &[u8]) {
        // What is in use then is forgotten with its last use. What nobody uses is forgotten now.
        match self.notifier().forget_name(NodeId::ROOT, name) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                let changing = self.dispatch.changing.lock();
                if self.dispatch.forest.is_retired(slot) {
                    self.dispatch.release(slot, changing);
                }
            }
            Err(error) => tracing::debug!(%error, "the kernel was not told that a layer is gone"),
        }
        self.forget_listing();
    }

    /// Layers that are served, and those of an earlier process that are awaited.
    pub fn layers(&self) -> usize {
        self.dispatch.journal.slots().len()
    }

    /// Whether the kernel can send requests again. If not, nothing may wait for pages that this process has to answer.
    pub const fn resends(&self) -> bool {
        self.resends
    }

    /// The kernel keeps a listing of the root directory until it is told. Names are looked up each time, so an old listing
    /// only misleads who looks at it.
    fn forget_listing(&self) {
        if let Err(error) = self.notifier().invalidate(NodeId::ROOT, 0, 0) {
            tracing::debug!(%error, "the kernel keeps its listing of the hidden mount");
        }
    }

    /// Where a layer is on the hidden mount. Only helpers may touch it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.options.mountpoint.join(name)
    }

    /// Mounts a layer that is an image on an existing directory. Blocking.
    ///
    /// # Errors
    /// When the helper fails, or is not done within `limit`.
    pub fn mount_image(
        &self,
        name: &str,
        on: &Path,
        read_ahead: u32,
        limit: Duration,
    ) -> Result<(), HelperError> {
        let work = Work::MountImage { image: self.path(name), mountpoint: on.to_owned(), read_ahead };
        self.options.helpers.run(&work, limit)
    }

    /// Shows a layer that is a tree on an existing directory. Blocking.
    ///
    /// # Errors
    /// When the helper fails, or is not done within `limit`.
    pub fn bind(&self, name: &str, on: &Path, limit: Duration) -> Result<(), HelperError> {
        self.options.helpers.run(&Work::Bind { tree: self.path(name), mountpoint: on.to_owned() }, limit)
    }

    /// Who works on the mount.
    pub fn helpers(&self) -> &Arc<Helpers> {
        &self.options.helpers
    }

    /// Tells the kernel what it has not asked for.
    pub fn notifier(&self) -> Notifier {
        Notifier::new(Arc::clone(&self.dispatch.device))
    }

    /// Requests that wait for content now.
    pub fn waiting(&self) -> usize {
        self.dispatch.device.waiting.len()
    }

    /// Answers that came too late: the reader was gone, or the request was answered before.
    pub fn late_answers(&self) -> u64 {
        self.dispatch.device.late()
    }

    /// Requests of an earlier process that came to this one.
    pub fn taken_over(&self) -> u64 {
        self.dispatch.device.taken_over()
    }

    /// Waits until the kernel has ended the connection, at most for `limit`. Whether it has.
    pub fn wait_over(&self, limit: Duration) -> bool {
        self.dispatch.device.wait_over(limit)
    }

    /// Stops reading, and answers what was read, at most for `limit`. The process should end then: its successor begins with
    /// that, and answers the rest. How many requests that are.
    pub fn leave(&self, limit: Duration) -> usize {
        let readers = self.readers.lock().take();
        readers.map_or(0, |readers| readers.leave(limit))
    }

    /// Whether the keeper is still there. If it is not, the connection ends with this process.
    pub fn is_kept(&self) -> bool {
        self.keeper.lock().is_there()
    }

    /// Gives the connection to another keeper, because the one before has ended.
    pub fn renew(&self, mut keeper: Box<dyn Keeper>) -> Result<(), KeepError> {
        keeper.acquire(self.options.patience)?;
        keeper.keep(&[(FUSE, self.dispatch.device.fd()), (JOURNAL, self.dispatch.journal.fd())])?;
        *self.keeper.lock() = keeper;
        Ok(())
    }

    /// Ends the connection: nothing may be mounted from it any more. Readers get errors.
    pub fn end(&self) -> Result<(), HiddenError> {
        let mountpoint = self.options.mountpoint.clone();
        self.options.helpers.run(&Work::Detach { mountpoint }, DETACH_LIMIT)?;
        Ok(self.keeper.lock().give_up()?)
    }
}

/// The process ends, or has failed to begin. Requests that it still has are its successor's: without this, whatever drops
/// their replies now would answer them with errors.
impl Drop for Connection {
    fn drop(&mut self) {
        self.dispatch.device.leave();
    }
}

/// What serving begins with.
struct Start {
    fuse: OwnedFd,
    journal: Journal,
    /// The kernel can send requests again.
    resends: bool,
}

impl Start {
    fn resume(fuse: OwnedFd, journal: OwnedFd, kept: &Kept, options: &Options) -> Result<Self, HiddenError> {
        let journal = Journal::open(journal)?;
        let (_, init) = parse_init(&journal.init())?;
        let resends = resends(&init, options);
        if resends {
            resend(fuse.as_fd()).map_err(HiddenError::Device)?;
        } else if kept.forced {
            // It may still write to the journal.
            return Err(HiddenError::OldServer);
        }
        Ok(Self { fuse, journal, resends })
    }

    fn fresh(keeper: &mut dyn Keeper, options: &Options) -> Result<Self, HiddenError> {
        let mountpoint = &options.mountpoint;
        let failed = |source| HiddenError::Mount { path: mountpoint.clone(), source };
        mount::detach_all(mountpoint).map_err(failed)?;
        fs::create_dir_all(mountpoint).map_err(failed)?;
        let fuse = mount::open_device().map_err(failed)?;
        mount::mount_fuse(fuse.as_fd(), mountpoint).map_err(failed)?;
        let start = Self::greet(fuse, options).and_then(|start| {
            keeper.keep(&[(FUSE, start.fuse.as_fd()), (JOURNAL, start.journal.fd())])?;
            Ok(start)
        });
        if start.is_err()
            && let Err(error) = mount::detach(mountpoint)
        {
            tracing::warn!(mountpoint = %mountpoint.display(), %error, "cannot detach the mount of a failed start");
        }
        start
    }

    /// Answers the kernel's INIT.
    fn greet(fuse: OwnedFd, options: &Options) -> Result<Self, HiddenError> {
        let mut request = vec![0; 8192];
        let length = loop {
            match rustix::io::read(&fuse, &mut request) {
                Err(Errno::INTR) => {}
                other => break other.map_err(|errno| HiddenError::Device(errno.into()))?,
            }
        };
        request.truncate(length);
        let (header, init) = parse_init(&request)?;
        if init.major != 7 || init.minor < OLDEST_MINOR {
            return Err(HiddenError::Version { major: init.major, minor: init.minor });
        }
        let journal = Journal::create()?;
        journal.set_init(&request);
        let answer = Answer::new().init(&init, options.terms).finish(header.unique);
        rustix::io::write(&fuse, &answer).map_err(|errno| HiddenError::Device(errno.into()))?;
        Ok(Self { fuse, journal, resends: resends(&init, options) })
    }
}

fn parse_init(request: &[u8]) -> Result<(Header, Init), HiddenError> {
    let header = Header::parse(request).map_err(|_| HiddenError::NoInit)?;
    match Operation::parse(&header, request) {
        Ok(Operation::Init(init)) => Ok((header, init)),
        _ => Err(HiddenError::NoInit),
    }
}

const fn resends(init: &Init, options: &Options) -> bool {
    init.flags & flags::HAS_RESEND != 0 && !options.without_resend
}

/// Whether the kernel has not ended the connection.
fn is_alive(fuse: impl AsFd) -> bool {
    let fuse: BorrowedFd<'_> = fuse.as_fd();
    let mut polled = [PollFd::from_borrowed_fd(fuse, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut polled, Some(&now)).is_ok() && !polled[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
}

/// Sets the soft limit, which the process may raise again for itself.
fn forbid_core_dumps() {
    let limit = Rlimit { current: Some(0), ..getrlimit(Resource::Core) };
    if let Err(error) = setrlimit(Resource::Core, limit) {
        tracing::warn!(%error, "a core dump of this process would delay its successor");
    }
}
