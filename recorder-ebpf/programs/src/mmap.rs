//! Mapped files: faults, and what the kernel maps beside them: the cached pages of the window around a fault, and all of
//! a large folio.

use aya_ebpf::{
    macros::{btf_tracepoint, fentry},
    programs::{BtfTracePointContext, FEntryContext},
};
use recorder_ebpf::{EventKind, Field};

use crate::{filter, folio, kernel, report};

/// Binary logarithm of the pages that one entry of a middle page table maps, with pages of 4 KiB.
const HUGE_ORDER: u64 = 9;

/// `mm_filemap_fault(mapping, page)`: a fault on a page that is not mapped; exact. What its folio has besides is mapped
/// with it. A folio that is not there yet is told by [`new_folio`].
#[btf_tracepoint(function = "mm_filemap_fault")]
pub fn fault(ctx: BtfTracePointContext) -> i32 {
    if !filter::wanted() {
        return 0;
    }
    let (mapping, page): (*const u8, u64) = (ctx.arg(0), ctx.arg(1));
    let pages = report::pages(mapping, page, page);
    pages.report(EventKind::Fault);
    if folio::are_known()
        && let Some(folio) = folio::large(mapping, page)
    {
        pages.part(folio.first, folio.end).report(EventKind::Map);
    }
    0
}

/// `mm_filemap_map_pages(mapping, first, last)`: the window whose cached pages become mapped without further faults.
#[btf_tracepoint(function = "mm_filemap_map_pages")]
pub fn map_pages(ctx: BtfTracePointContext) -> i32 {
    if filter::wanted() {
        let (mapping, first, last): (*const u8, u64, u64) = (ctx.arg(0), ctx.arg(1), ctx.arg(2));
        folio::window(mapping, &report::pages(mapping, first, last), first, last);
    }
    0
}

/// `mm_filemap_add_to_page_cache(folio)`: the folio is in the cache, and its content is not there yet.
#[btf_tracepoint(function = "mm_filemap_add_to_page_cache")]
pub fn new_folio(ctx: BtfTracePointContext) -> i32 {
    let folio: *const u8 = ctx.arg(0);
    if !folio::are_known() {
        return 0;
    }
    let flags: u64 = kernel::typed(folio, Field::FolioFlags);
    if flags >> (kernel::offset(Field::FlagHead) & 63) & 1 == 0 || !filter::wanted() {
        return 0;
    }
    let first: u64 = kernel::typed(folio, Field::FolioIndex);
    let order = kernel::typed::<u64>(folio, Field::FolioOrder) & 31;
    let mapping: *const u8 = kernel::typed(folio, Field::FolioMapping);
    if !mapping.is_null() {
        report::pages(mapping, first, first + (1 << order) - 1).report(EventKind::Folio);
    }
    0
}

/// `do_set_pmd(fault, ...)`: all of a folio is mapped at once, if it is large enough; a window that begins with one is told
/// by nothing else.
#[fentry(function = "do_set_pmd")]
pub fn huge_map(ctx: FEntryContext) -> i32 {
    if !filter::wanted() {
        return 0;
    }
    let fault: *const u8 = ctx.arg(0);
    let area: *const u8 = kernel::typed(fault, Field::FaultArea);
    if area.is_null() {
        return 0;
    }
    let file: *const u8 = kernel::typed(area, Field::AreaFile);
    if file.is_null() {
        return 0;
    }
    let mapping: *const u8 = kernel::typed(file, Field::FileMapping);
    if mapping.is_null() || !folio::are_known() {
        return 0;
    }
    let address: u64 = kernel::typed(fault, Field::FaultAddress);
    let inside = kernel::pages(address.wrapping_sub(kernel::typed(area, Field::AreaStart)));
    let page = inside.wrapping_add(kernel::typed(area, Field::AreaOffset));
    if let Some(folio) = folio::large(mapping, page)
        && folio.end - folio.first >= 1 << HUGE_ORDER
    {
        report::pages(mapping, folio.first, folio.end - 1).report(EventKind::Map);
    }
    0
}
