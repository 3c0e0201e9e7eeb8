//! The rows of [`super::jsonl`] as a table, RFC 4180: a heading, CRLF line ends, quotes where a cell needs them.
//!
//! Holds no state. An unknown layer is an empty cell.

use std::borrow::Cow;
use std::io::{self, Write};

use soci_core::trace::TraceReader;

use super::{ExportError, Exported, Row};

const HEADING: &str = "t_ns,phase,path,layer,offset,length,kind,pid,comm,wait_ns";

pub(super) fn write(trace: &mut TraceReader, out: &mut dyn Write) -> Result<Exported, ExportError> {
    let layers = trace.header().layers.clone();
    let mut exported = Exported::default();
    write!(out, "{HEADING}\r\n")?;
    for access in trace {
        let access = access?;
        let Row { t_ns, phase, path, layer, offset, length, kind, pid, comm, wait_ns } =
            Row::of(&access, &layers);
        let layer = layer.map_or_else(String::new, |layer| layer.to_string());
        let (path, comm) = (quoted(path.as_bytes()), quoted(comm.as_bytes()));
        write!(out, "{t_ns},{phase},")?;
        out.write_all(&path)?;
        write!(out, ",{layer},{offset},{length},{kind},{pid},")?;
        out.write_all(&comm)?;
        write!(out, ",{wait_ns}\r\n")?;
        exported.written += 1;
    }
    Ok(exported)
}

/// A cell, in quotes if it has to be.
pub(super) fn quoted(cell: &[u8]) -> Cow<'_, [u8]> {
    if !cell.iter().any(|byte| b"\",\r\n".contains(byte)) {
        return Cow::Borrowed(cell);
    }
    let mut quoted = vec![b'"'];
    for &byte in cell {
        if byte == b'"' {
            quoted.push(b'"');
        }
        quoted.push(byte);
    }
    quoted.push(b'"');
    Cow::Owned(quoted)
}

/// Writes one row of ready cells.
pub(super) fn row(out: &mut dyn Write, cells: &[&[u8]], end: &[u8]) -> io::Result<()> {
    for (at, cell) in cells.iter().enumerate() {
        if at > 0 {
            out.write_all(b",")?;
        }
        out.write_all(&quoted(cell))?;
    }
    out.write_all(end)
}
