//! Loads the eBPF object into the running kernel and attaches its programs.
//!
//! Owns what is loaded: dropping [`Loaded`] detaches everything. The object is the committed one, built by `cargo xtask
//! ebpf`; it is fitted to the running kernel by writing member offsets into its globals.

use std::fs;
use std::io;

use aya::maps::{MapData, PerCpuArray, RingBuf};
use aya::programs::{BtfTracePoint, ProgramError};
use aya::{Btf, Ebpf, EbpfLoader};
use recorder_ebpf::{CGROUP, CGROUP_LEVEL, COUNTERS, Counter, EVENTS, FIELDS, OFFSETS, PAGE_SHIFT, PROGRAMS};

use super::btf::KernelTypes;
use super::error::EbpfError;

static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../../recorder-ebpf/recorder.bpf.o");

/// The kernel's types, in the place where it shows them.
const TYPES: &str = "/sys/kernel/btf/vmlinux";
/// Lines of a verifier log that are shown.
const LOG_LINES: usize = 20;

/// Programs at work.
pub(super) struct Loaded {
    _programs: Ebpf,
    pub(super) events: RingBuf<MapData>,
    counters: PerCpuArray<MapData, u64>,
}

impl Loaded {
    /// Loads and attaches. Records the cgroup `id` at depth `level`, through a ring buffer of `ring_bytes`.
    pub(super) fn new(id: u64, level: u32, ring_bytes: u32) -> Result<Self, EbpfError> {
        let offsets = offsets()?;
        let types = Btf::from_sys_fs().map_err(|error| EbpfError::Object(Box::new(error.into())))?;
        let page_shift = rustix::param::page_size().trailing_zeros();
        let mut loader = EbpfLoader::new();
        loader.override_global(OFFSETS, &offsets, true);
        loader.override_global(CGROUP, &id, true);
        loader.override_global(CGROUP_LEVEL, &level, true);
        loader.override_global(PAGE_SHIFT, &page_shift, true);
        loader.map_max_entries(EVENTS, ring_bytes);
        let mut programs = loader.load(OBJECT).map_err(|error| EbpfError::Object(Box::new(error)))?;
        let events = programs.take_map(EVENTS).ok_or(EbpfError::Incomplete(EVENTS))?;
        let events = RingBuf::try_from(events).map_err(|source| EbpfError::Map { name: EVENTS, source })?;
        let counters = programs.take_map(COUNTERS).ok_or(EbpfError::Incomplete(COUNTERS))?;
        let counters =
            PerCpuArray::try_from(counters).map_err(|source| EbpfError::Map { name: COUNTERS, source })?;
        for (program, tracepoint) in PROGRAMS {
            let program_failed = |action| move |source| EbpfError::Program { action, program, source };
            let loaded = programs.program_mut(program).ok_or(EbpfError::Incomplete(program))?;
            let loaded: &mut BtfTracePoint = loaded.try_into().map_err(program_failed("find"))?;
            loaded.load(tracepoint, &types).map_err(|error| refused(program, error))?;
            loaded.attach().map_err(program_failed("attach"))?;
        }
        Ok(Self { _programs: programs, events, counters })
    }

    /// What the kernel side has counted so far, on all CPUs.
    pub(super) fn count(&self, counter: Counter) -> Result<u64, EbpfError> {
        let counts = self.counters.get(&(counter as u32), 0);
        Ok(counts.map_err(|source| EbpfError::Map { name: COUNTERS, source })?.iter().sum())
    }
}

/// Offsets of the members that the programs read, in this kernel.
fn offsets() -> Result<[u32; FIELDS.len()], EbpfError> {
    let bytes = fs::read(TYPES).map_err(|source| EbpfError::NoTypes { path: TYPES, source })?;
    let types = KernelTypes::parse(bytes)?;
    for (_, tracepoint) in PROGRAMS {
        if !types.has_tracepoint(tracepoint)? {
            return Err(EbpfError::NoTracepoint(tracepoint));
        }
    }
    let mut offsets = [0; FIELDS.len()];
    for (offset, (structure, member)) in offsets.iter_mut().zip(FIELDS) {
        *offset = types.offset(structure, member)?.ok_or(EbpfError::NoMember { structure, member })?;
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
        match offsets() {
            Ok(offsets) => assert!(offsets.iter().all(|offset| *offset < 4096), "{offsets:?}"),
            Err(EbpfError::NoTypes { .. } | EbpfError::NoTracepoint(_)) => {} // not this kernel
            Err(other) => panic!("{other}"),
        }
    }
}
