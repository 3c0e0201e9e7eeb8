//! What nydus and its snapshotter write about the files to prefetch.
//!
//! * [`list`]: absolute paths of files and directories, one a line.
//! * [`table`]: `path,size,elapsed`: the optimizer's files with the microseconds until their first use.
//! * [`ranges`]: `{"version":"v1","files":[{"path":"/a","ranges":[[offset,size],...]}]}`; without ranges the whole file.
//!
//! Holds no state.

use serde::Deserialize;

use super::lines::{Lines, json_error};
use super::{Collector, ImportError, Use};

pub(super) fn list(lines: &mut Lines<'_>, out: &mut Collector<'_>) -> Result<(), ImportError> {
    let mut place = 0;
    while let Some(path) = lines.next_path()? {
        let path = path.trim_ascii();
        if !path.starts_with(b"/") {
            return Err(lines.wrong(format!("not an absolute path: {}", String::from_utf8_lossy(path))));
        }
        out.add_tree(path, &mut place)?;
    }
    Ok(())
}

pub(super) fn table(lines: &mut Lines<'_>, out: &mut Collector<'_>) -> Result<(), ImportError> {
    while let Some(mut line) = lines.next_path()? {
        let first = lines.number();
        let cells = loop {
            if let Some(cells) = cells(&line) {
                break cells;
            }
            // A quoted cell goes on in the next line.
            let Some(more) = lines.next()? else {
                return Err(ImportError::Line { line: first, what: "a quote is not closed".into() });
            };
            line.push(b'\n');
            line.extend_from_slice(more);
            if line.len() > super::lines::MAX_LINE {
                return Err(ImportError::Line { line: first, what: "a quote is not closed".into() });
            }
        };
        let [path, _, elapsed] = cells.as_slice() else {
            return Err(lines.wrong(format!("{} cells, not the three of path,size,elapsed", cells.len())));
        };
        if first == 1 && path == b"path" {
            continue;
        }
        let elapsed = std::str::from_utf8(elapsed).ok().and_then(|text| text.trim().parse::<u64>().ok());
        let elapsed = elapsed.ok_or_else(|| lines.wrong("elapsed is no number of microseconds"))?;
        out.add(path, &Use { t_ns: elapsed.saturating_mul(1000), ..Use::listed(0) })?;
    }
    Ok(())
}

/// The cells of a row of a CSV table; `None` when a quote is open at the end.
fn cells(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut cells = vec![Vec::new()];
    let mut quoted = false;
    let mut rest = line.iter().copied().peekable();
    while let Some(byte) = rest.next() {
        match (byte, quoted) {
            (b'"', true) if rest.next_if_eq(&b'"').is_some() => cells.last_mut()?.push(b'"'),
            (b'"', _) => quoted = !quoted,
            (b',', false) => cells.push(Vec::new()),
            (byte, _) => cells.last_mut()?.push(byte),
        }
    }
    (!quoted).then_some(cells)
}

#[derive(Deserialize)]
struct Document {
    version: String,
    files: Vec<File>,
}

#[derive(Deserialize)]
struct File {
    path: String,
    ranges: Option<Vec<[u64; 2]>>,
}

pub(super) fn ranges(lines: &mut Lines<'_>, out: &mut Collector<'_>) -> Result<(), ImportError> {
    let document: Document =
        serde_json::from_slice(&lines.document()?).map_err(|error| json_error(&error))?;
    if document.version != "v1" {
        return Err(ImportError::Document(format!("version {:?} is not known, v1 is", document.version)));
    }
    let mut place = 0;
    for file in &document.files {
        let whole = file.ranges.is_none();
        let ranges = file.ranges.iter().flatten().map(|&[offset, size]| Some((offset, size)));
        for range in ranges.chain(whole.then_some(None)) {
            out.add(file.path.as_bytes(), &Use { range, ..Use::listed(place) })?;
            place += 1;
        }
    }
    Ok(())
}
