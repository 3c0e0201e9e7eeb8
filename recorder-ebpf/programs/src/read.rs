//! Buffered reads: read, pread, readv, sendfile, splice, copy_file_range, io_uring, and the kernel's own reads at exec.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use recorder_ebpf::EventKind;

use crate::{filter, report};

/// `mm_filemap_get_pages(mapping, first, last)`: the pages that a read asks for, whether cached or not.
#[btf_tracepoint(function = "mm_filemap_get_pages")]
pub fn get_pages(ctx: BtfTracePointContext) -> i32 {
    if filter::wanted() {
        report::pages(ctx.arg(0), ctx.arg(1), ctx.arg(2)).report(EventKind::Read);
    }
    0
}
