//! The traces of several runs as one file. Reads sealed traces and writes one that any reader of traces takes.

use std::path::{Path, PathBuf};

use soci_core::trace::{Access, End, Header, Tail, TraceError, TraceReader, TraceWriter};

use crate::plan::{merge, merge_ends};
use crate::report::Stability;

/// Merges the traces of runs into `to` (see [`merge`]) and says how much they agree. The head is the first run's.
///
/// A torn trace counts with what it holds. There must be at least one.
pub fn write_merged(traces: &[PathBuf], to: &Path) -> Result<Stability, TraceError> {
    let mut header: Option<Header> = None;
    let mut ends: Vec<End> = Vec::new();
    let mut runs: Vec<Vec<Access>> = Vec::new();
    for trace in traces {
        let mut reader = TraceReader::open(trace)?;
        runs.push(reader.by_ref().collect::<Result<_, _>>()?);
        if let Some(Tail::Sealed(end)) = reader.tail() {
            ends.push(end.clone());
        }
        let of_run = reader.header();
        let header = header.get_or_insert_with(|| of_run.clone());
        header.partial |= of_run.partial;
    }
    let header = header.ok_or_else(|| TraceError::Header("no run to merge".into()))?;
    let end = merge_ends(&ends);
    let mut writer = TraceWriter::create(to, &header)?;
    for access in merge(&runs, end.as_ref().and_then(|end| end.ready_ns)) {
        writer.access(&access)?;
    }
    match end {
        Some(end) => writer.finish(&end)?,
        None => writer.flush()?,
    }
    Ok(Stability::of(&runs))
}
