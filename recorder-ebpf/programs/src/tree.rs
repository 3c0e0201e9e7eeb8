//! Tracked processes and their descendants. Owns the map of them.
//!
//! User space enters processes that run already, and a process enters itself when it executes the program of a name that
//! the loader has set: that of containerd's shims, which start everything of a container. The map is kept at fork, before
//! the child runs, and at the end of a group's last thread.
//!
//! What must always hold: a child of a tracked process is in the map before its first instruction, or counted.

use aya_ebpf::{
    helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid},
    macros::{btf_tracepoint, map},
    maps::{Array, HashMap},
    programs::BtfTracePointContext,
};
use recorder_ebpf::{Counter, Field, TRACKED_MAX, Tracked};

use crate::{filter, kernel, report};

/// `BPF_NOEXIST` of bpf.h: only if it is not there.
const BPF_NOEXIST: u64 = 1;

#[unsafe(no_mangle)]
static SEED_COMM: [u8; 16] = [0; 16];

/// Groups whose losses are told apart.
const MAX_LOSERS: u32 = 4096;

#[map]
static TRACKED: HashMap<u32, u64> = HashMap::with_max_entries(TRACKED_MAX, 0);
#[map]
static CHOSEN: Array<u64> = Array::with_max_entries(1, 0);
#[map]
static LOST: HashMap<u64, u64> = HashMap::with_max_entries(MAX_LOSERS, 0);

/// What is tracked of the current task's thread group.
#[inline(always)]
pub(crate) fn current() -> Option<Tracked> {
    // SAFETY: the value is copied at once; it is one word, so that it is never seen half written.
    unsafe { TRACKED.get(&tgid()) }.map(|bits| Tracked::from_bits(*bits))
}

/// Are these meant, as far as it is known who is?
#[inline(always)]
pub(crate) fn is_chosen(who: Tracked) -> bool {
    let Some(chosen) = CHOSEN.get(0).map(|bits| Tracked::from_bits(*bits)) else { return true };
    chosen == Tracked::SEED || chosen.has(who)
}

/// Something of them is lost: an event, or a child that cannot be tracked.
#[inline(always)]
pub(crate) fn lost(who: Tracked) {
    if !filter::is_tree() {
        return;
    }
    let key = who.to_bits();
    if let Some(count) = LOST.get_ptr_mut(&key) {
        report::add_one(count);
    } else {
        // Where there is no room, or another CPU was first, nobody is named, and it counts for whoever asks.
        let _ = LOST.insert(&key, &1, BPF_NOEXIST);
    }
}

/// The current task, which is `task`, has executed a program.
#[inline(always)]
pub(crate) fn executed(task: *const u8) {
    if !filter::is_tree() {
        return;
    }
    let tracked = current();
    // What has executed a program of its own inside a container does not become one that starts others by its name.
    let outside = match tracked {
        None => true,
        Some(tracked) => tracked.namespace == 0,
    };
    if outside && is_seed() {
        keep(tgid(), Tracked::SEED, Tracked::SEED);
    } else if let Some(tracked) = tracked {
        keep(tgid(), Tracked { namespace: mount_namespace(task).unwrap_or(0), ..tracked }, tracked);
    }
}

/// `sched_process_fork(parent, child)`: the child exists and has not run.
#[btf_tracepoint(function = "sched_process_fork")]
pub fn fork(ctx: BtfTracePointContext) -> i32 {
    let (Some(parent), Some(child)) = (current(), kernel::member::<u32>(ctx.arg(1), Field::TaskTgid)) else {
        return 0;
    };
    if child != tgid() {
        let begins = parent.group == Tracked::SEED.group;
        keep(child, if begins { Tracked { group: child, namespace: 0 } } else { parent }, parent);
    }
    0
}

/// `sched_process_exit(task, ...)`: the current thread has ended.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn exit(ctx: BtfTracePointContext) -> i32 {
    let live = kernel::member::<*const u8>(ctx.arg(0), Field::TaskSignal)
        .and_then(|signal| kernel::member::<i32>(signal, Field::SignalLive));
    // Other threads may go on after the first of a group has ended.
    if live == Some(0) {
        let _ = TRACKED.remove(&tgid()); // most processes are not in it
    }
    0
}

/// Tracks a process; `from` loses it when there is no room.
#[inline(always)]
fn keep(tgid: u32, tracked: Tracked, from: Tracked) {
    if TRACKED.insert(&tgid, &tracked.to_bits(), 0).is_err() {
        report::count(Counter::Untracked);
        lost(from);
    }
}

#[inline(always)]
fn is_seed() -> bool {
    let comm = bpf_get_current_comm().unwrap_or_default();
    for at in 0..comm.len() {
        // SAFETY: an element of an initialised static; volatile, because the loader replaces the values in the object.
        if comm[at] != unsafe { core::ptr::read_volatile((&raw const SEED_COMM).cast::<u8>().add(at)) } {
            return false;
        }
    }
    comm[0] != 0
}

#[inline(always)]
fn mount_namespace(task: *const u8) -> Option<u32> {
    let all = kernel::member::<*const u8>(task, Field::TaskNsproxy)?;
    let mount: *const u8 = kernel::member(all, Field::NsproxyMount)?;
    let common: *const u8 = kernel::part(mount, Field::MountNsCommon);
    kernel::member(common, Field::NsInum)
}

#[inline(always)]
fn tgid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}
