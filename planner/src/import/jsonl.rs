//! The rows of an exported trace.
//!
//! Owns the processes met so far. Rows keep everything they say: a path and a layer that the image has are taken over as
//! they are, so that an export of the import is the same text. A layer that the image does not have (another build) is
//! looked up by path.

use std::collections::HashSet;
use std::sync::Arc;

use soci_core::trace::{Access, AccessKind, Phase, Process, TraceError};

use super::lines::Lines;
use super::{Collector, ImportError, Use, shared};
use crate::export::Row;
use soci_core::escape::unescape;

pub(super) fn read(lines: &mut Lines<'_>, out: &mut Collector<'_>) -> Result<(), ImportError> {
    let mut processes: HashSet<Arc<Process>> = HashSet::new();
    while let Some(line) = lines.next_path()? {
        let row: Row<'_> = serde_json::from_slice(&line)
            .map_err(|error| lines.wrong(format!("no row of a trace: {error}")))?;
        let (used, path) = parse(&row, &mut processes).map_err(|what| lines.wrong(what))?;
        let layers = out.files.layers();
        let layer = row.layer.map(|digest| layers.iter().position(|layer| layer.digest == digest));
        if layer == Some(None) {
            out.add(&path, &used)?;
            continue;
        }
        out.write(&Access {
            t_ns: used.t_ns,
            phase: used.phase,
            kind: used.kind,
            path: path.into(),
            layer: layer.flatten().map(|at| at as u32),
            offset: row.offset,
            len: row.length,
            process: used.process.unwrap_or_else(|| Arc::clone(&out.nobody)),
            wait_ns: row.wait_ns,
        })
        .map_err(|error| match error {
            ImportError::Trace(error @ TraceError::TooLong { .. }) => lines.wrong(error.to_string()),
            error => error,
        })?;
    }
    Ok(())
}

fn parse(row: &Row<'_>, processes: &mut HashSet<Arc<Process>>) -> Result<(Use, Vec<u8>), String> {
    let phase = match &*row.phase {
        "setup" => Phase::Setup,
        "start" => Phase::Start,
        "tail" => Phase::Tail,
        other => return Err(format!("unknown phase {other:?}")),
    };
    let kind = match &*row.kind {
        "read" => AccessKind::Read,
        "fault" => AccessKind::Fault,
        "map" => AccessKind::Map,
        "exec" => AccessKind::Exec,
        "open" => AccessKind::Open,
        other => return Err(format!("unknown kind {other:?}")),
    };
    if row.offset.checked_add(row.length).is_none() {
        return Err("offset and length are too large".into());
    }
    let name = |text: &str, what| {
        unescape(text).ok_or_else(|| format!("{what} {text:?} is not escaped as documented"))
    };
    let mut path = name(&row.path, "path")?;
    if path.first() != Some(&b'/') {
        return Err(format!("path {:?} is not absolute", row.path));
    }
    path.remove(0);
    let comm = name(&row.comm, "comm")?.into();
    let process = shared(processes, Process { pid: row.pid, comm });
    let range = Some((row.offset, row.length));
    Ok((Use { t_ns: row.t_ns, phase, kind, range, process: Some(process), wait_ns: row.wait_ns }, path))
}
