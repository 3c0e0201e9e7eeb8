//! Calls that read and open files, by the byte.
//!
//! Owns the pages that calls in progress have asked for, by thread. A call that reads is reported when it is over, with
//! the bytes that it gave; its pages say of which file, also behind an overlay. Without pages (`O_DIRECT`, a clone) the
//! file is found by the descriptor.
//!
//! What must always hold: pages that a call asked for are within what is reported of it. Where its bytes cannot be told
//! or lie elsewhere, the pages are reported.

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
    pages: Pages,
    /// The position of the file before the call.
    position: u64,
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
        let known = unsafe { &mut (*asked).pages };
        if known.file.ino != pages.file.ino || known.file.dev != pages.file.dev {
            return false; // a second file: it is not the one that the call's bytes are of
        }
        known.start = if pages.start < known.start { pages.start } else { known.start };
        known.end = if pages.end > known.end { pages.end } else { known.end };
        return true;
    }
    let position = call.source().and_then(|file| kernel::member(file, Field::FilePosition));
    let asked = Asked { pages: *pages, position: position.unwrap_or(u64::MAX) };
    ASKED.insert(&thread, &asked, 0).is_ok()
}

/// `sys_exit(regs, result)`: a call of any task on this machine is over.
#[btf_tracepoint(function = "sys_exit")]
pub fn sys_exit(ctx: BtfTracePointContext) -> i32 {
    let result: i64 = ctx.arg(1);
    let Some(call) = Call::of(ctx.arg(0)) else { return 0 };
    let (opens, reads) = (call.opens(), call.reads());
    if !(opens || reads) || !filter::wanted() || call::is_compat() {
        return 0;
    }
    if opens {
        if result >= 0 {
            opened(result as u64);
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

#[inline(always)]
fn opened(descriptor: u64) {
    let inode = call::open_file(descriptor).and_then(|file| call::regular(file));
    if let Some(file) = inode.and_then(|inode| kernel::file_below(inode)) {
        report::event(EventKind::Open, &file, 0, 0);
    }
}

/// A call that went through the page cache.
#[inline(always)]
fn buffered(call: &Call, result: i64, asked: &Asked) {
    let Pages { file, start, end } = &asked.pages;
    if result > 0 {
        let position = (asked.position != u64::MAX).then_some(asked.position);
        if let Some(first) = call.start(result as u64, position)
            && first >= *start
            && first.wrapping_add(result as u64) <= *end
        {
            report::range(EventKind::Read, file, first, result as u64);
            return;
        }
        anomaly::elsewhere(call.number(), result);
    }
    asked.pages.report(EventKind::Read);
}

/// A call that went around it.
#[inline(always)]
fn direct(call: &Call, count: u64) {
    let Some(inode) = call.source().and_then(|file| call::regular(file)) else { return };
    let Some(file) = kernel::file_below(inode) else { return };
    if let Some(first) = call.start(count, None) {
        report::range(EventKind::Read, &file, first, count);
    }
}
