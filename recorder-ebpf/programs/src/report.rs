//! Events on their way to user space. Owns the ring buffer and the counters.
//!
//! What must always hold: each event counted as emitted is either in the ring buffer or counted as dropped.

use core::arch::asm;

use aya_ebpf::{
    helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, generated::bpf_ktime_get_ns},
    macros::map,
    maps::{PerCpuArray, RingBuf},
};
use recorder_ebpf::{COUNTER_COUNT, Counter, Event, EventKind, Field, RING_BYTES};

use crate::{filter, kernel};

/// `BPF_RB_NO_WAKEUP`: the reader looks by itself every few milliseconds. To wake it costs the recorded task several
/// microseconds, for each event when the reader is quick: more than all else here together.
const NO_WAKEUP: u64 = 1;

#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTER_COUNT, 0);

/// Reports pages `first..=last` of a mapping, if the current task is recorded.
#[inline(always)]
pub(crate) fn pages(kind: EventKind, mapping: *const u8, first: u64, last: u64) {
    if !filter::wanted() {
        return;
    }
    let inode = kernel::member(mapping, Field::MappingHost).unwrap_or(core::ptr::null());
    range(kind, inode, kernel::bytes(first), kernel::bytes(last.wrapping_sub(first).wrapping_add(1)));
}

/// Reports bytes of an inode, cut at its end. The current task is one that is recorded.
#[inline(always)]
pub(crate) fn range(kind: EventKind, inode: *const u8, offset: u64, length: u64) {
    // A file that cannot be read is reported as one that nobody knows, so that it is counted all the same.
    let file = kernel::file(inode).unwrap_or(kernel::File { dev: 0, ino: 0, generation: 0, size: u64::MAX });
    if offset >= file.size {
        count(Counter::Empty);
        return;
    }
    let rest = file.size - offset;
    count(Counter::Emitted);
    let Some(mut record) = EVENTS.reserve::<Event>(0) else {
        count(Counter::Dropped);
        return;
    };
    let who = filter::tracked();
    record.write(Event {
        // SAFETY: the helper has no conditions.
        t_ns: unsafe { bpf_ktime_get_ns() },
        ino: file.ino,
        offset,
        length: if length < rest { length } else { rest },
        dev: file.dev,
        kind: kind as u32,
        tgid: (bpf_get_current_pid_tgid() >> 32) as u32,
        generation: file.generation,
        comm: bpf_get_current_comm().unwrap_or_default(),
        group: who.group,
        namespace: who.namespace,
    });
    record.submit(NO_WAKEUP);
}

#[inline(always)]
pub(crate) fn count(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        // Atomic, because another program may interrupt this one; `core` has no atomics for this target.
        // SAFETY: the slot of this CPU lives as long as the map, and nothing else is touched.
        unsafe { asm!("lock *(u64 *)({slot} + 0) += {one}", slot = in(reg) value, one = in(reg) 1u64) }
    }
}
