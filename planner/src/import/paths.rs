//! Paths, one a line, or a JSON array of strings (as `soci record` writes it): files, or directories, which stand for
//! all files below them. In the order of need.
//!
//! Holds no state. An input that begins with `[` is JSON.

use super::lines::{Lines, json_error};
use super::{Collector, ImportError};

pub(super) fn read(lines: &mut Lines<'_>, out: &mut Collector<'_>) -> Result<(), ImportError> {
    let mut place = 0;
    if lines.begins_with(b'[')? {
        let paths: Vec<String> =
            serde_json::from_slice(&lines.document()?).map_err(|error| json_error(&error))?;
        return paths.iter().try_for_each(|path| out.add_tree(path.as_bytes(), &mut place));
    }
    while let Some(path) = lines.next_path()? {
        out.add_tree(&path, &mut place)?;
    }
    Ok(())
}
