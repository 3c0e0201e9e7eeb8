//! Calls that read and open files, by the byte.
//!
//! Owns the pages that calls in progress have asked for, by thread. A call that reads is reported when it is over, with
//! the bytes that it gave; its pages say of which file, also behind an overlay. Without pages (`O_DIRECT`, a clone) the
//! file is found by the descriptor.
//!
//! The kernel does not tell of pages that it gives while one behind them is still being fetched. So the pages of a call
//! may begin later than its bytes, and a call may have none at all.
//!
//! A call may ask for pages of two files: a file system that is kept in a file reads that one first, on behalf of who reads
//! its own. Which of the two the bytes are of is seen at the end. The kernel tells of pages once they are there, so of the
//! outer file last.
//!
//! What must always hold: what a call gave is within what is reported of it. Where its bytes cannot be told or lie
//! elsewhere, the pages are reported.

use aya_ebpf::{
    EbpfContext as _,
    helpers::bpf_get_current_pid_tgid,
    macros::{btf_tracepoint, map},
    maps::HashMap,
    programs::BtfTracePointContext,
};
use recorder_ebpf::{EventKind, Field};

use crate::{
    anomaly,
    call::{self, Call},
    filter, kernel,
    report::{self, Pages},
};

/// More threads than this in reading calls at the same time: the pages of the others are reported as they are.
const MAX_CALLS: u32 = 16384;

/// What a call has asked for so far.
#[derive(Clone, Copy)]
#[repr(C)]
struct Asked {
    /// Of the file that it asked last.
    last: Pages,
    /// Of the one before; without bytes when there is none.
    other: Pages,
    /// The position of the file before the call; `u64::MAX` when it is not known.
    position: u64,
}

/// Pages of a call that are not held back until its end: a long one is needed bit by bit.
const LONG: u64 = 1 << 20;

impl Asked {
    /// Remembers these pages. Those of a third file push out the ones that were asked for the longest time ago.
    #[inline(always)]
    fn add(&mut self, pages: &Pages) {
        if !self.last.is_of(pages) {
            let before = self.last;
            if self.other.is_of(pages) {
                self.last = self.other;
            } else {
                self.other.report(EventKind::Read);
                self.last = *pages;
            }
            self.other = before;
        }
        self.last.start = if pages.start < self.last.start { pages.start } else { self.last.start };
        self.last.end = if pages.end > self.last.end { pages.end } else { self.last.end };
        if self.last.end - self.last.start > LONG {
            self.last.report(EventKind::Read);
            self.last.start = pages.start;
        }
    }
}

#[map]
static ASKED: HashMap<u32, Asked> = HashMap::with_max_entries(MAX_CALLS, 0);

/// `mm_filemap_get_pages(mapping, first, last)`: as `get_pages`, but those of a reading call wait for its end.
#[btf_tracepoint(function = "mm_filemap_get_pages")]
pub fn get_pages_exact(ctx: BtfTracePointContext) -> i32 {
    if !filter::wanted() {
        return 0;
    }
    let pages = report::pages(ctx.arg(0), ctx.arg(1), ctx.arg(2));
    if !wait(&pages) {
        pages.report(EventKind::Read);
    }
    0
}

/// Keeps the pages for the end of the call that asks for them; false when there is no such call.
#[inline(always)]
fn wait(pages: &Pages) -> bool {
    let Some(call) = Call::running().filter(Call::reads) else { return false };
    let thread = bpf_get_current_pid_tgid() as u32;
    if let Some(asked) = ASKED.get_ptr_mut(&thread) {
        // SAFETY: only the current thread uses this entry, and it lives until the thread removes it.
        unsafe { (*asked).add(pages) };
        return true;
    }
    let position = call.source().and_then(|file| kernel::member(file, Field::FilePosition));
    let none = Pages { end: pages.start, ..*pages };
    let asked = Asked { last: *pages, other: none, position: position.unwrap_or(u64::MAX) };
    ASKED.insert(&thread, &asked, 0).is_ok()
}

/// `sys_exit(regs, result)`: a call of any task on this machine is over.
#[btf_tracepoint(function = "sys_exit")]
pub fn sys_exit(ctx: BtfTracePointContext) -> i32 {
    let result: i64 = ctx.arg(1);
    let call = Call::of(ctx.arg(0));
    let (opens, reads) = (call.opens(), call.reads());
    if !(opens || reads || call.clones()) || !filter::wanted() || call::is_compat() {
        return 0;
    }
    if opens {
        opened(result);
        return 0;
    }
    if !reads {
        if result == 0
            && let Some((file, first, count)) = call.shared()
        {
            cloned(file, first, if count == 0 { u64::MAX >> 1 } else { count });
        }
        return 0;
    }
    let thread = ctx.pid();
    // SAFETY: only the current thread uses this entry.
    match unsafe { ASKED.get(&thread) }.copied() {
        Some(asked) => {
            let _ = ASKED.remove(&thread); // it is there
            buffered(&call, result, &asked);
        }
        None if result > 0 => direct(&call, result as u64),
        None => {}
    }
    0
}

/// An opening has answered.
#[inline(always)]
pub(crate) fn opened(result: i64) {
    if result < 0 {
        return;
    }
    let inode = call::open_file(result as u64).and_then(|file| call::regular(file));
    if let Some(file) = inode.and_then(|inode| kernel::file_below(inode)) {
        report::event(EventKind::Open, &file, 0, 0);
    }
}

/// A call that went through the page cache.
#[inline(always)]
fn buffered(call: &Call, result: i64, asked: &Asked) {
    let Asked { last, other, position } = asked;
    if result > 0 {
        let count = result as u64;
        let position = (*position != u64::MAX).then_some(*position);
        if let Some(first) = call.start(count, position) {
            let (of, rest) = if last.touch(first, count) { (last, other) } else { (other, last) };
            if of.touch(first, count) {
                rest.report(EventKind::Read);
                report::range(EventKind::Read, &of.file, first, count);
                return;
            }
        }
        anomaly::elsewhere(call.number(), result);
    }
    other.report(EventKind::Read);
    last.report(EventKind::Read);
}

/// A call that went around it.
#[inline(always)]
pub(crate) fn direct(call: &Call, count: u64) {
    if let Some(file) = call.source()
        && let Some(first) = call.start(count, None)
    {
        cloned(file, first, count);
    }
}

/// Bytes of an open file have gone somewhere without its page cache.
#[inline(always)]
pub(crate) fn cloned(file: *const u8, first: u64, count: u64) {
    if let Some(file) = call::regular(file).and_then(|inode| kernel::file_below(inode)) {
        report::range(EventKind::Read, &file, first, count);
    }
}
