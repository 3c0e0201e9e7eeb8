//! Who is recorded: tasks in one cgroup of the unified hierarchy or below it.
//!
//! The loader sets the cgroup before the programs are loaded; it never changes.

use aya_ebpf::helpers::generated::bpf_get_current_ancestor_cgroup_id;

#[unsafe(no_mangle)]
static CGROUP: u64 = 0;
#[unsafe(no_mangle)]
static CGROUP_LEVEL: u32 = 0;

/// Is the current task one that is recorded?
#[inline(always)]
pub(crate) fn wanted() -> bool {
    // SAFETY: both are initialised statics; volatile, because the loader replaces their values in the object.
    let (cgroup, level) = unsafe {
        (core::ptr::read_volatile(&raw const CGROUP), core::ptr::read_volatile(&raw const CGROUP_LEVEL))
    };
    // SAFETY: the helper takes any number and answers 0 where there is no such ancestor.
    let ancestor = unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) };
    ancestor == cgroup
}
