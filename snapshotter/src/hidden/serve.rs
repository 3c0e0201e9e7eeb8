//! The threads that read the kernel's requests.
//!
//! A [`Readers`] owns the threads. There are few, because none waits for content: a request that needs bytes goes to its
//! tree with the right to answer. One thread more looks after requests whose readers are dying.
//!
//! What must always hold: requests are read into memory that is resident. The readers start after what an earlier process
//! has left is with this one: sent again by the kernel, or taken from the journal. A reader thread never touches the mount.

use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use super::answer::Answer;
use super::device::Device;
use super::dispatch::Dispatch;
use super::journal::{Cell, Journal};
use super::reply::Reply;
use super::wire::{Header, RESENT};

/// Bytes of a reader's buffer. The kernel wants 8 KiB at least; no request of ours is longer.
const BUFFER: usize = 16 << 10;

/// The running threads. Dropping leaves them running, as the end of the process does.
#[derive(Debug)]
pub(crate) struct Readers {
    device: Arc<Device>,
    stop: Arc<OwnedFd>,
    threads: Vec<JoinHandle<()>>,
}

/// Where a reader puts a request.
enum Inbox {
    /// The kernel sends again what is lost with the process.
    Buffer(Vec<u8>),
    /// The journal keeps it. `None` while the request is with its tree.
    Journal { journal: Arc<Journal>, cell: Option<Cell>, rest: Vec<u8> },
}

impl Readers {
    /// Starts `count` readers. With a journal, requests are read into it, and those that it has are answered first.
    pub(crate) fn start(
        dispatch: &Arc<Dispatch>,
        journal: Option<&Arc<Journal>>,
        count: usize,
    ) -> io::Result<Self> {
        let device = Arc::clone(&dispatch.device);
        // The descriptor is shared with the keeper, which never reads, and with a successor, which wants the same.
        fcntl_setfl(device.fd(), fcntl_getfl(device.fd())? | OFlags::NONBLOCK)?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let left = journal.map(Journal::open_cells).unwrap_or_default();
        let mut threads = Vec::new();
        for number in 0..count.max(1) {
            let (dispatch, poll) = (Arc::clone(dispatch), poll(&device, &stop)?);
            let mut inbox = Inbox::new(journal);
            let reader = move || while step(&dispatch, &mut inbox, &poll) {};
            threads.push(Builder::new().name(format!("fuse-{number}")).spawn(reader)?);
        }
        if !left.is_empty() {
            tracing::info!(requests = left.len(), "taking over requests of an earlier process");
        }
        for cell in left {
            take_over(dispatch, cell);
        }
        let watched = Arc::clone(&device);
        threads.push(Builder::new().name("fuse-interrupts".to_owned()).spawn(move || end_dying(&watched))?);
        Ok(Self { device, stop, threads })
    }

    /// Stops reading, and waits at most for `limit` until what was read is answered. What is not stays with the kernel for a
    /// successor. How many requests these are.
    pub(crate) fn leave(mut self, limit: Duration) -> usize {
        self.device.leave();
        // All readers see it, because nobody takes it away.
        if let Err(error) = rustix::io::write(&*self.stop, &1u64.to_ne_bytes()) {
            tracing::error!(%error, "the threads of the connection cannot be stopped");
            return self.device.waiting.len();
        }
        let watcher = self.threads.pop();
        let readers = std::mem::take(&mut self.threads);
        // They only finish what they have in hand, which is from memory.
        for reader in readers {
            let _ = reader.join();
        }
        let left = self.device.waiting.drain(limit);
        self.device.waiting.close();
        if let Some(watcher) = watcher {
            let _ = watcher.join();
        }
        left
    }
}

impl Inbox {
    fn new(journal: Option<&Arc<Journal>>) -> Self {
        // Written once, so that it is resident.
        let buffer = vec![1; BUFFER];
        match journal {
            None => Self::Buffer(buffer),
            Some(journal) => {
                Self::Journal { journal: Arc::clone(journal), cell: Some(journal.cell()), rest: buffer }
            }
        }
    }

