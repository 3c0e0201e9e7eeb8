//! Lists of files in the order of first use, for the prefetchers of other systems.
//!
//! Owns one entry for each file of the trace. What must always hold: whatever a format cannot hold (a line break in a
//! list of lines, bytes that are no UTF-8 in JSON, a name that its reader skips) is left out and counted.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::Write;
use std::sync::Arc;

use serde_json::json;
use soci_core::trace::TraceReader;
use soci_core::units::ByteRange;

use super::csv::row;
use super::{ExportError, Exported, Format};
use crate::plan::Coverage;

/// overlaybd ignores a longer list altogether.
const OVERLAYBD_LIMIT: usize = 65536;

struct File {
    path: Arc<[u8]>,
    first_ns: u64,
    layer: Option<u32>,
    covered: Coverage,
}

pub(super) fn write(
    trace: &mut TraceReader,
    format: Format,
    out: &mut dyn Write,
) -> Result<Exported, ExportError> {
    let files = files(trace)?;
    let manifest = trace.header().manifest.map(|manifest| manifest.to_string());
    if format == Format::Stargz && manifest.is_none() {
        return Err(ExportError::NoImage);
    }
    let mut exported = Exported::default();
    match format {
        Format::NydusCsv => out.write_all(b"path,size,elapsed\n")?,
        Format::NydusJson => out.write_all(b"{\"version\":\"v1\",\"files\":[")?,
        _ => {}
    }
    let mut length = 0;
    for file in &files {
        let absolute = [b"/", &file.path[..]].concat();
        let text = std::str::from_utf8(&absolute);
        let one_line =
            !absolute.iter().any(|byte| b"\n\r".contains(byte)) && absolute.trim_ascii() == absolute;
        let written = match format {
            Format::Stargz => text.ok().map(|path| {
                let mut entry = json!({ "path": &path[1..], "manifestDigest": manifest });
                if let Some(layer) = file.layer {
                    entry["layerIndex"] = layer.into();
                }
                writeln!(out, "{entry}")
            }),
            Format::NydusCsv => {
                let size = file.covered.ranges().last().map_or(0, |range| range.end).to_string();
                let elapsed = (file.first_ns / 1000).to_string();
                Some(row(out, &[&absolute, size.as_bytes(), elapsed.as_bytes()], b"\n"))
            }
            Format::NydusJson => text.ok().map(|path| {
                let ranges: Vec<[u64; 2]> =
                    file.covered.ranges().map(|range| [range.start, range.len()]).collect();
                let separator = if exported.written == 0 { "\n" } else { ",\n" };
                write!(out, "{separator}{}", json!({ "path": path, "ranges": ranges }))
            }),
            Format::Overlaybd => {
                let fits = length + absolute.len() < OVERLAYBD_LIMIT
                    && absolute.iter().all(|&byte| overlaybd_takes(byte));
                fits.then(|| {
                    length += absolute.len() + 1;
                    line(out, &absolute)
                })
            }
            _ => one_line.then(|| line(out, &absolute)),
        };
        match written {
            Some(written) => {
                written?;
                exported.written += 1;
            }
            None => exported.left_out += 1,
        }
    }
    if format == Format::NydusJson {
        out.write_all(b"\n]}\n")?;
    }
    Ok(exported)
}

/// The files of a trace, first used first.
fn files(trace: &mut TraceReader) -> Result<Vec<File>, ExportError> {
    let mut files: Vec<File> = Vec::new();
    let mut known: HashMap<Arc<[u8]>, usize> = HashMap::new();
    for access in trace {
        let access = access?;
        if access.len == 0 {
            continue; // opened: nothing of it is needed
        }
        let at = match known.entry(Arc::clone(&access.path)) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                let (path, first_ns, layer) = (access.path, access.t_ns, access.layer);
                files.push(File { path, first_ns, layer, covered: Coverage::default() });
                *new.insert(files.len() - 1)
            }
        };
        let file = &mut files[at];
        file.first_ns = file.first_ns.min(access.t_ns);
        file.layer = file.layer.or(access.layer);
        file.covered.add(ByteRange::new(access.offset, access.offset.saturating_add(access.len)));
    }
    files.sort_by_key(|file| file.first_ns);
    Ok(files)
}

fn line(out: &mut dyn Write, path: &[u8]) -> std::io::Result<()> {
    out.write_all(path)?;
    out.write_all(b"\n")
}

/// overlaybd skips lines with other characters.
fn overlaybd_takes(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-./".contains(&byte)
}
