//! The trace: one recorded run, who read which bytes of which image file, when, and how long it waited.
//!
//! A trace file is written once by a recorder or a snapshotter and never changed after its end record. What must
//! always hold: a file cut at any byte reads as a prefix of what was written, and says that it is cut.
//! [`format`] is the only place that knows the bytes; [`TraceWriter`] and [`TraceReader`] use it and nothing else.

pub mod format;
mod reader;
mod writer;

#[cfg(test)]
mod tests;

pub use format::{
    Access, AccessKind, End, Header, LayerRef, Outcome, Outside, Phase, Process, TraceError, is_trace,
};
pub use reader::{Tail, TraceReader};
pub use writer::TraceWriter;
