//! Loads the eBPF object into the running kernel and attaches its programs.
//!
//! Owns what is loaded: dropping [`Loaded`] detaches everything. The object is the committed one, built by `cargo xtask
//! ebpf`; it is fitted to the running kernel by writing member offsets into its globals. Reads are seen in the best way
//! that this kernel lets us use: which one is found by trying.

use std::io;

use aya::maps::{Array, HashMap, MapData, PerCpuArray, RingBuf};
use aya::programs::{BtfTracePoint, FEntry, FExit, ProgramError};
use aya::{Btf, Ebpf, EbpfLoader};
use recorder_ebpf::{
    CGROUP, CGROUP_LEVEL, CHOSEN, COUNTERS, Counter, EVENTS, Hook, LOST, MAPPED, Need, OFFSETS, PAGE_SHIFT,
    Program, SCOPE, SEED_COMM, ScopeKind, TRACKED, TRACKED_MAX, TREE, Tracked, Way,
};
use rustix::thread::{CapabilitySet, capabilities};

use super::Settings;
use super::anomalies::Anomalies;
use super::error::EbpfError;
use super::kernel::{Kernel, Offsets, missing};

/// Lines of a verifier log that are shown.
const LOG_LINES: usize = 20;

/// Whom the programs record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filter {
    /// A cgroup of the unified hierarchy and its descendants.
    Cgroup { id: u64, level: u32 },
    /// Tracked processes and their descendants, at most `room` at a time; `seed` is the thread name of processes that
    /// start others, padded with zeros.
    Tree { seed: [u8; 16], room: u32 },
}

/// Thread group ids with what is known of them, as [`recorder_ebpf::Tracked`] packs it.
pub(super) type TrackedMap = HashMap<MapData, u32, u64>;

/// Programs at work.
pub(super) struct Loaded {
    _programs: Ebpf,
    pub(super) events: RingBuf<MapData>,
    pub(super) anomalies: Anomalies,
    pub(super) tracked: TrackedMap,
    /// How reads are seen.
    pub(super) way: Way,
    /// Why not in a better way.
    pub(super) refused: Vec<EbpfError>,
    /// Does this kernel say how its page caches look?
    pub(super) knows_folios: bool,
    counters: PerCpuArray<MapData, u64>,
    chosen: Array<MapData, u64>,
    lost: HashMap<MapData, u64, u64>,
}

impl Loaded {
    /// Loads and attaches.
    pub(super) fn new(filter: Filter, settings: &Settings) -> Result<Self, EbpfError> {
        let (scope, id, level, seed, room) = match filter {
            Filter::Cgroup { id, level } => (ScopeKind::Cgroup, id, level, [0; 16], 1),
            Filter::Tree { seed, room } => (ScopeKind::Tree, 0, 0, seed, room),
        };
        let kernel = Kernel::read()?;
        let tree: &[Program] = if scope == ScopeKind::Tree { &TREE } else { &[] };
        kernel.has(tree)?;
        kernel.has(&MAPPED)?;
        let scope_number = scope as u32;
        let mut loader = EbpfLoader::new();
        // It would read the kernel's types again, which nothing in the object asks for.
        loader.btf(None);
        let offsets = kernel.offsets()?;
        let page_shift = rustix::param::page_size().trailing_zeros();
        loader.override_global(OFFSETS, &offsets, true);
        loader.override_global(SCOPE, &scope_number, true);
        loader.override_global(SEED_COMM, &seed, true);
        loader.override_global(CGROUP, &id, true);
        loader.override_global(CGROUP_LEVEL, &level, true);
        let (name, level) = Anomalies::level();
        loader.override_global(name, &level, true);
        loader.override_global(PAGE_SHIFT, &page_shift, true);
        loader.map_max_entries(EVENTS, settings.ring_bytes);
        loader.map_max_entries(TRACKED, room.min(TRACKED_MAX));
        let mut programs =
            loader.load(settings.object).map_err(|error| EbpfError::Object(Box::new(error)))?;
        let (way, refused) = first_way(&mut programs, settings.reads.ways(), &kernel, &offsets)?;
        for program in tree.iter().chain(&MAPPED) {
            load(&mut programs, program, &kernel.btf)?;
        }
        // Forks first: what they begin to track is not seen before.
        for program in tree.iter().chain(way.programs()).chain(&MAPPED) {
            attach(&mut programs, program)?;
        }
        let anomalies = Anomalies::of(&mut programs);
        let mut map = |name| programs.take_map(name).ok_or(EbpfError::Incomplete(name));
        let unfit = |name| move |source| EbpfError::Map { name, source };
        Ok(Self {
            events: RingBuf::try_from(map(EVENTS)?).map_err(unfit(EVENTS))?,
            tracked: HashMap::try_from(map(TRACKED)?).map_err(unfit(TRACKED))?,
            counters: PerCpuArray::try_from(map(COUNTERS)?).map_err(unfit(COUNTERS))?,
            chosen: Array::try_from(map(CHOSEN)?).map_err(unfit(CHOSEN))?,
            lost: HashMap::try_from(map(LOST)?).map_err(unfit(LOST))?,
            _programs: programs,
            anomalies,
            way,
            refused,
            knows_folios: missing(&offsets, Need::Folios).is_none(),
        })
    }

