//! eBPF programs on the page cache: every page of the image's files that a cgroup, or a tree of processes, touches,
//! without standing in the way.
//!
//! Owns the attached programs and the reading end of their ring buffer; dropping it detaches them. Needs CAP_BPF and
//! CAP_PERFMON and a kernel with its type information.
//!
//! The kernel side wakes nobody: [`Capture::next`] sleeps for its patience and looks again, so the reader must come back
//! before the ring buffer is full.
//!
//! # What must always hold
//! Every event that the kernel side counted as emitted is either received here or counted as dropped; each received
//! one is handed out, known already, of somebody else, or counted as outside the image, by the reason; until the image is
//! known, events are kept, as far as there is room, and what does not fit is counted. When the workload is over, one more look at the
//! ring buffer is enough to have all of it.

mod anomalies;
mod btf;
mod copied;
mod error;
mod held;
mod identity;
mod kernel;
mod load;
mod seen;
mod settings;
mod strangers;
mod tree;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use recorder_ebpf::{Counter, Event, EventKind, OVERLAY};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::time::{ClockId, clock_gettime};
use soci_core::trace::{AccessKind, Outside, Process};
use soci_core::units::ByteRange;

pub use btf::BtfError;
pub use error::EbpfError;
pub use recorder_ebpf::Way;
pub use settings::{RING_BYTES, Reads, Settings};

use self::held::Held;
use self::identity::{Identity, Inode};
use self::load::{Filter, Loaded};
use self::seen::Seen;
use self::strangers::Strangers;
use self::tree::Members;
use super::{Capture, RawAccess};
use crate::workload::Cgroup;
use soci_core::escape::escape;

/// Processes that can be tracked at the same time.
pub const TRACKED_MAX: u32 = recorder_ebpf::TRACKED_MAX;
/// A record of the ring buffer with its header.
const RECORD_BYTES: u32 = size_of::<Event>() as u32 + 8;

/// A folio of this size is mapped at once, by one entry of a middle page table, and then no tracepoint tells of it.
const HUGE_BYTES: u64 = 2 << 20;

/// Bytes of other names of files that a trace may have at its end.
const MAX_LINKS: usize = 2 << 20;

/// Whom to watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The tasks of a cgroup of the unified hierarchy, its descendants included.
    Cgroup {
        /// The kernel's number of it.
        id: u64,
        /// How deep it is below the root, whose level is 0.
        level: u32,
    },
    /// Processes and their descendants: those that are named with [`Ebpf::follow`] and [`Ebpf::follow_running`], and what
    /// containerd's shims start from now on.
    Tree {
        /// How many may be tracked at the same time, at most [`TRACKED_MAX`].
        room: u32,
    },
}

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
    /// Those received ones that are of processes of somebody else.
    pub others: u64,
    /// Those received ones that came before the image was known, and for which there was no room.
    pub unheld: u64,
    /// Processes that could not be tracked: what they did is not seen.
    pub untracked: u64,
}

/// Programs that watch a cgroup or a tree of processes.
pub struct Ebpf {
    loaded: Loaded,
    scope: Scope,
    /// The files of the image; none while it is not known.
    identity: Option<Identity>,
    held: Held,
    members: Members,
    executed: Option<Instant>,
    seen: HashMap<Inode, Seen>,
    strangers: Strangers,
    /// Where the workload's writes go, if that is known.
    upper: Option<PathBuf>,
    /// The layers' directories, the topmost first.
    layers: Vec<PathBuf>,
    processes: HashMap<(u32, [u8; 16]), Arc<Process>>,
    ready: VecDeque<RawAccess>,
    /// One moment on both clocks.
    clock: (Instant, u64),
    ring_records: u32,
    received: u64,
    others: u64,
    untracked: u64,
}

impl std::fmt::Debug for Ebpf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ebpf").field("counts", &self.counts().ok()).finish_non_exhaustive()
    }
}

