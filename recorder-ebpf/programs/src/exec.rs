//! Programs executed.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use recorder_ebpf::{EventKind, Field};

use crate::{filter, kernel, report, tree};

/// `sched_process_exec(task, old_pid, bprm)`: the task runs another program, whose first page has been read.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn exec(ctx: BtfTracePointContext) -> i32 {
    tree::executed(ctx.arg(0));
    if !filter::wanted() {
        return 0;
    }
    let file = kernel::member::<*const u8>(ctx.arg(2), Field::BinprmFile)
        .and_then(|file| kernel::member::<*const u8>(file, Field::FileInode))
        .and_then(|inode| kernel::file_below(inode));
    report::range(EventKind::Exec, &report::known(file), 0, kernel::bytes(1));
    0
}
