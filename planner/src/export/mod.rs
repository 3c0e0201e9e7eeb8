//! Traces for other tools: every access as a row, as a timeline, or the files and ranges as a list to prefetch.
//!
//! Owns nothing but what a list needs to put paths in order. What must always hold: a format never gets something that
//! it cannot say; what it cannot say is left out and counted. The rows ([`jsonl`], [`csv`], [`perfetto`]) stream.

mod csv;
mod jsonl;
mod lists;
mod perfetto;

#[cfg(test)]
mod tests;

use std::io::{self, Write};

use soci_core::trace::{AccessKind, Phase, TraceError, TraceReader};

pub(crate) use jsonl::Row;

/// What to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object for each access.
    Jsonl,
    /// The same as a table, RFC 4180.
    Csv,
    /// Trace events as Perfetto and Chrome read them.
    Perfetto,
    /// Paths in the order of first use, one a line.
    Paths,
    /// stargz-snapshotter's record.
    Stargz,
    /// nydus' list of files, one a line.
    Nydus,
    /// The table of nydus-snapshotter's optimizer.
    NydusCsv,
    /// nydus' list of file ranges (version v1).
    NydusJson,
    /// overlaybd's list of files, one a line.
    Overlaybd,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// Accesses, or for a list: files.
    pub written: u64,
    /// Accesses or files that the format cannot name.
    pub left_out: u64,
}

/// Why a trace cannot be exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The trace cannot be read.
    #[error("cannot read the trace")]
    Trace(#[from] TraceError),
    /// The output cannot be written.
    #[error("cannot write the output")]
    Write(#[from] io::Error),
    /// The format names an image, and the trace is of a directory.
    #[error("this format names the image, and the trace is of a directory")]
    NoImage,
    /// A row cannot be encoded.
    #[error("encode JSON")]
    Json(#[source] serde_json::Error),
}

impl From<serde_json::Error> for ExportError {
    fn from(error: serde_json::Error) -> Self {
        match error.io_error_kind() {
            Some(kind) => Self::Write(kind.into()),
            None => Self::Json(error),
        }
    }
}

/// Writes a trace in another format. The reader is read to its end, so that its tail is known afterwards.
///
/// # Errors
/// When the trace is damaged or the output cannot be written; what was written until then is not whole.
pub fn export(trace: &mut TraceReader, format: Format, out: &mut dyn Write) -> Result<Exported, ExportError> {
    let exported = match format {
        Format::Jsonl => jsonl::write(trace, out),
        Format::Csv => csv::write(trace, out),
        Format::Perfetto => perfetto::write(trace, out),
        _ => lists::write(trace, format, out),
    }?;
    out.flush()?;
    Ok(exported)
}

/// A phase's name in texts.
pub fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Setup => "setup",
        Phase::Start => "start",
        Phase::Tail => "tail",
    }
}

/// A kind's name in texts.
pub fn kind_name(kind: AccessKind) -> &'static str {
    match kind {
        AccessKind::Read => "read",
        AccessKind::Fault => "fault",
        AccessKind::Map => "map",
        AccessKind::Exec => "exec",
        AccessKind::Open => "open",
    }
}
