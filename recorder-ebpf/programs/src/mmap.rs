//! Mapped files: faults, and the pages that the kernel maps around a fault.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use recorder_ebpf::EventKind;

use crate::{filter, report};

/// `mm_filemap_fault(mapping, page)`: a fault on a page that is not mapped; exact.
#[btf_tracepoint(function = "mm_filemap_fault")]
pub fn fault(ctx: BtfTracePointContext) -> i32 {
    if filter::wanted() {
        report::pages(ctx.arg(0), ctx.arg(1), ctx.arg(1)).report(EventKind::Fault);
    }
    0
}

/// `mm_filemap_map_pages(mapping, first, last)`: the window whose cached pages become mapped without further faults.
#[btf_tracepoint(function = "mm_filemap_map_pages")]
pub fn map_pages(ctx: BtfTracePointContext) -> i32 {
    if filter::wanted() {
        report::pages(ctx.arg(0), ctx.arg(1), ctx.arg(2)).report(EventKind::Map);
    }
    0
}
