//! What the page cache gives to a reader, at the ends of the functions that copy out of it: whoever reads, by a system
//! call of any kind, by io_uring or inside the kernel. And the calls that go around it.
//!
//! Owns the threads whose call has been told already.

use aya_ebpf::{
    EbpfContext as _,
    helpers::bpf_get_current_pid_tgid,
    macros::{btf_tracepoint, fexit, map},
    maps::HashMap,
    programs::{BtfTracePointContext, FExitContext},
};
use recorder_ebpf::{EventKind, Field};

use crate::{
    call::{self, Call},
    exact, filter, kernel, report,
};

/// More threads than this in reading calls at the same time: those of the others are told twice.
const MAX_CALLS: u32 = 16384;

#[map]
static GIVEN: HashMap<u32, u8> = HashMap::with_max_entries(MAX_CALLS, 0);

/// `filemap_read(iocb, iter, before) -> read`: so many bytes in all, of them `before` from elsewhere, up to the position.
#[fexit(function = "filemap_read")]
pub fn read_end(ctx: FExitContext) -> i32 {
    let (before, read): (i64, i64) = (ctx.arg(2), ctx.arg(3));
    let count = read.wrapping_sub(before);
    if read <= 0 || count <= 0 || !filter::wanted() {
        return 0;
    }
    let iocb: *const u8 = ctx.arg(0);
    let end: u64 = kernel::typed(iocb, Field::IocbPosition);
    given(kernel::typed(iocb, Field::IocbFile), end, count as u64);
    0
}

/// `filemap_splice_read(file, position, pipe, length, flags) -> read`: the position is behind what was read.
#[fexit(function = "filemap_splice_read")]
pub fn splice_end(ctx: FExitContext) -> i32 {
    let read: i64 = ctx.arg(5);
    if read <= 0 || !filter::wanted() {
        return 0;
    }
    if let Some(end) = kernel::read::<u64>(ctx.arg(1)) {
        given(ctx.arg(0), end, read as u64);
    }
    0
}

/// `vfs_clone_file_range(from, at, to, at, length, flags) -> cloned`: the bytes are another file's, too, and nobody has
/// read them: a copy of an overlay's file into its writable layer, where the file system can share.
#[fexit(function = "vfs_clone_file_range")]
pub fn clone_end(ctx: FExitContext) -> i32 {
    let cloned: i64 = ctx.arg(6);
    if cloned > 0 && filter::wanted() {
        exact::cloned(ctx.arg(0), ctx.arg(1), cloned as u64);
    }
    0
}

/// `sys_exit(regs, result)`: what the page cache has not told of.
#[btf_tracepoint(function = "sys_exit")]
pub fn sys_exit_around(ctx: BtfTracePointContext) -> i32 {
    let result: i64 = ctx.arg(1);
    let call = Call::of(ctx.arg(0));
    if !(call.opens() || call.reads()) || !filter::wanted() || call::is_compat() {
        return 0;
    }
    if call.opens() {
        exact::opened(result);
    } else if GIVEN.remove(&ctx.pid()).is_err() && result > 0 {
        exact::direct(&call, result as u64);
    }
    0
}

/// `count` bytes of a file up to `end` are with their reader.
#[inline(always)]
fn given(file: *const u8, end: u64, count: u64) {
    if file.is_null() {
        return;
    }
    let mapping: *const u8 = kernel::typed(file, Field::FileMapping);
    if mapping.is_null() {
        return;
    }
    report::range(EventKind::Read, &report::known(kernel::owner(mapping)), end.wrapping_sub(count), count);
    if Call::running().is_some_and(|call| call.reads()) {
        let thread = bpf_get_current_pid_tgid() as u32;
        let _ = GIVEN.insert(&thread, &1, 0); // else it is told twice
    }
}
