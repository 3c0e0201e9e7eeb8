//! Reads the kernel's structures at the offsets of the running kernel.
//!
//! Rust has no CO-RE relocations: the loader takes the offsets from the kernel's BTF and writes them into [`OFFSETS`]
//! before the programs are loaded. What hangs on an argument of a tracepoint has a type that the verifier knows: it is
//! read by plain loads, which give zeros for a bad address and cost next to nothing. Other memory is read by a helper
//! that answers an error for a bad address.

use aya_ebpf::helpers::bpf_probe_read_kernel;
use recorder_ebpf::{FIELDS, Field, NO_MEMBER, OVERLAY, UNLINKED};

#[unsafe(no_mangle)]
static OFFSETS: [u32; FIELDS.len()] = [0; FIELDS.len()];
#[unsafe(no_mangle)]
static PAGE_SHIFT: u32 = 12;

/// `OVERLAYFS_SUPER_MAGIC`.
const OVERLAY_MAGIC: u64 = 0x794c_7630;

/// A file as the page cache knows it.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct File {
    pub(crate) ino: u64,
    pub(crate) size: u64,
    pub(crate) dev: u32,
    pub(crate) generation: u32,
    pub(crate) flags: u32,
    /// So that nothing of it is left unwritten.
    pub(crate) rest: u32,
}

/// Identity and size of the inode that owns a page cache. The mapping is an argument of a tracepoint.
#[inline(always)]
pub(crate) fn owner(mapping: *const u8) -> Option<File> {
    let inode: *const u8 = typed(mapping, Field::MappingHost);
    let sb: *const u8 = typed(inode, Field::InodeSb);
    if inode.is_null() || sb.is_null() {
        return None;
    }
    Some(File {
        ino: typed(inode, Field::InodeIno),
        size: typed(inode, Field::InodeSize),
        dev: typed(sb, Field::SuperDev),
        generation: typed(inode, Field::InodeGeneration),
        flags: if typed::<u32>(inode, Field::InodeLinks) == 0 { UNLINKED as u32 } else { 0 },
        rest: 0,
    })
}

/// Identity and size of an inode.
#[inline(always)]
fn file(inode: *const u8) -> Option<File> {
    let sb: *const u8 = member(inode, Field::InodeSb)?;
    let links: u32 = member(inode, Field::InodeLinks)?;
    Some(File {
        ino: member(inode, Field::InodeIno)?,
        size: member(inode, Field::InodeSize)?,
        dev: member(sb, Field::SuperDev)?,
        generation: member(inode, Field::InodeGeneration)?,
        flags: if links == 0 { UNLINKED as u32 } else { 0 },
        rest: 0,
    })
}

/// Identity of the inode that owns the page cache of what was opened as this one: an overlay keeps none of its own. Where
/// the kernel does not say what is below an overlay's, it is the overlay's, with a flag.
#[inline(always)]
pub(crate) fn file_below(inode: *const u8) -> Option<File> {
    let sb: *const u8 = member(inode, Field::InodeSb)?;
    let magic: u64 = member(sb, Field::SuperMagic)?;
    if magic != OVERLAY_MAGIC {
        return file(inode);
    }
    if offset(Field::OverlayStack) == NO_MEMBER {
        let own = file(inode)?;
        return Some(File { flags: own.flags | OVERLAY as u32, ..own });
    }
    let overlay = inode.wrapping_sub(offset(Field::OverlayInode) as usize);
    let mut dentry: *const u8 = member(overlay, Field::OverlayUpper)?;
    if dentry.is_null() {
        let entry: *const u8 = member(overlay, Field::OverlayEntry)?;
        let topmost = entry.wrapping_add(offset(Field::OverlayStack) as usize);
        dentry = member(topmost, Field::OverlayDentry)?;
    }
    file(member(dentry, Field::DentryInode)?)
}

/// A member of a structure whose type the verifier knows.
#[inline(always)]
pub(crate) fn typed<T>(base: *const u8, field: Field) -> T {
    // SAFETY: the verifier admits no other address than that of a member of this size; the kernel answers a fault with
    // zeros, which every T used here can be. Volatile, so that the load stays where the type is known.
    unsafe { core::ptr::read_volatile(part(base, field).cast()) }
}

/// A member of the structure at `base`.
#[inline(always)]
pub(crate) fn member<T>(base: *const u8, field: Field) -> Option<T> {
    read(part(base, field))
}

/// The place of a member that is a structure itself.
#[inline(always)]
pub(crate) fn part(base: *const u8, field: Field) -> *const u8 {
    base.wrapping_add(offset(field) as usize)
}

/// A number or pointer of the kernel.
#[inline(always)]
pub(crate) fn read<T>(at: *const u8) -> Option<T> {
    // SAFETY: the helper checks the address; every T used here is a plain number or pointer.
    unsafe { bpf_probe_read_kernel(at.cast::<T>()) }.ok()
}

/// Where a member begins in its structure.
#[inline(always)]
pub(crate) fn offset(field: Field) -> u32 {
    // SAFETY: an element of an initialised static; volatile, because the loader replaces the values in the object.
    unsafe { core::ptr::read_volatile((&raw const OFFSETS).cast::<u32>().add(field as usize)) }
}

/// The bytes of a number of pages.
#[inline(always)]
pub(crate) fn bytes(pages: u64) -> u64 {
    pages << page_shift()
}

/// The whole pages in a number of bytes.
#[inline(always)]
pub(crate) fn pages(bytes: u64) -> u64 {
    bytes >> page_shift()
}

#[inline(always)]
fn page_shift() -> u32 {
    // SAFETY: an initialised static; volatile, because the loader replaces its value in the object.
    (unsafe { core::ptr::read_volatile(&raw const PAGE_SHIFT) }) & 31
}