/// Whether the programs can be used here: loads and attaches them for a moment, watching nobody.
///
/// Gives how reads would be seen.
///
/// # Errors
/// The reason why not.
pub fn probe_ebpf() -> Result<Way, EbpfError> {
    let page = u32::try_from(rustix::param::page_size()).unwrap_or(1 << 16);
    let nobody = Filter::Cgroup { id: 0, level: 0 };
    Loaded::new(nobody, &Settings { ring_bytes: page, ..Settings::default() }).map(|loaded| loaded.way)
}

impl Ebpf {
    /// Watches what the tasks of `cgroup` read from the files of `layers`, the topmost first, whose overlay is mounted
    /// on `rootfs`; what is written there goes to `upper`.
    ///
    /// Pages that are mapped already and in the page cache are not seen again: take the files out of it first, with
    /// [`crate::rootfs::forget_pages`].
    pub fn attach(
        cgroup: &Cgroup,
        layers: &[PathBuf],
        rootfs: &Path,
        upper: &Path,
        settings: &Settings,
    ) -> Result<Self, EbpfError> {
        let scope = Scope::Cgroup { id: cgroup.id(), level: cgroup.level() };
        let mut this = Self::watch(scope, settings)?;
        this.identify(layers, rootfs, Some(upper))?;
        Ok(this)
    }

    /// Watches from now on, and keeps what is seen until the image is known.
    pub fn watch(scope: Scope, settings: &Settings) -> Result<Self, EbpfError> {
        let filter = match scope {
            Scope::Cgroup { id, level } => Filter::Cgroup { id, level },
            Scope::Tree { room } => {
                tree::can_name_processes()?;
                Filter::Tree { seed: tree::SHIM, room }
            }
        };
        let mut loaded = Loaded::new(filter, settings)?;
        let untracked = match scope {
            Scope::Cgroup { .. } => 0,
            Scope::Tree { .. } => tree::enter_shims(&mut loaded.tracked),
        };
        let (instant, now) = (Instant::now(), clock_gettime(ClockId::Monotonic)); // one right after the other
        Ok(Self {
            loaded,
            scope,
            identity: None,
            held: Held::default(),
            members: Members::default(),
            executed: None,
            seen: HashMap::new(),
            strangers: Strangers::default(),
            upper: None,
            layers: Vec::new(),
            processes: HashMap::new(),
            ready: VecDeque::new(),
            clock: (instant, now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64),
            ring_records: settings.ring_bytes / RECORD_BYTES + 1,
            received: 0,
            others: 0,
            untracked,
        })
    }

    /// The image is that of these layer directories, the topmost first, whose overlay is mounted on `rootfs`; what is
    /// written there goes to `upper`, if that is known. What was kept is looked at now.
    pub fn identify(
        &mut self,
        layers: &[PathBuf],
        rootfs: &Path,
        upper: Option<&Path>,
    ) -> Result<(), EbpfError> {
        let identity = Identity::of(layers, rootfs)?;
        let mut devices = identity.devices().to_vec();
        if let Some(upper) = upper {
            devices.push(identity::inode(&fs::metadata(upper).map_err(EbpfError::layer(upper))?).dev);
        }
        self.strangers = Strangers::new(devices);
        self.upper = upper.map(Path::to_owned);
        self.layers = layers.to_vec();
        self.identity = Some(identity);
        for event in self.held.take() {
            self.take(&event);
        }
        Ok(())
    }

    /// Takes in what the kernel has, now and after `patience`, and hands out nothing.
    pub fn look(&mut self, patience: Duration) {
        self.read(false);
        std::thread::sleep(patience);
        self.read(false);
    }

