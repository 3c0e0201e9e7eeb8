//! What should not happen, told to whoever asked for it.
//!
//! Holds nothing. The loader sets the level of aya-log before loading: when nobody listens, the verifier finds that
//! nothing here can be reached, and the kernel leaves it out.

use aya_log_ebpf::debug;

/// The inode of an event could not be read; the event is of an unknown file.
#[inline(never)]
pub(crate) fn unreadable() {
    debug!((), "an inode could not be read: an access of an unknown file is reported");
}

/// The bytes of a call are not among the pages that it asked for.
#[inline(never)]
pub(crate) fn elsewhere(call: u64, result: i64) {
    debug!((), "call {} gave {} bytes that are not in its pages: the pages are reported", call, result);
}
