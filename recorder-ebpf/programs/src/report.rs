//! Events on their way to user space. Owns the ring buffer and the counters.
//!
//! What must always hold: each event counted as emitted is either in the ring buffer or counted as dropped.

use core::arch::asm;

use aya_ebpf::{
    helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, generated::bpf_ktime_get_ns},
    macros::map,
    maps::{PerCpuArray, RingBuf},
};
use recorder_ebpf::{COUNTER_COUNT, Counter, Event, EventKind, RING_BYTES};

use crate::{
    anomaly, filter,
    kernel::{self, File},
    tree,
};

/// `BPF_RB_NO_WAKEUP`: the reader looks by itself every few milliseconds. To wake it costs the recorded task several
/// microseconds, for each event when the reader is quick: more than all else here together.
const NO_WAKEUP: u64 = 1;

#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTER_COUNT, 0);

/// Some pages of a file.
#[derive(Clone, Copy)]
pub(crate) struct Pages {
    pub(crate) file: File,
    /// First byte.
    pub(crate) start: u64,
    /// Byte behind the last.
    pub(crate) end: u64,
}

/// Pages `first..=last` of a mapping, which is an argument of a tracepoint.
#[inline(always)]
pub(crate) fn pages(mapping: *const u8, first: u64, last: u64) -> Pages {
    let file = known(kernel::owner(mapping));
    Pages { file, start: kernel::bytes(first), end: kernel::bytes(last.wrapping_add(1)) }
}

/// The file; one that cannot be read is one that nobody knows, so that it is counted all the same.
#[inline(always)]
pub(crate) fn known(file: Option<File>) -> File {
    file.unwrap_or_else(|| {
        anomaly::unreadable();
        File { ino: 0, size: u64::MAX, dev: 0, generation: 0, flags: 0, rest: 0 }
    })
}

impl Pages {
    /// Reports them, if there are any. The current task is one that is recorded.
    #[inline(always)]
    pub(crate) fn report(&self, kind: EventKind) {
        if self.start != self.end {
            range(kind, &self.file, self.start, self.end.wrapping_sub(self.start));
        }
    }

    /// Other pages of the same file: from the first to before `end`.
    #[inline(always)]
    pub(crate) fn part(&self, first: u64, end: u64) -> Self {
        Self { start: kernel::bytes(first), end: kernel::bytes(end), ..*self }
    }

    /// Are they of the same file?
    #[inline(always)]
    pub(crate) fn is_of(&self, other: &Self) -> bool {
        self.file.ino == other.file.ino && self.file.dev == other.file.dev
    }

    /// Do some of these bytes lie in them?
    #[inline(always)]
    pub(crate) fn touch(&self, first: u64, count: u64) -> bool {
        first < self.end && first.wrapping_add(count) > self.start
    }
}

/// Reports bytes of a file, cut at its end. The current task is one that is recorded.
#[inline(always)]
pub(crate) fn range(kind: EventKind, file: &File, offset: u64, length: u64) {
    if offset >= file.size {
        count(Counter::Empty);
        return;
    }
    let rest = file.size - offset;
    event(kind, file, offset, if length < rest { length } else { rest });
}

/// Reports as it is. One copy for all who do.
#[inline(never)]
pub(crate) fn event(kind: EventKind, file: &File, offset: u64, length: u64) {
    count(Counter::Emitted);
    let who = filter::tracked();
    let Some(mut record) = EVENTS.reserve::<Event>(0) else {
        count(Counter::Dropped);
        tree::lost(who);
        return;
    };
    record.write(Event {
        // SAFETY: the helper has no conditions.
        t_ns: unsafe { bpf_ktime_get_ns() },
        ino: file.ino,
        offset,
        length,
        dev: file.dev,
        generation: file.generation,
        tgid: (bpf_get_current_pid_tgid() >> 32) as u32,
        kind: kind as u16,
        flags: file.flags as u16,
        comm: bpf_get_current_comm().unwrap_or_default(),
        group: who.group,
        namespace: who.namespace,
    });
    record.submit(NO_WAKEUP);
}

#[inline(always)]
pub(crate) fn count(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        add_one(value);
    }
}

/// Counts in a map's value.
#[inline(always)]
pub(crate) fn add_one(value: *mut u64) {
    // Atomic, because another program may interrupt this one; `core` has no atomics for this target.
    // SAFETY: the value is one of a map's, which lives as long as the program runs, and nothing else is touched.
    unsafe { asm!("lock *(u64 *)({slot} + 0) += {one}", slot = in(reg) value, one = in(reg) 1u64) }
}
