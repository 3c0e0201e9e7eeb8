//! What the running kernel says about itself: its types, read once for each start.
//!
//! Owns them, for our own questions and for aya's. The types of an overlay are in the kernel, or in a module that builds on
//! it; where neither says them, files are still known by the pages that they give.

use std::fs;

use aya::{Btf, Endianness};
use recorder_ebpf::{FIELDS, Field, Hook, NO_MEMBER, Need, Program, needed};
use rustix::mount::{FsOpenFlags, fsopen};

use super::btf::KernelTypes;
use super::error::EbpfError;

/// The kernel's types, in the place where it shows them.
const TYPES: &str = "/sys/kernel/btf/vmlinux";
/// Those of the overlay, when it is a module.
const OVERLAY: &str = "/sys/kernel/btf/overlay";

/// Offsets of the members that the programs read.
pub(super) type Offsets = [u32; FIELDS.len()];

/// The running kernel.
#[derive(Debug)]
pub(super) struct Kernel {
    types: KernelTypes,
    /// The same for aya, which asks for the numbers of tracepoints and functions.
    pub(super) btf: Btf,
}

impl Kernel {
    /// Reads the types.
    pub(super) fn read() -> Result<Self, EbpfError> {
        let bytes = fs::read(TYPES).map_err(|source| EbpfError::NoTypes { path: TYPES, source })?;
        let names = FIELDS.into_iter().map(|(structure, _)| structure);
        let types = KernelTypes::parse(&bytes, names);
        let mut types = types.map_err(|source| EbpfError::Types { path: TYPES, source })?;
        let (overlay, member) = FIELDS[Field::OverlayInode as usize];
        if types.offset(overlay, member).is_ok_and(|found| found.is_none()) {
            // Which loads the module, if it is one and not there yet.
            let _ = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC);
            let added = fs::read(OVERLAY).map(|bytes| types.add(&bytes));
            tracing::debug!(?added, "types of the overlay from {OVERLAY}");
        }
        let btf = Btf::parse(&bytes, Endianness::default());
        let btf = btf.map_err(|error| EbpfError::Object(Box::new(error.into())))?;
        Ok(Self { types, btf })
    }

    /// Where the members are. All that every recording needs are there; of a group of others, all or none.
    pub(super) fn offsets(&self) -> Result<Offsets, EbpfError> {
        let mut offsets = [NO_MEMBER; FIELDS.len()];
        for (number, (structure, member)) in FIELDS.into_iter().enumerate() {
            let found = self.types.offset(structure, member);
            match found.map_err(|source| EbpfError::Types { path: TYPES, source })? {
                Some(offset) => offsets[number] = offset,
                None if needed(number) == Need::Always => {
                    return Err(EbpfError::NoMember { structure, member });
                }
                None => {}
            }
        }
        for need in [Need::Folios, Need::Overlay] {
            if missing(&offsets, need).is_some() {
                let of_need = offsets.iter_mut().enumerate().filter(|(number, _)| needed(*number) == need);
                of_need.for_each(|(_, offset)| *offset = NO_MEMBER); // by which the programs know
            }
        }
        Ok(offsets)
    }

    /// Fails when programs cannot be attached to what they are made for.
    pub(super) fn has(&self, programs: &[Program]) -> Result<(), EbpfError> {
        let wrong = |source| EbpfError::Types { path: TYPES, source };
        for (_, hook) in programs {
            match *hook {
                Hook::Tracepoint(name) if !self.types.has_tracepoint(name).map_err(wrong)? => {
                    return Err(EbpfError::NoTracepoint(name));
                }
                Hook::Entry(name) if self.types.arguments(name).map_err(wrong)?.is_none() => {
                    return Err(EbpfError::NoFunction(name));
                }
                Hook::Exit(name, count) if self.types.arguments(name).map_err(wrong)? != Some(count) => {
                    return Err(EbpfError::NoFunction(name));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The first member of a group that is not there.
pub(super) fn missing(offsets: &Offsets, need: Need) -> Option<(&'static str, &'static str)> {
    let number = (0..FIELDS.len()).find(|&number| needed(number) == need && offsets[number] == NO_MEMBER)?;
    Some(FIELDS[number])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_says_where_everything_is() {
        let kernel = Kernel::read().expect("a kernel with its type information is needed for this test");
        let offsets = kernel.offsets().unwrap();
        for need in [Need::Always, Need::Folios, Need::Overlay, Need::Calls, Need::Functions] {
            assert_eq!(missing(&offsets, need), None, "{need:?}");
        }
        assert!(offsets.iter().all(|offset| *offset < 16384), "{offsets:?}");
        for programs in [&recorder_ebpf::FUNCTIONS[..], &recorder_ebpf::CALLS, &recorder_ebpf::MAPPED] {
            kernel.has(programs).unwrap();
        }
        let absent = [("x", Hook::Exit("filemap_read", 2))];
        assert!(matches!(kernel.has(&absent), Err(EbpfError::NoFunction("filemap_read"))));
    }
}
