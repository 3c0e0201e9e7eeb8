//! Who is recorded: tasks in one cgroup of the unified hierarchy or below it, or those that [`tree`] tracks.
//!
//! The loader sets which of the two, and the cgroup, before the programs are loaded; they never change. Of those that are
//! tracked, some are chosen once it is known which are meant.

use aya_ebpf::helpers::generated::bpf_get_current_ancestor_cgroup_id;
use recorder_ebpf::{ScopeKind, Tracked};

use crate::tree;

#[unsafe(no_mangle)]
static SCOPE: u32 = ScopeKind::Cgroup as u32;
#[unsafe(no_mangle)]
static CGROUP: u64 = 0;
#[unsafe(no_mangle)]
static CGROUP_LEVEL: u32 = 0;

/// Is the current task one that is recorded? One that only starts others is not.
#[inline(always)]
pub(crate) fn wanted() -> bool {
    if is_tree() {
        let who = tracked();
        return who.group != Tracked::SEED.group && tree::is_chosen(who);
    }
    // SAFETY: both are initialised statics; volatile, because the loader replaces their values in the object.
    let (cgroup, level) = unsafe {
        (core::ptr::read_volatile(&raw const CGROUP), core::ptr::read_volatile(&raw const CGROUP_LEVEL))
    };
    // SAFETY: the helper takes any number and answers 0 where there is no such ancestor.
    let ancestor = unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) };
    ancestor == cgroup
}

/// Are processes tracked, and not a cgroup recorded?
#[inline(always)]
pub(crate) fn is_tree() -> bool {
    // SAFETY: an initialised static; volatile, because the loader replaces its value in the object.
    (unsafe { core::ptr::read_volatile(&raw const SCOPE) }) == ScopeKind::Tree as u32
}

/// What is tracked of the current task; zeros when it is not, or a cgroup is recorded.
#[inline(always)]
pub(crate) fn tracked() -> Tracked {
    if is_tree() { tree::current().unwrap_or(Tracked::SEED) } else { Tracked::SEED }
}