    /// What the kernel side has counted so far, on all CPUs.
    pub(super) fn count(&self, counter: Counter) -> Result<u64, EbpfError> {
        let counts = self.counters.get(&(counter as u32), 0);
        Ok(counts.map_err(|source| EbpfError::Map { name: COUNTERS, source })?.iter().sum())
    }

    /// From now on, only these of the tracked processes are recorded.
    pub(super) fn choose(&mut self, who: Tracked) -> Result<(), EbpfError> {
        let set = self.chosen.set(0, who.to_bits(), 0);
        set.map_err(|source| EbpfError::Map { name: CHOSEN, source })
    }

    /// What was lost of whom, as far as it is known.
    pub(super) fn lost(&self) -> Result<Vec<(Tracked, u64)>, EbpfError> {
        let all = self.lost.iter().map(|entry| entry.map(|(bits, count)| (Tracked::from_bits(bits), count)));
        all.collect::<Result<_, _>>().map_err(|source| EbpfError::Map { name: LOST, source })
    }
}

/// Loads the programs of the first of these ways that this kernel takes; gives also why it took none before.
fn first_way(
    programs: &mut Ebpf,
    ways: &[Way],
    kernel: &Kernel,
    offsets: &Offsets,
) -> Result<(Way, Vec<EbpfError>), EbpfError> {
    let mut refused = Vec::new();
    for &way in ways {
        let wanted = way.programs();
        let loaded = can_be(way, offsets)
            .and_then(|()| kernel.has(wanted))
            .and_then(|()| wanted.iter().try_for_each(|program| load(programs, program, &kernel.btf)));
        match loaded {
            Ok(()) => return Ok((way, refused)),
            Err(error) => {
                tracing::debug!(%error, ?way, "reads cannot be seen in this way");
                refused.push(error);
            }
        }
    }
    Err(refused.pop().unwrap_or(EbpfError::Incomplete("way to see reads")))
}

/// Does this kernel describe what the programs of this way look at?
fn can_be(way: Way, offsets: &Offsets) -> Result<(), EbpfError> {
    let needs: &[Need] = match way {
        Way::Functions => &[Need::Functions, Need::Calls],
        Way::Calls => &[Need::Calls],
        Way::Pages => return Ok(()),
    };
    if cfg!(not(target_arch = "x86_64")) {
        return Err(EbpfError::Architecture);
    }
    match needs.iter().find_map(|&need| missing(offsets, need)) {
        Some((structure, member)) => Err(EbpfError::NoMember { structure, member }),
        None => Ok(()),
    }
}

fn load(programs: &mut Ebpf, &(program, hook): &Program, types: &Btf) -> Result<(), EbpfError> {
    let found = programs.program_mut(program).ok_or(EbpfError::Incomplete(program))?;
    let loaded = match hook {
        Hook::Tracepoint(name) => {
            <&mut BtfTracePoint>::try_from(found).and_then(|found| found.load(name, types))
        }
        Hook::Entry(name) => <&mut FEntry>::try_from(found).and_then(|found| found.load(name, types)),
        Hook::Exit(name, _) => <&mut FExit>::try_from(found).and_then(|found| found.load(name, types)),
    };
    loaded.map_err(|error| refused(program, error))
}

fn attach(programs: &mut Ebpf, &(program, hook): &Program) -> Result<(), EbpfError> {
    let found = programs.program_mut(program).ok_or(EbpfError::Incomplete(program))?;
    let attached = match hook {
        Hook::Tracepoint(_) => <&mut BtfTracePoint>::try_from(found).and_then(|p| p.attach().map(drop)),
        Hook::Entry(_) => <&mut FEntry>::try_from(found).and_then(|p| p.attach().map(drop)),
        Hook::Exit(..) => <&mut FExit>::try_from(found).and_then(|p| p.attach().map(drop)),
    };
    attached.map_err(|source| EbpfError::Program { action: "attach", program, source })
}

/// Whether this thread has the capabilities that loading takes.
fn may_load() -> bool {
    let small = CapabilitySet::BPF | CapabilitySet::PERFMON;
    capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(small) || sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

fn refused(program: &'static str, error: ProgramError) -> EbpfError {
    match error {
        // The verifier's refusals have the same number, and what it refuses depends on the capabilities.
        ProgramError::LoadError { io_error, .. }
            if io_error.kind() == io::ErrorKind::PermissionDenied && !may_load() =>
        {
            EbpfError::Denied { program, source: io_error }
        }
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            if log.trim().is_empty() && io_error.kind() == io::ErrorKind::PermissionDenied {
                return EbpfError::Forbidden { program, source: io_error };
            }
            let lines: Vec<&str> = log.trim_end().lines().collect();
            let log = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
            EbpfError::Verifier { program, log, source: io_error }
        }
        source => EbpfError::Program { action: "load", program, source },
    }
}
