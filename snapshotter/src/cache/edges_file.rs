//! The parts of pages on disk, between a clean end and the next start.
//!
//! State: the file `edges` beside the page maps, which is there only while nobody has the cache open: written when the cache is
//! closed, read and taken away when it is opened. What must always hold: it is believed only together with the
//! maps that it was written with; whatever is wrong with it, the parts are absent.
//!
//! Layout, little-endian: `SOCIEDGE`, version (u32), count (u32); for each part its start (u64) and its length with the highest
//! bit set when only a pack has brought it (u32); SHA-256 of all that.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use soci_core::digest::Digest;
use soci_core::units::ByteRange;

use super::edges::Edges;

const MAGIC: &[u8; 8] = b"SOCIEDGE";
const VERSION: u32 = 1;
const HEAD: usize = 16;
const ENTRY: usize = 12;
const DIGEST: usize = 32;
const PACKED: u32 = 1 << 31;

/// Writes the parts and brings them to disk.
pub(super) fn write(path: &Path, edges: &Edges) -> io::Result<()> {
    let parts: Vec<_> = edges.parts().collect();
    let mut raw = Vec::with_capacity(HEAD + parts.len() * ENTRY + DIGEST);
    raw.extend_from_slice(MAGIC);
    raw.extend_from_slice(&VERSION.to_le_bytes());
    raw.extend_from_slice(&u32::try_from(parts.len()).map_err(io::Error::other)?.to_le_bytes());
    for (part, packed) in parts {
        // Parts lie in a page.
        let length = part.len() as u32 | if packed { PACKED } else { 0 };
        raw.extend_from_slice(&part.start.to_le_bytes());
        raw.extend_from_slice(&length.to_le_bytes());
    }
    let digest = Digest::of(&raw);
    raw.extend_from_slice(digest.as_bytes());
    let mut file = File::create(path)?;
    file.write_all(&raw)?;
    file.sync_data()
}

/// The parts of a layer of `size` bytes that an earlier owner has left; none when there is no such file, or not a good one.
pub(super) fn take(path: &Path, size: u64) -> io::Result<Edges> {
    let raw = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Edges::default()),
        raw => raw?,
    };
    fs::remove_file(path)?;
    Ok(parse(&raw, size).unwrap_or_default())
}

fn parse(raw: &[u8], size: u64) -> Option<Edges> {
    let (raw, digest) = raw.split_last_chunk::<DIGEST>()?;
    let (head, entries) = raw.split_first_chunk::<HEAD>()?;
    let count = u32::from_le_bytes([head[12], head[13], head[14], head[15]]);
    let fits = Digest::of(raw).as_bytes() == digest
        && head[..8] == *MAGIC
        && head[8..12] == VERSION.to_le_bytes()
        && entries.len() == (count as usize).checked_mul(ENTRY)?;
    if !fits {
        return None;
    }
    let mut edges = Edges::default();
    for entry in entries.as_chunks::<ENTRY>().0 {
        let (start, length) = entry.split_first_chunk::<8>()?;
        let (start, length) = (u64::from_le_bytes(*start), u32::from_le_bytes(length.try_into().ok()?));
        let part = ByteRange::new(start, start.checked_add(u64::from(length & !PACKED))?);
        if !edges.restore(part, length & PACKED != 0, size) {
            return None;
        }
    }
    Some(edges)
}

#[cfg(test)]
mod tests {
    use super::super::bitmap::PAGE;
    use super::super::edges::{Page, page_range};
    use super::*;

    const SIZE: u64 = 10 * PAGE + 7;

    fn some() -> Edges {
        let mut edges = Edges::default();
        for (page, from, to, packed) in [(0, 5, 9, true), (0, 100, 200, false), (10, 2, 6, false)] {
            let part = ByteRange::new(page * PAGE + from, page * PAGE + to);
            let whole = page_range(page, SIZE);
            let state = if packed {
                edges.packed(page, whole, part)
            } else {
                edges.checked(page, whole, part, false)
            };
            assert_eq!(state, Page::Partial);
        }
        edges
    }

    #[test]
    fn parts_are_read_once_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("edges");
        write(&path, &some()).unwrap();
        let read = take(&path, SIZE).unwrap();
        assert_eq!(read.parts().collect::<Vec<_>>(), some().parts().collect::<Vec<_>>());
        assert_eq!(read.parts().count(), 3);
        assert_eq!(take(&path, SIZE).unwrap().parts().count(), 0, "taken");
    }

    #[test]
    fn nothing_of_a_damaged_file_is_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("edges");
        write(&path, &some()).unwrap();
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(parse(&bad, SIZE).is_none(), "byte {at}");
            assert!(parse(&good[..at], SIZE).is_none(), "cut at {at}");
        }
        assert!(parse(&good, 10 * PAGE + 5).is_none(), "a part behind the layer's end");
        assert!(parse(&good, SIZE).is_some());
    }
}