    /// Takes in the files of the image that were copied into the writable layer without a read: each is needed as a whole
    /// at the moment at which its copy was made.
    fn take_copies(&mut self, upper: &Path) -> Result<(), EbpfError> {
        let Some(identity) = &self.identity else { return Ok(()) };
        let dev = identity::inode(&fs::metadata(upper).map_err(EbpfError::layer(upper))?).dev;
        let nobody = Arc::new(Process { pid: 0, comm: Arc::from(&b""[..]) });
        let now = (Instant::now(), SystemTime::now());
        copied::each_copy(upper, &mut |copy| {
            let inode = Inode { dev, ino: copy.ino };
            let Some(path) = identity.path(inode) else { return };
            let ago = now.1.duration_since(copy.at).unwrap_or_default();
            let Some(at) = now.0.checked_sub(ago).filter(|at| *at >= self.clock.0) else { return };
            let name = Path::new(OsStr::from_bytes(path));
            let files = self.layers.iter().filter_map(|layer| fs::symlink_metadata(layer.join(name)).ok());
            let size = files.filter(|file| identity::inode(file) == inode).map(|file| file.len()).next();
            let seen = self.seen.entry(inode).or_insert_with(|| Seen::new(path));
            let new = seen.need(ByteRange::new(0, size.unwrap_or_default()));
            self.ready.extend(new.into_iter().map(|range| RawAccess {
                at,
                kind: AccessKind::Read,
                path: Arc::clone(&seen.path),
                offset: range.start,
                len: range.len(),
                process: Arc::clone(&nobody),
                wait: None,
            }));
        })
    }

    /// When the first process of the members executed its program.
    pub fn executed(&self) -> Option<Instant> {
        self.executed
    }

    /// The account so far.
    pub fn counts(&self) -> Result<Counts, EbpfError> {
        Ok(Counts {
            emitted: self.loaded.count(Counter::Emitted)?,
            dropped: self.loaded.count(Counter::Dropped)?,
            received: self.received,
            outside: self.strangers.total(),
            empty: self.loaded.count(Counter::Empty)?,
            others: self.others,
            unheld: self.held.lost().map(|(_, count)| count).sum(),
            untracked: self.untracked + self.loaded.count(Counter::Untracked)?,
        })
    }

    /// How reads are seen.
    pub fn way(&self) -> Way {
        self.loaded.way
    }

    /// What was lost of those that are recorded.
    fn lost(&self) -> Result<u64, EbpfError> {
        let counts = self.counts()?;
        let all = counts.dropped + counts.unheld + counts.untracked;
        if !self.is_tree() || self.members == Members::default() {
            return Ok(all);
        }
        let others = self.loaded.lost()?.into_iter().chain(self.held.lost());
        let others = others.filter(|(who, _)| self.members.exclude(*who)).map(|(_, count)| count);
        Ok(all.saturating_sub(others.sum()))
    }

    /// Reads everything that was in the ring buffer when this was called; `until_news`: or until something new is found.
    fn read(&mut self, until_news: bool) {
        self.loaded.anomalies.forward();
        for _ in 0..self.ring_records {
            let Some(event) = self.loaded.events.next().map(|record| Event::from_bytes(&record)) else {
                return;
            };
            self.received += 1;
            match event {
                Some(event) => self.take(&event),
                None => self.strangers.unknown(), // of another object: cannot be, and is not hidden either
            }
            if until_news && !self.ready.is_empty() {
                return;
            }
        }
    }

    fn take(&mut self, event: &Event) {
        let at = self.instant(event.t_ns);
        let Some(identity) = &self.identity else {
            return self.held.keep(event);
        };
        if self.is_tree() && !self.members.have(event) {
            self.others += 1;
            return;
        }
        let Some(kind) = EventKind::new(event.kind) else {
            return self.strangers.unknown();
        };
        let inode = Inode { dev: event.dev, ino: event.ino };
        if kind == EventKind::Exec && event.tgid == self.members.first {
            self.executed.get_or_insert(at);
        }
        let below = if event.flags & OVERLAY == 0 { None } else { identity.below(event.ino) };
        let inode = below.unwrap_or(inode);
        let seen = match self.seen.entry(inode) {
            Entry::Occupied(seen) => seen.into_mut(),
            Entry::Vacant(new) => match identity.path(inode) {
                Some(path) => new.insert(Seen::new(path)),
                None => return self.strangers.note(inode, event.flags),
            },
        };
        // An overlay's own inode has another generation than the one below.
        let tells = event.flags & OVERLAY == 0 && identity.keeps_generations(inode.dev);
        if tells && !seen.is_same(event.generation) {
            return self.strangers.note(inode, event.flags);
        }
        let range = ByteRange::new(event.offset, event.offset.saturating_add(event.length));
        let (kind, new) = match kind {
            EventKind::Read => (AccessKind::Read, seen.need(range)),
            EventKind::Fault => (AccessKind::Fault, seen.fault(range)),
            EventKind::Map => (AccessKind::Map, seen.map(range)),
            EventKind::Folio => {
                let silently = self.loaded.way != Way::Functions && range.len() >= HUGE_BYTES;
                (AccessKind::Map, seen.folio(range, silently))
            }
            EventKind::Exec if seen.execute() => (AccessKind::Exec, vec![range]),
            EventKind::Exec => (AccessKind::Exec, Vec::new()),
            EventKind::Open if seen.open() => (AccessKind::Open, vec![ByteRange::new(0, 0)]),
            EventKind::Open => (AccessKind::Open, Vec::new()),
        };
        if new.is_empty() {
            return;
        }
        let path = &seen.path;
        let process = self.processes.entry((event.tgid, event.comm)).or_insert_with(|| {
            let name = event.comm.split(|byte| *byte == 0).next().unwrap_or_default();
            Arc::new(Process { pid: event.tgid, comm: Arc::from(name) })
        });
        self.ready.extend(new.into_iter().map(|range| RawAccess {
            at,
            kind,
            path: Arc::clone(path),
            offset: range.start,
            len: range.len(),
            process: Arc::clone(process),
            wait: None,
        }));
    }

