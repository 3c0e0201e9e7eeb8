//! Why something cannot be imported. Holds no state.

use std::io;

use soci_core::trace::TraceError;

/// Why something cannot be imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The input cannot be read.
    #[error("cannot read the input")]
    Read(#[source] io::Error),
    /// A line is not what the format says.
    #[error("line {line}: {what}")]
    Line {
        /// Counted from 1.
        line: u64,
        /// What is wrong.
        what: String,
    },
    /// The input as a whole is not what the format says.
    #[error("{0}")]
    Document(String),
    /// Nothing of it is in the image.
    #[error("no file of the image is in it ({outside} other paths, {unknown_lines} lines not understood)")]
    Nothing {
        /// Uses of paths that are no files of the image.
        outside: u64,
        /// Lines that are not understood.
        unknown_lines: u64,
    },
    /// The trace cannot be written.
    #[error("cannot write the trace")]
    Trace(#[from] TraceError),
}
