//! The descriptor of /dev/fuse, while this process serves it: what is written to it, and who waits for that.
//!
//! A [`Device`] owns the descriptor, the table of waiting requests, and whether the process is leaving. There is one
//! descriptor and no clone of it: each clone would have requests of its own, which fail when its last copy is closed.
//!
//! What must always hold: a process that is leaving ends no request with an error, because its successor answers it. Pages
//! are taken away from the kernel only while readers run: the kernel then waits for pages that are being read.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;

use super::answer;
use super::ids::NodeId;
use super::waiting::Waiting;

/// Codes of what the kernel is told without having asked.
mod code {
    pub(super) const INVAL_INODE: i32 = 2;
    pub(super) const INVAL_ENTRY: i32 = 3;
    pub(super) const STORE: i32 = 4;
    pub(super) const RESEND: i32 = 7;
}

/// Most bytes that are stored by one notification.
const STORE_MAX: usize = 1 << 20;

/// The connection, as this process has it.
#[derive(Debug)]
pub(crate) struct Device {
    fd: OwnedFd,
    pub(crate) waiting: Waiting,
    leaving: AtomicBool,
    over: Mutex<bool>,
    ended: Condvar,
    /// Answers that the kernel did not want any more.
    late: AtomicU64,
    /// Requests that an earlier process had read.
    taken_over: AtomicU64,
}

impl Device {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            waiting: Waiting::default(),
            leaving: AtomicBool::new(false),
            over: Mutex::new(false),
            ended: Condvar::new(),
            late: AtomicU64::new(0),
            taken_over: AtomicU64::new(0),
        }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// From now on requests may be left to the successor.
    pub(crate) fn leave(&self) {
        self.leaving.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::SeqCst)
    }

    /// The kernel has ended the connection: it was unmounted or aborted.
    pub(crate) fn set_over(&self) {
        *self.over.lock() = true;
        self.ended.notify_all();
    }

    /// Waits until the connection is over, at most for `limit`. Whether it is.
    pub(crate) fn wait_over(&self, limit: Duration) -> bool {
        let mut over = self.over.lock();
        self.ended.wait_while_for(&mut over, |over| !*over, limit);
        *over
    }

    pub(crate) fn late(&self) -> u64 {
        self.late.load(Ordering::Relaxed)
    }

    pub(crate) fn taken_over(&self) -> u64 {
        self.taken_over.load(Ordering::Relaxed)
    }

    /// A request came that an earlier process had read.
    pub(crate) fn take_over(&self) {
        self.taken_over.fetch_add(1, Ordering::Relaxed);
    }

    /// Writes an answer.
    pub(crate) fn answer(&self, parts: &[IoSlice<'_>]) {
        match rustix::io::writev(&self.fd, parts) {
            Ok(_) => {}
            // The reader was killed, or the request was answered before.
            Err(Errno::NOENT) => {
                self.late.fetch_add(1, Ordering::Relaxed);
            }
            Err(Errno::NODEV | Errno::CONNABORTED) => self.set_over(),
            Err(errno) => tracing::error!(%errno, "the kernel did not take an answer"),
        }
    }

    fn notify(&self, code: i32, parts: &[&[u8]]) -> io::Result<()> {
        notify(self.fd.as_fd(), code, parts)
    }
}

/// Has the kernel send again what was read from `fuse` and not answered. The process that calls it must be the only one with
/// readers, and those must not have begun. Linux 6.9 on.
pub(crate) fn resend(fuse: BorrowedFd<'_>) -> io::Result<()> {
    notify(fuse, code::RESEND, &[])
}

fn notify(fuse: BorrowedFd<'_>, code: i32, parts: &[&[u8]]) -> io::Result<()> {
    let length = answer::HEADER + parts.iter().map(|part| part.len()).sum::<usize>();
    let header = answer::header(length, code, 0);
    let mut all = vec![IoSlice::new(&header)];
    all.extend(parts.iter().map(|part| IoSlice::new(part)));
    rustix::io::writev(fuse, &all)?;
    Ok(())
}

/// Tells the kernel what it has not asked for.
///
/// None of it may run on a thread that answers the kernel: it waits for pages that are being read. An object that the kernel
/// does not know is ENOENT.
#[derive(Clone, Debug)]
pub struct Notifier(Arc<Device>);

impl Notifier {
    pub(crate) const fn new(device: Arc<Device>) -> Self {
        Self(device)
    }

    /// Gives the kernel bytes of a file: whole pages, or up to the end of the file.
    pub fn store(&self, node: NodeId, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut at = offset;
        for part in bytes.chunks(STORE_MAX) {
            let size = (part.len() as u32).to_ne_bytes();
            let (node, place) = (node.raw().to_ne_bytes(), at.to_ne_bytes());
            self.0.notify(code::STORE, &[&node, &place, &size, &[0; 4], part])?;
            at += part.len() as u64;
        }
        Ok(())
    }

    /// Takes pages and attributes of an object away from the kernel. `length` 0 is up to the end.
    pub fn invalidate(&self, node: NodeId, offset: u64, length: u64) -> io::Result<()> {
        self.serves()?;
        let (offset, length) = (offset as i64, length as i64);
        let parts = [node.raw().to_ne_bytes(), offset.to_ne_bytes(), length.to_ne_bytes()];
        self.0.notify(code::INVAL_INODE, &[parts.as_flattened()])
    }

    /// Makes the kernel forget a name.
    pub fn forget_name(&self, directory: NodeId, name: &[u8]) -> io::Result<()> {
        self.serves()?;
        let (directory, length) = (directory.raw().to_ne_bytes(), (name.len() as u32).to_ne_bytes());
        self.0.notify(code::INVAL_ENTRY, &[&directory, &length, &[0; 4], name, &[0]])
    }

    fn serves(&self) -> io::Result<()> {
        if self.0.is_leaving() { Err(io::ErrorKind::NotConnected.into()) } else { Ok(()) }
    }
}
