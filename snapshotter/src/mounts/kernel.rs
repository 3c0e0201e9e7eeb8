//! The kernel's side of one mount: what it is told without having asked.
//!
//! A [`Kernel`] has names looked up in the mount, so that the kernel knows the files; gives it pages of them; and makes it
//! forget pages. What touches the mount is done by helpers.
//!
//! What must always hold: none of this runs on a thread that answers the kernel; whoever unmounts calls [`Kernel::leave`]
//! first, after which nothing is looked up any more; pages are not given while others are forgotten, so that what was read of a
//! pack before it was found to be wrong does not come into the kernel behind the forgetting; where the kernel cannot send
//! requests again (before Linux 6.9) it is given nothing, since a process that is killed while it waits for pages which
//! it has to answer itself could then not be followed by another.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::erofs::device::{Device, whole_blocks};
use crate::fs::InodeNo;
use crate::hidden::helper::{Place, Ranges, Work};
use crate::hidden::{Connection, HelperError, Helpers, NodeId, Notifier, Slot};

/// How long a helper may take to look something up, or to have pages read.
const LIMIT: Duration = Duration::from_secs(30);
/// Bytes of metadata that are given to the kernel at once.
const METADATA_AT_ONCE: usize = 1 << 20;

/// One mount, as the kernel has it.
#[derive(Debug)]
pub(crate) struct Kernel {
    mountpoint: PathBuf,
    slot: Slot,
    notifier: Notifier,
    helpers: Arc<Helpers>,
    /// The image, if it is mounted from one.
    device: Option<Arc<Device>>,
    is_there: AtomicBool,
    /// The kernel may be given pages.
    takes_pages: bool,
    /// Held while pages are given or forgotten.
    pages: Mutex<()>,
}

impl Kernel {
    pub(super) fn new(
        mountpoint: &Path,
        slot: Slot,
        connection: &Connection,
        device: Option<Arc<Device>>,
    ) -> Self {
        Self {
            mountpoint: mountpoint.to_owned(),
            slot,
            notifier: connection.notifier(),
            helpers: Arc::clone(connection.helpers()),
            device,
            is_there: AtomicBool::new(true),
            takes_pages: connection.resends(),
            pages: Mutex::default(),
        }
    }

    /// The mount is about to go.
    pub(super) fn leave(&self) {
        self.is_there.store(false, Ordering::Release);
    }

    /// Whether the mount is there.
    pub(crate) fn is_there(&self) -> bool {
        self.is_there.load(Ordering::Acquire)
    }

    /// Whether the mount is of an image: the kernel knows all names without being told.
    pub(crate) const fn has_image(&self) -> bool {
        self.device.is_some()
    }

    /// Makes the kernel know what `path`, without a leading slash, is in the mount. `false`: it is not there, or lies behind a
    /// symbolic link.
    pub(crate) fn look_up(&self, path: &[u8]) -> bool {
        self.help(&Work::LookUp(self.place(path))).is_ok()
    }

    /// Makes the kernel know the names in a directory, and most of what they name, by few requests.
    pub(crate) fn list(&self, path: &[u8]) {
        if let Err(error) = self.help(&Work::List(self.place(path))) {
            tracing::debug!(%error, "names were not looked up ahead");
        }
    }

    fn place(&self, path: &[u8]) -> Place {
        Place { mountpoint: self.mountpoint.clone(), path: path.to_vec() }
    }

    fn help(&self, work: &Work) -> io::Result<()> {
        if !self.is_there() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        self.helpers.run(work, LIMIT).map_err(|error| match error {
            HelperError::Work { source, .. } => source,
            other => io::Error::other(other),
        })
    }

    /// Gives the kernel the image's metadata, which the first use of the mount would ask for.
    pub(super) fn give_metadata(&self) -> io::Result<()> {
        let Some(device) = self.device.as_ref().filter(|_| self.takes_pages) else { return Ok(()) };
        for (at, part) in device.image().metadata().chunks(METADATA_AT_ONCE).enumerate() {
            self.notifier.store(self.node(NodeId::TOP), (at * METADATA_AT_ONCE) as u64, part)?;
        }
        Ok(())
    }

    /// Gives the kernel the bytes of a file that `bytes` reads, if it reads any: whole pages, or up to the file's end. It drops them
    /// if it does not know the file. How many they were.
    pub(crate) fn give<'a>(
        &self,
        ino: InodeNo,
        offset: u64,
        bytes: impl FnOnce() -> Option<Cow<'a, [u8]>>,
    ) -> io::Result<u64> {
        if !self.takes_pages {
            return Ok(0);
        }
        let _alone = self.pages.lock();
        let Some(bytes) = bytes() else { return Ok(0) };
        let given = bytes.len() as u64;
        match &self.device {
            None => self.notifier.store(self.file(ino)?, offset, &bytes)?,
            Some(device) => {
                let Some(place) = device.image().place(ino) else { return Ok(0) };
                self.notifier.store(self.node(NodeId::TOP), place + offset, &whole_blocks(bytes))?;
            }
        }
        Ok(given)
    }

    /// Lets the kernel make pages of files of an image from those of the image that it was given, and take those away. All files
    /// by one piece of work: each costs two changes of processes.
    pub(crate) fn fill(&self, files: impl Iterator<Item = (InodeNo, Ranges)>) -> io::Result<()> {
        let Some(device) = self.device.as_ref().filter(|_| self.takes_pages) else { return Ok(()) };
        let placed = files.filter_map(|(ino, file)| Some((device.image().place(ino)?, file)));
        let (places, files): (Vec<_>, Vec<_>) = placed.filter(|(_, file)| !file.ranges.is_empty()).unzip();
        if files.is_empty() {
            return Ok(());
        }
        let given = places.iter().zip(&files).flat_map(|(place, file)| {
            file.ranges.iter().map(move |(start, length)| (place + start, *length))
        });
        let given: Vec<(u64, u64)> = given.collect();
        let _alone = self.pages.lock();
        self.help(&Work::Fill { mountpoint: self.mountpoint.clone(), files })?;
        given
            .into_iter()
            .try_for_each(|(at, length)| self.notifier.invalidate(self.node(NodeId::TOP), at, length))
    }

    /// Makes the kernel forget the content of files. It does not mind those that it does not know. What a process has mapped of
    /// an image stays mapped.
    pub(crate) fn forget(&self, mut files: impl Iterator<Item = InodeNo>) -> io::Result<()> {
        let _alone = self.pages.lock();
        match &self.device {
            None => files.try_for_each(|ino| match self.notifier.invalidate(self.file(ino)?, 0, 0) {
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
                other => other,
            }),
            Some(device) => {
                self.notifier.invalidate(self.node(NodeId::TOP), device.image().content_start(), 0)?;
                self.help(&Work::Forget { mountpoint: self.mountpoint.clone() })
            }
        }
    }

    const fn node(&self, index: u32) -> NodeId {
        NodeId::new(self.slot, index)
    }

    fn file(&self, ino: InodeNo) -> io::Result<NodeId> {
        let index = u32::try_from(ino.0).map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(self.node(index))
    }
}
