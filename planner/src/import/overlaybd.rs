//! overlaybd's list of what to prefetch: paths of files and directories, one a line, white space and slashes around
//! them without meaning.
//!
//! Holds no state. Lines that overlaybd skips for their characters are used. Its binary trace names blocks of a
//! converted image, not files, and is refused.

use super::lines::Lines;
use super::{Collector, ImportError};

/// First bytes of the binary trace.
const BINARY: u32 = 3_270_449_184;

pub(super) fn read(lines: &mut Lines<'_>, out: &mut Collector<'_>) -> Result<(), ImportError> {
    if lines.starts_with(&BINARY.to_le_bytes())? {
        return Err(ImportError::Document(
            "this looks like overlaybd's binary trace, which names blocks of a converted image and no files: give the list"
                .into(),
        ));
    }
    let mut place = 0;
    while let Some(path) = lines.next_path()? {
        out.add_tree(path.trim_ascii(), &mut place)?;
    }
    Ok(())
}
