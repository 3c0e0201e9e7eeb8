//! How a recording has ended. Plain values.

use rustix::process::Signal;
use soci_core::trace::End;

/// A recording that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// How it ended; also in the trace.
    pub end: End,
    /// Accesses in the trace.
    pub accesses: u64,
    /// The signal that stopped it.
    pub signal: Option<Signal>,
}
