//! The kernel's side of one mount: what it is told without having asked.
//!
//! A [`Kernel`] looks up names in the mount, so that the kernel knows the files; gives it pages of them (FUSE_NOTIFY_STORE);
//! and makes it forget pages. It owns a descriptor of the mount's root for as long as the mount is there.
//!
//! What must always hold: none of this runs on an event loop of the mount, since the kernel may let the caller wait for an
//! answer that the event loops have yet to give; nothing is looked up outside of the mount; whoever unmounts calls
//! [`Kernel::leave`] first, after which nothing is looked up any more; pages are not given while others are forgotten, so that
//! what was read of a pack before it was found to be wrong does not come into the kernel behind the forgetting.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use fuser::{INodeNo, Notifier};
use parking_lot::Mutex;
use rustix::fs::{Advice, Dir, FileType, Mode, OFlags, RawDir, ResolveFlags, fadvise, open, openat2};
use soci_core::units::ByteRange;

use super::device::FILE;
use crate::erofs::device::{Device, whole_blocks};
use crate::fs::InodeNo;

/// Bytes of a directory that are listed at once: only in the first of its pieces the kernel learns more than names.
const LISTING: usize = 256 << 10;
/// Bytes of which pages are made at once: the kernel makes no more by one call, and says nothing of the rest.
const AT_ONCE: u64 = 128 << 10;
/// Names of a directory that are listed at most. In larger ones, what is needed is looked up one by one.
const MAX_LISTED: usize = 4096;

/// One mount, as the kernel has it.
#[derive(Debug)]
pub(crate) struct Kernel {
    root: Mutex<Option<OwnedFd>>,
    notifier: Notifier,
    /// The image, if it is mounted from one.
    device: Option<Arc<Device>>,
    /// Held while pages are given or forgotten.
    pages: Mutex<()>,
}

impl Kernel {
    pub(super) fn new(
        mountpoint: &Path,
        notifier: Notifier,
        device: Option<Arc<Device>>,
    ) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(mountpoint, flags, Mode::empty())?;
        Ok(Self { root: Mutex::new(Some(root)), notifier, device, pages: Mutex::default() })
    }

    /// The mount is about to go.
    pub(super) fn leave(&self) {
        drop(self.root.lock().take());
    }

    /// Whether the mount is there.
    pub(crate) fn is_there(&self) -> bool {
        self.root.lock().is_some()
    }

    /// Whether the mount is of an image: the kernel knows all names without being told.
    pub(crate) const fn has_image(&self) -> bool {
        self.device.is_some()
    }

    /// Makes the kernel know what `path`, without a leading slash, is in the mount. `false`: it is not there, or lies behind a
    /// symbolic link.
    pub(crate) fn look_up(&self, path: &[u8]) -> bool {
        self.open(path, OFlags::PATH | OFlags::NOFOLLOW).is_ok()
    }

    /// Makes the kernel know the names in a directory, and most of what they name, by few requests.
    pub(crate) fn list(&self, path: &[u8]) {
        let directory = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW);
        if let Ok(directory) = directory {
            let mut buffer = Vec::with_capacity(LISTING);
            let mut listed = RawDir::new(directory, buffer.spare_capacity_mut());
            for _ in 0..MAX_LISTED {
                let Some(Ok(_)) = listed.next() else { return };
            }
        }
    }

    fn open(&self, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let root = self.root.lock();
        let root = root.as_ref().ok_or(rustix::io::Errno::NODEV)?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let path = if path.is_empty() { OsStr::new(".") } else { OsStr::from_bytes(path) };
        openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
    }

    /// Gives the kernel the bytes of a file that `bytes` reads, if it reads any: whole pages, or up to the file's end. It drops them
    /// if it does not know the file. How many they were.
    pub(crate) fn give<'a>(
        &self,
        ino: InodeNo,
        offset: u64,
        bytes: impl FnOnce() -> Option<Cow<'a, [u8]>>,
    ) -> io::Result<u64> {
        let _alone = self.pages.lock();
        let Some(bytes) = bytes() else { return Ok(0) };
        let given = bytes.len() as u64;
        match &self.device {
            None => self.notifier.store(INodeNo(ino.0), offset, &bytes)?,
            Some(device) => {
                let Some(place) = device.image().place(ino) else { return Ok(0) };
                self.notifier.store(FILE, place + offset, &whole_blocks(bytes))?;
            }
        }
        Ok(given)
    }

    /// Lets the kernel make pages of a file of an image from those of the image that it was given, and take those away.
    pub(crate) fn fill(
        &self,
        ino: InodeNo,
        path: &[u8],
        ranges: impl Iterator<Item = ByteRange>,
    ) -> io::Result<()> {
        let _alone = self.pages.lock();
        let Some(place) = self.device.as_ref().and_then(|device| device.image().place(ino)) else {
            return Ok(());
        };
        let file = self.open(path, OFlags::RDONLY | OFlags::NOFOLLOW)?;
        for range in ranges {
            for start in (range.start..range.end).step_by(AT_ONCE as usize) {
                let length = (range.end - start).min(AT_ONCE);
                fadvise(&file, start, NonZeroU64::new(length), Advice::WillNeed)?;
                if let Ok(start) = i64::try_from(place + start) {
                    self.notifier.inval_inode(FILE, start, length as i64)?;
                }
            }
        }
        Ok(())
    }

    /// Makes the kernel forget the content of files. It does not mind those that it does not know. What a process has mapped of
    /// an image stays mapped.
    pub(crate) fn forget(&self, files: impl Iterator<Item = InodeNo>) -> io::Result<()> {
        let _alone = self.pages.lock();
        match &self.device {
            None => {
                files.map(|ino| self.notifier.inval_inode(INodeNo(ino.0), 0, 0)).fold(Ok(()), io::Result::and)
            }
            Some(device) => {
                let content = i64::try_from(device.image().content_start()).unwrap_or(0);
                self.notifier.inval_inode(FILE, content, 0)?;
                self.forget_all()
            }
        }
    }

    /// Makes the kernel forget the content of all files of an image: it has pages of its own of each. One that cannot be reached
    /// leaves the others no worse.
    fn forget_all(&self) -> io::Result<()> {
        let mut waiting = vec![Vec::new()];
        let mut outcome = Ok(());
        while let Some(directory) = waiting.pop() {
            outcome = outcome.and(self.forget_in(&directory, &mut waiting));
        }
        outcome
    }

    /// Those in one directory; directories in it are added to `waiting`.
    fn forget_in(&self, directory: &[u8], waiting: &mut Vec<Vec<u8>>) -> io::Result<()> {
        let listed = self.open(directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW)?;
        let mut outcome = Ok(());
        for entry in Dir::new(listed)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            let path = if directory.is_empty() { name.to_vec() } else { [directory, name].join(&b'/') };
            match entry.file_type() {
                FileType::Directory if name != b"." && name != b".." => waiting.push(path),
                FileType::RegularFile => {
                    let file = self.open(&path, OFlags::RDONLY | OFlags::NOFOLLOW);
                    outcome = outcome.and(file.and_then(|file| fadvise(file, 0, None, Advice::DontNeed)));
                }
                _ => {}
            }
        }
        outcome.map_err(io::Error::from)
    }
}
