//! The mount table of this process, mountinfo(5). It touches no file system but /proc, and has no state.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// A path: the table writes blanks, newlines and backslashes as three octal digits.
pub(crate) fn unescape(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = (byte == b'\\').then(|| after.get(..3)).flatten();
        let code = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        path.push(code.unwrap_or(byte));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    PathBuf::from(OsString::from_vec(path))
}

/// What is mounted below a directory, the latest first: later mounts may lie on earlier ones.
pub(crate) fn below(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let table = fs::read("/proc/self/mountinfo")?;
    let mut points: Vec<_> = table.split(|byte| *byte == b'\n').filter_map(mountpoint).collect();
    points.retain(|point| point.starts_with(directory) && point != directory);
    points.reverse();
    Ok(points)
}

/// The mountpoint of a line: its fifth field.
pub(crate) fn mountpoint(line: &[u8]) -> Option<PathBuf> {
    line.split(|byte| *byte == b' ').nth(4).map(unescape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountpoints_are_read_with_their_escapes() {
        let line = br"36 35 98:0 / /mnt/a\040b\134c rw,noatime master:1 - fuse soci rw";
        assert_eq!(mountpoint(line), Some(PathBuf::from("/mnt/a b\\c")));
        assert_eq!(mountpoint(b""), None);
        assert_eq!(unescape(b"/a\\134b\\04"), PathBuf::from("/a\\b\\04"));
    }
}
