//! One JSON object for each access, one a line: the lossless text form of a trace.
//!
//! Holds no state. What must always hold: the keys of [`Row`] are exactly the documented ones, in this order, and
//! importing the rows gives the same accesses.

use std::borrow::Cow;
use std::io::Write;

use serde::{Deserialize, Serialize};
use soci_core::digest::Digest;
use soci_core::trace::{Access, LayerRef, TraceReader};

use super::{ExportError, Exported, kind_name, phase_name};
use soci_core::escape::escape;

/// One access as text. Names are escaped as [`soci_core::escape`] says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Row<'a> {
    pub(crate) t_ns: u64,
    #[serde(borrow)]
    pub(crate) phase: Cow<'a, str>,
    /// Absolute in the image.
    #[serde(borrow)]
    pub(crate) path: Cow<'a, str>,
    pub(crate) layer: Option<Digest>,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    #[serde(borrow)]
    pub(crate) kind: Cow<'a, str>,
    pub(crate) pid: u32,
    #[serde(borrow)]
    pub(crate) comm: Cow<'a, str>,
    pub(crate) wait_ns: u64,
}

impl<'a> Row<'a> {
    pub(super) fn of(access: &'a Access, layers: &[LayerRef]) -> Self {
        Self {
            t_ns: access.t_ns,
            phase: phase_name(access.phase).into(),
            path: format!("/{}", escape(&access.path)).into(),
            layer: access.layer.and_then(|at| layers.get(at as usize)).map(|layer| layer.digest),
            offset: access.offset,
            length: access.len,
            kind: kind_name(access.kind).into(),
            pid: access.process.pid,
            comm: escape(&access.process.comm),
            wait_ns: access.wait_ns,
        }
    }
}

pub(super) fn write(trace: &mut TraceReader, out: &mut dyn Write) -> Result<Exported, ExportError> {
    let layers = trace.header().layers.clone();
    let mut exported = Exported::default();
    for access in trace {
        serde_json::to_writer(&mut *out, &Row::of(&access?, &layers))?;
        out.write_all(b"\n")?;
        exported.written += 1;
    }
    Ok(exported)
}
