//! Loads the eBPF object into the running kernel and attaches its programs.
//!
//! Owns what is loaded: dropping [`Loaded`] detaches everything. The object is the committed one, built by `cargo xtask
//! ebpf`; it is fitted to the running kernel by writing member offsets into its globals.

use std::fs;
use std::io;

use aya::maps::{HashMap, MapData, PerCpuArray, RingBuf};
use aya::programs::{BtfTracePoint, ProgramError};
use aya::{Btf, Ebpf, EbpfLoader};
use recorder_ebpf::{
    CGROUP, CGROUP_LEVEL, COUNTERS, Counter, EVENTS, EXACT_PROGRAMS, FIELDS, Field, NEEDED_FIELDS, NO_MEMBER,
    OFFSETS, PAGE_SHIFT, PROGRAMS, Program, SCOPE, SEED_COMM, ScopeKind, TRACKED, TRACKED_MAX, TREE_PROGRAMS,
};
use rustix::thread::{CapabilitySet, capabilities};

use super::Settings;
use super::anomalies::Anomalies;
use super::btf::KernelTypes;
use super::error::EbpfError;

/// The committed programs.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../../recorder-ebpf/recorder.bpf.o");

/// The kernel's types, in the place where it shows them.
const TYPES: &str = "/sys/kernel/btf/vmlinux";
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
    counters: PerCpuArray<MapData, u64>,
}

impl Loaded {
    /// Loads and attaches.
    pub(super) fn new(filter: Filter, settings: &Settings) -> Result<Self, EbpfError> {
        if settings.exact && cfg!(not(target_arch = "x86_64")) {
            return Err(EbpfError::Architecture);
        }
        let (scope, id, level, seed, room) = match filter {
            Filter::Cgroup { id, level } => (ScopeKind::Cgroup, id, level, [0; 16], 1),
            Filter::Tree { seed, room } => (ScopeKind::Tree, 0, 0, seed, room),
        };
        let scope_number = scope as u32;
        let tree: &[Program] = if scope == ScopeKind::Tree { &TREE_PROGRAMS } else { &[] };
        let pages: &[Program] = if settings.exact { &EXACT_PROGRAMS } else { &PROGRAMS };
        let wanted: Vec<Program> = tree.iter().chain(pages).copied().collect();
        let mut loader = EbpfLoader::new();
        // It has read the kernel's types, tens of megabytes, which nothing in the object asks for.
        loader.btf(None);
        let offsets = offsets(&wanted, settings.exact)?;
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
        let events = programs.take_map(EVENTS).ok_or(EbpfError::Incomplete(EVENTS))?;
        let events = RingBuf::try_from(events).map_err(|source| EbpfError::Map { name: EVENTS, source })?;
        let anomalies = Anomalies::of(&mut programs);
        let counters = programs.take_map(COUNTERS).ok_or(EbpfError::Incomplete(COUNTERS))?;
        let counters =
            PerCpuArray::try_from(counters).map_err(|source| EbpfError::Map { name: COUNTERS, source })?;
        let types = Btf::from_sys_fs().map_err(|error| EbpfError::Object(Box::new(error.into())))?;
        let tracked = programs.take_map(TRACKED).ok_or(EbpfError::Incomplete(TRACKED))?;
        let tracked =
            HashMap::try_from(tracked).map_err(|source| EbpfError::Map { name: TRACKED, source })?;
        for (program, tracepoint) in wanted {
            let program_failed = |action| move |source| EbpfError::Program { action, program, source };
            let loaded = programs.program_mut(program).ok_or(EbpfError::Incomplete(program))?;
            let loaded: &mut BtfTracePoint = loaded.try_into().map_err(program_failed("find"))?;
            loaded.load(tracepoint, &types).map_err(|error| refused(program, error))?;
            loaded.attach().map_err(program_failed("attach"))?;
        }
        Ok(Self { _programs: programs, events, anomalies, tracked, counters })
    }

    /// What the kernel side has counted so far, on all CPUs.
    pub(super) fn count(&self, counter: Counter) -> Result<u64, EbpfError> {
        let counts = self.counters.get(&(counter as u32), 0);
        Ok(counts.map_err(|source| EbpfError::Map { name: COUNTERS, source })?.iter().sum())
    }
}

/// Offsets of the members that the programs read, in this kernel. Without `exact`, it may lack those of calls, and of
/// overlays as a whole.
fn offsets(programs: &[Program], exact: bool) -> Result<[u32; FIELDS.len()], EbpfError> {
    let bytes = fs::read(TYPES).map_err(|source| EbpfError::NoTypes { path: TYPES, source })?;
    let types = KernelTypes::parse(bytes).map_err(|source| EbpfError::Types { path: TYPES, source })?;
    let wrong = |source| EbpfError::Types { path: TYPES, source };
    for &(_, tracepoint) in programs {
        if !types.has_tracepoint(tracepoint).map_err(wrong)? {
            return Err(EbpfError::NoTracepoint(tracepoint));
        }
    }
    let mut offsets = [NO_MEMBER; FIELDS.len()];
    for (number, (structure, member)) in FIELDS.into_iter().enumerate() {
        match types.offset(structure, member).map_err(wrong)? {
            Some(offset) => offsets[number] = offset,
            None if exact && number >= NEEDED_FIELDS => {
                return Err(EbpfError::NotExact { structure, member });
            }
            None if number < NEEDED_FIELDS => return Err(EbpfError::NoMember { structure, member }),
            None => {}
        }
    }
    if offsets[Field::OverlayInode as usize..=Field::DentryInode as usize].contains(&NO_MEMBER) {
        offsets[Field::OverlayStack as usize] = NO_MEMBER; // by which the programs know
    }
    Ok(offsets)
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
            let lines: Vec<&str> = log.trim_end().lines().collect();
            let log = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
            EbpfError::Verifier { program, log, source: io_error }
        }
        source => EbpfError::Program { action: "load", program, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernels_offsets_are_plausible_where_it_shows_its_types() {
        match offsets(&EXACT_PROGRAMS, false) {
            Ok(offsets) => {
                assert!(offsets[..NEEDED_FIELDS].iter().all(|offset| *offset < 8192), "{offsets:?}");
            }
            Err(EbpfError::NoTypes { .. } | EbpfError::NoTracepoint(_)) => {} // not this kernel
            Err(other) => panic!("{other}"),
        }
    }
}
