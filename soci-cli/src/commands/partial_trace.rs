//! A trace under a name of its own, `NAME.trace.partial`, until it is whole.
//!
//! Holds no state. What must always hold: a file `NAME.trace` was written to its end. A recording that fails, or that is killed,
//! leaves what it has seen under the other name; nothing is left of one that has seen nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use soci_core::trace::TraceReader;

/// Where the trace is until it is whole.
pub(super) fn partial(trace: &Path) -> PathBuf {
    let mut name = trace.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

/// Gives a whole trace its name.
///
/// # Errors
/// When the directory refuses.
pub(super) fn publish(trace: &Path) -> Result<()> {
    fs::rename(partial(trace), trace).with_context(|| format!("cannot write {}", trace.display()))
}

/// Says where the rest of a failed recording is, if it has seen anything.
pub(super) fn leave(trace: &Path) {
    let partial = partial(trace);
    let has_accesses = TraceReader::open(&partial).is_ok_and(|mut trace| matches!(trace.next(), Some(Ok(_))));
    if has_accesses {
        say!("note: {} has what was recorded until then; it is not complete", partial.display());
        return;
    }
    if let Err(error) = fs::remove_file(&partial)
        && error.kind() != io::ErrorKind::NotFound
    {
        say!("note: {} is not complete, and cannot be removed: {error}", partial.display());
    }
}
