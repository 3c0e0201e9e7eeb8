//! Mount tables, mountinfo(5). It touches no file system but /proc, and has no state.

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

/// A line: number, parent, device, root, mountpoint, options, tags, `-`, type, source, options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    /// Major and minor number: the same for all mounts of one file system, in all namespaces.
    pub(crate) device: &'a [u8],
    /// Which directory of the file system is mounted.
    pub(crate) root: PathBuf,
    pub(crate) mountpoint: PathBuf,
    pub(crate) kind: &'a [u8],
    pub(crate) source: PathBuf,
    /// Of the file system, with their escapes.
    pub(crate) options: &'a [u8],
}

impl<'a> Line<'a> {
    /// `None`: not a line.
    pub(crate) fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ');
        let device = fields.nth(2)?;
        let (root, mountpoint) = (unescape(fields.next()?), unescape(fields.next()?));
        let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
        let (kind, source) = (rest.next()?, unescape(rest.next()?));
        Some(Self { device, root, mountpoint, kind, source, options: rest.next().unwrap_or_default() })
    }

    /// All lines of a table.
    pub(crate) fn all(table: &'a [u8]) -> Vec<Self> {
        table.split(|byte| *byte == b'\n').filter_map(Self::parse).collect()
    }
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

    #[test]
    fn lines_are_taken_apart() {
        let table =
            b"36 35 0:40 /t1 /mnt/a\\040b ro shared:1 master:2 - fuse.soci soci ro,user_id=0\n\nbad - x\n";
        let [line] = &Line::all(table)[..] else { panic!("one line") };
        assert_eq!(
            (line.device, line.kind, line.options),
            (&b"0:40"[..], &b"fuse.soci"[..], &b"ro,user_id=0"[..])
        );
        assert_eq!((&*line.root, &*line.mountpoint), (Path::new("/t1"), Path::new("/mnt/a b")));
    }
}
