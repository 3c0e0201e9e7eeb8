//! Reads the kernel's structures at the offsets of the running kernel.
//!
//! Rust has no CO-RE relocations: the loader takes the offsets from the kernel's BTF and writes them into [`OFFSETS`]
//! before the programs are loaded. Memory is read by a helper that answers an error for a bad address.

use aya_ebpf::helpers::bpf_probe_read_kernel;
use recorder_ebpf::{FIELDS, Field};

#[unsafe(no_mangle)]
static OFFSETS: [u32; FIELDS.len()] = [0; FIELDS.len()];
#[unsafe(no_mangle)]
static PAGE_SHIFT: u32 = 12;

/// A file as the page cache knows it.
pub(crate) struct File {
    pub(crate) dev: u32,
    pub(crate) ino: u64,
    pub(crate) generation: u32,
    pub(crate) size: u64,
}

/// Identity and size of an inode.
#[inline(always)]
pub(crate) fn file(inode: *const u8) -> Option<File> {
    let sb: *const u8 = member(inode, Field::InodeSb)?;
    Some(File {
        dev: member(sb, Field::SuperDev)?,
        ino: member(inode, Field::InodeIno)?,
        generation: member(inode, Field::InodeGeneration)?,
        size: member(inode, Field::InodeSize)?,
    })
}

/// A member of the structure at `base`.
#[inline(always)]
pub(crate) fn member<T>(base: *const u8, field: Field) -> Option<T> {
    // SAFETY: the helper checks the address; every T used here is a plain number or pointer.
    unsafe { bpf_probe_read_kernel(part(base, field).cast::<T>()) }.ok()
}

/// The place of a member that is a structure itself.
#[inline(always)]
pub(crate) fn part(base: *const u8, field: Field) -> *const u8 {
    // SAFETY: an element of an initialised static; volatile, because the loader replaces the values in the object.
    let offset = unsafe { core::ptr::read_volatile((&raw const OFFSETS).cast::<u32>().add(field as usize)) };
    base.wrapping_add(offset as usize)
}

/// The bytes of a number of pages.
#[inline(always)]
pub(crate) fn bytes(pages: u64) -> u64 {
    // SAFETY: an initialised static; volatile, because the loader replaces its value in the object.
    pages << (unsafe { core::ptr::read_volatile(&raw const PAGE_SHIFT) } & 31)
}