    fn is_tree(&self) -> bool {
        matches!(self.scope, Scope::Tree { .. })
    }

    /// A moment of the kernel's clock.
    fn instant(&self, t_ns: u64) -> Instant {
        let (instant, clock) = self.clock;
        if t_ns >= clock {
            instant + Duration::from_nanos(t_ns - clock)
        } else {
            instant.checked_sub(Duration::from_nanos(clock - t_ns)).unwrap_or(instant)
        }
    }
}

impl Capture for Ebpf {
    fn engine(&self) -> &'static str {
        if self.loaded.way == Way::Pages { "ebpf" } else { "ebpf-exact" }
    }

    fn warm(&self) -> Option<bool> {
        None // whoever has a file of a layer mapped shares its pages
    }

    fn measures_waits(&self) -> bool {
        false
    }

    fn partial(&self) -> Option<String> {
        if self.loaded.way == Way::Pages {
            let why = self.loaded.refused.last().map(|error| format!(": {error}")).unwrap_or_default();
            Some(format!("reads are seen by page events alone{why}"))
        } else if !self.loaded.knows_folios {
            Some("this kernel does not say which pages a large folio has".into())
        } else {
            None
        }
    }

    fn next(&mut self, patience: Duration) -> Option<RawAccess> {
        let deadline = Instant::now() + patience;
        loop {
            if self.ready.is_empty() {
                self.read(true);
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

    fn settle(&mut self) {
        // By the ends of functions, clones are seen when they are made.
        if self.loaded.way != Way::Functions
            && let Some(upper) = self.upper.clone()
            && let Err(error) = self.take_copies(&upper)
        {
            tracing::warn!(%error, "cannot look for copies of the image's files: some may be missing");
        }
    }

    fn dropped(&self) -> u64 {
        match self.lost() {
            Ok(count) => count,
            Err(error) => {
                tracing::warn!(%error, "cannot read the counters: the recording counts as incomplete");
                1
            }
        }
    }

    fn links(&self) -> BTreeMap<String, Vec<String>> {
        let Some(identity) = &self.identity else { return BTreeMap::new() };
        let mut links = BTreeMap::new();
        let mut room = MAX_LINKS;
        for (inode, seen) in self.seen.iter().filter(|(_, seen)| seen.is_used()) {
            let others = identity.paths(*inode).filter(|path| **path != *seen.path);
            let others: Vec<String> = others.map(|path| escape(path).into_owned()).collect();
            let cost = others.iter().map(String::len).sum::<usize>();
            if !others.is_empty() && cost <= room {
                room -= cost;
                links.insert(escape(&seen.path).into_owned(), others);
            }
        }
        links
    }

    fn outside(&self) -> Outside {
        self.strangers.by_reason(self.upper.as_deref())
    }

    fn follow(&mut self, pid: u32) {
        if self.is_tree() {
            Self::follow(self, pid);
        }
    }
}