    fn receive(&mut self, device: &Device) -> rustix::io::Result<usize> {
        match self {
            Self::Buffer(buffer) => rustix::io::read(device.fd(), buffer),
            Self::Journal { journal, cell, rest } => {
                cell.get_or_insert_with(|| journal.cell()).receive(device.fd(), rest)
            }
        }
    }
}

/// A set that wakes one reader for a request, and all for the end.
fn poll(device: &Device, stop: &OwnedFd) -> io::Result<OwnedFd> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let (one, all) = (epoll::EventData::new_u64(0), epoll::EventData::new_u64(1));
    epoll::add(&poll, device.fd(), one, epoll::EventFlags::IN | epoll::EventFlags::EXCLUSIVE)?;
    epoll::add(&poll, stop, all, epoll::EventFlags::IN)?;
    Ok(poll)
}

/// Reads and answers one request, or waits for one. `false`: there will be no more.
fn step(dispatch: &Dispatch, inbox: &mut Inbox, poll: &OwnedFd) -> bool {
    let device = &dispatch.device;
    if device.is_leaving() {
        return false;
    }
    match inbox.receive(device) {
        Ok(length) => {
            // A layer that panics has answered with EIO by then. It must not take the reader from the others.
            let handled = catch_unwind(AssertUnwindSafe(|| handle(dispatch, inbox, length)));
            if handled.is_err() {
                tracing::error!("a layer panicked while it was asked");
            }
            true
        }
        Err(Errno::AGAIN) => wait(poll),
        // The request has ended before it was read, or could not be sent.
        Err(Errno::INTR | Errno::NOENT | Errno::IO) => true,
        Err(Errno::NODEV | Errno::CONNABORTED) => {
            device.set_over();
            false
        }
        Err(errno) => {
            tracing::error!(%errno, "cannot read requests of the kernel");
            device.set_over();
            false
        }
    }
}

fn wait(poll: &OwnedFd) -> bool {
    let mut event = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }];
    match epoll::wait(poll, &mut event[..], None) {
        Ok(_) | Err(Errno::INTR) => true,
        Err(errno) => {
            tracing::error!(%errno, "cannot wait for requests of the kernel");
            false
        }
    }
}

fn handle(dispatch: &Dispatch, inbox: &mut Inbox, length: usize) {
    let (kept, cell);
    let request = match inbox {
        Inbox::Buffer(buffer) => {
            cell = None;
            buffer.get(..length).unwrap_or_default()
        }
        Inbox::Journal { cell: held, .. } => {
            cell = held.take();
            kept = cell.as_ref().map(Cell::request).unwrap_or_default();
            &kept[..]
        }
    };
    match Header::parse(request) {
        Ok(header) => {
            if header.unique & RESENT != 0 {
                dispatch.device.take_over();
            }
            let reply = Reply::new(Arc::clone(&dispatch.device), &header, cell, false);
            dispatch.request(&header, request, reply);
        }
        Err(error) => tracing::error!(%error, "the kernel sent what is not a request"),
    }
}

/// Answers a request that an earlier process has read.
fn take_over(dispatch: &Dispatch, cell: Cell) {
    let request = cell.request();
    // A cell without a whole request is empty: the earlier process was killed before the kernel gave it one.
    if let Ok(header) = Header::parse(&request) {
        dispatch.device.take_over();
        let reply = Reply::new(Arc::clone(&dispatch.device), &header, Some(cell), true);
        dispatch.request(&header, &request, reply);
    }
}

/// Ends requests whose reader is dying, so that it can.
fn end_dying(device: &Device) {
    while let Some(requests) = device.waiting.take_dying() {
        for unique in requests {
            let answer = Answer::error(unique, Errno::INTR);
            device.answer(&[io::IoSlice::new(&answer)]);
        }
    }
}
