//! Loads the eBPF object into the running kernel and attaches its programs.
//!
//! Owns what is loaded: dropping [`Loaded`] detaches everything. The object is the committed one, built by `cargo xtask
//! ebpf`; it is fitted to the running kernel by writing member offsets into its globals.

use std::fs;
use std::io;

use aya::maps::{MapData, PerCpuArray, RingBuf};
use aya::programs::{BtfTracePoint, ProgramError};
use aya::{Btf, Ebpf, EbpfLoader};
use recorder_ebpf::{
    CGROUP, CGROUP_LEVEL, COUNTERS, Counter, EVENTS, EXACT_PROGRAMS, FIELDS, Field, NEEDED_FIELDS, NO_MEMBER,
    OFFSETS, PAGE_SHIFT, PROGRAMS, Program,
};

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

/// Programs at work.
pub(super) struct Loaded {
    _programs: Ebpf,
    pub(super) events: RingBuf<MapData>,
    pub(super) anomalies: Anomalies,
    counters: PerCpuArray<MapData, u64>,
}

impl Loaded {
    /// Loads and attaches. Records the cgroup `id` at depth `level`.
    pub(super) fn new(id: u64, level: u32, settings: &Settings) -> Result<Self, EbpfError> {
        if settings.exact && cfg!(not(target_arch = "x86_64")) {
            return Err(EbpfError::Architecture);
        }
        let wanted: &[Program] = if settings.exact { &EXACT_PROGRAMS } else { &PROGRAMS };
        let offsets = offsets(wanted, settings.exact)?;
        let types = Btf::from_sys_fs().map_err(|error| EbpfError::Object(Box::new(error.into())))?;
        let page_shift = rustix::param::page_size().trailing_zeros();
        let mut loader = EbpfLoader::new();
        loader.override_global(OFFSETS, &offsets, true);
        loader.override_global(CGROUP, &id, true);
        loader.override_global(CGROUP_LEVEL, &level, true);
        let (name, level) = Anomalies::level();
        loader.override_global(name, &level, true);
        loader.override_global(PAGE_SHIFT, &page_shift, true);
        loader.map_max_entries(EVENTS, settings.ring_bytes);
        let mut programs =
            loader.load(settings.object).map_err(|error| EbpfError::Object(Box::new(error)))?;
        let events = programs.take_map(EVENTS).ok_or(EbpfError::Incomplete(EVENTS))?;
        let events = RingBuf::try_from(events).map_err(|source| EbpfError::Map { name: EVENTS, source })?;
        let anomalies = Anomalies::of(&mut programs);
        let counters = programs.take_map(COUNTERS).ok_or(EbpfError::Incomplete(COUNTERS))?;
        let counters =
            PerCpuArray::try_from(counters).map_err(|source| EbpfError::Map { name: COUNTERS, source })?;
        for &(program, tracepoint) in wanted {
            let program_failed = |action| move |source| EbpfError::Program { action, program, source };
            let loaded = programs.program_mut(program).ok_or(EbpfError::Incomplete(program))?;
            let loaded: &mut BtfTracePoint = loaded.try_into().map_err(program_failed("find"))?;
            loaded.load(tracepoint, &types).map_err(|error| refused(program, error))?;
            loaded.attach().map_err(program_failed("attach"))?;
        }
        Ok(Self { _programs: programs, events, anomalies, counters })
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

fn refused(program: &'static str, error: ProgramError) -> EbpfError {
    match error {
        ProgramError::LoadError { io_error, .. } if io_error.kind() == io::ErrorKind::PermissionDenied => {
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
