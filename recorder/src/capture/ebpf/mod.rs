//! eBPF programs on the page cache: every page of the image's files that a cgroup touches, without standing in the way.
//!
//! Owns the attached programs and the reading end of their ring buffer; dropping it detaches them. Needs CAP_BPF and
//! CAP_PERFMON and a kernel with its type information.
//!
//! The kernel side wakes nobody: [`Capture::next`] sleeps for its patience and looks again, so the reader must come back
//! before the ring buffer is full.
//!
//! # What must always hold
//! Every event that the kernel side counted as emitted is either received here or counted as dropped; each received
//! one is handed out, known already, or counted as outside the image. When the workload is over, one more look at the
//! ring buffer is enough to have all of it.

mod btf;
mod error;
mod identity;
mod load;
mod seen;

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use recorder_ebpf::{Counter, Event, EventKind};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::time::{ClockId, clock_gettime};
use soci_core::trace::{AccessKind, Process};
use soci_core::units::ByteRange;

pub use btf::BtfError;
pub use error::EbpfError;

use self::identity::{Identity, Inode};
use self::load::Loaded;
use self::seen::Seen;
use super::{Capture, RawAccess};
use crate::workload::Cgroup;

/// Size of the ring buffer when nobody says otherwise: 230 000 events.
pub const RING_BYTES: u32 = recorder_ebpf::RING_BYTES;
/// A record of the ring buffer with its header.
const RECORD_BYTES: u32 = size_of::<Event>() as u32 + 8;

/// The account of a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Events that the kernel side saw.
    pub emitted: u64,
    /// Those for which the ring buffer had no room.
    pub dropped: u64,
    /// Those that came here.
    pub received: u64,
    /// Those received ones that are of no file of the image.
    pub outside: u64,
    /// Requests behind the end of a file, which are no events.
    pub empty: u64,
}

/// Programs that watch a cgroup.
pub struct Ebpf {
    loaded: Loaded,
    identity: Identity,
    seen: HashMap<Arc<[u8]>, Seen>,
    processes: HashMap<(u32, [u8; 16]), Arc<Process>>,
    ready: VecDeque<RawAccess>,
    /// One moment on both clocks.
    clock: (Instant, u64),
    ring_records: u32,
    received: u64,
    outside: u64,
}

impl std::fmt::Debug for Ebpf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ebpf").field("counts", &self.counts().ok()).finish_non_exhaustive()
    }
}

/// Whether the programs can be used here: loads and attaches them for a moment, watching nobody.
///
/// # Errors
/// The reason why not.
pub fn probe_ebpf() -> Result<(), EbpfError> {
    let page = u32::try_from(rustix::param::page_size()).unwrap_or(1 << 16);
    Loaded::new(0, 0, page).map(drop)
}

impl Ebpf {
    /// Watches what the tasks of `cgroup` read from the files of `layers`, whose overlay is mounted on `rootfs`.
    ///
    /// Pages that are mapped already and in the page cache are not seen again: take the files out of it first, with
    /// [`crate::rootfs::forget_pages`].
    pub fn attach(
        cgroup: &Cgroup,
        layers: &[PathBuf],
        rootfs: &Path,
        ring_bytes: u32,
    ) -> Result<Self, EbpfError> {
        let identity = Identity::of(layers, rootfs)?;
        let loaded = Loaded::new(cgroup.id(), cgroup.level(), ring_bytes)?;
        let now = clock_gettime(ClockId::Monotonic);
        Ok(Self {
            loaded,
            identity,
            seen: HashMap::new(),
            processes: HashMap::new(),
            ready: VecDeque::new(),
            clock: (Instant::now(), now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64),
            ring_records: ring_bytes / RECORD_BYTES + 1,
            received: 0,
            outside: 0,
        })
    }

    /// The account so far.
    pub fn counts(&self) -> Result<Counts, EbpfError> {
        Ok(Counts {
            emitted: self.loaded.count(Counter::Emitted)?,
            dropped: self.loaded.count(Counter::Dropped)?,
            received: self.received,
            outside: self.outside,
            empty: self.loaded.count(Counter::Empty)?,
        })
    }

    /// Reads the ring buffer until something new is found, or everything that was in it when this was called is read.
    fn read(&mut self) {
        for _ in 0..self.ring_records {
            let Some(event) = self.loaded.events.next().map(|record| Event::from_bytes(&record)) else {
                return;
            };
            self.received += 1;
            match event {
                Some(event) => self.take(&event),
                None => self.outside += 1, // of another object: cannot be, and is not hidden either
            }
            if !self.ready.is_empty() {
                return;
            }
        }
    }

    fn take(&mut self, event: &Event) {
        let inode = Inode { dev: event.dev, ino: event.ino };
        let kind = EventKind::new(event.kind);
        let inode = if kind == Some(EventKind::Exec) { self.identity.below(inode) } else { inode };
        let (Some(kind), Some(path)) = (kind, self.identity.path(inode)) else {
            self.outside += 1;
            return;
        };
        let seen = self.seen.entry(Arc::clone(path)).or_default();
        let range = ByteRange::new(event.offset, event.offset.saturating_add(event.length));
        let (kind, new) = match kind {
            EventKind::Read => (AccessKind::Read, seen.need(range)),
            EventKind::Fault => (AccessKind::Fault, seen.need(range)),
            EventKind::Map => (AccessKind::Map, seen.map(range)),
            EventKind::Exec if seen.execute() => (AccessKind::Exec, vec![range]),
            EventKind::Exec => (AccessKind::Exec, Vec::new()),
        };
        let process = self.processes.entry((event.tgid, event.comm)).or_insert_with(|| {
            let name = event.comm.split(|byte| *byte == 0).next().unwrap_or_default();
            Arc::new(Process { pid: event.tgid, comm: Arc::from(name) })
        });
        let (instant, clock) = self.clock;
        let at = if event.t_ns >= clock {
            instant + Duration::from_nanos(event.t_ns - clock)
        } else {
            instant.checked_sub(Duration::from_nanos(clock - event.t_ns)).unwrap_or(instant)
        };
        self.ready.extend(new.into_iter().map(|range| RawAccess {
            at,
            kind,
            path: Arc::clone(path),
            offset: range.start,
            len: range.len(),
            process: Arc::clone(process),
            wait: Duration::ZERO,
        }));
    }
}

impl Capture for Ebpf {
    fn engine(&self) -> &'static str {
        "ebpf"
    }

    fn next(&mut self, patience: Duration) -> Option<RawAccess> {
        let deadline = Instant::now() + patience;
        loop {
            if self.ready.is_empty() {
                self.read();
            }
            if let Some(access) = self.ready.pop_front() {
                return Some(access);
            }
            let rest = deadline.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return None;
            }
            let rest = Timespec { tv_sec: rest.as_secs() as i64, tv_nsec: i64::from(rest.subsec_nanos()) };
            let mut events = [PollFd::new(&self.loaded.events, PollFlags::IN)];
            if let Err(errno) = poll(&mut events, Some(&rest))
                && errno != rustix::io::Errno::INTR
            {
                tracing::warn!(%errno, "cannot wait for the ring buffer");
                return None;
            }
        }
    }

    fn dropped(&self) -> u64 {
        match self.counts() {
            Ok(counts) => counts.dropped,
            Err(error) => {
                tracing::warn!(%error, "cannot read the counters: the recording counts as incomplete");
                1
            }
        }
    }

    fn outside(&self) -> u64 {
        self.outside
    }
}
