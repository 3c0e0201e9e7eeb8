//! Which file has which bytes of the layer's tar. Built once, never changes.

use soci_core::tree::clean;
use soci_core::units::ByteRange;

use super::{InodeNo, LayerFs};

/// Files in the order of their content in the tar.
#[derive(Debug, Default)]
pub struct Places(Vec<Place>);

/// A regular file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its content in the tar; never empty.
    pub content: ByteRange,
    /// Its inode.
    pub ino: InodeNo,
}

impl Places {
    /// Of all files of a layer that have content.
    pub fn of(fs: &LayerFs) -> Self {
        let place = |ino: InodeNo| {
            let content = fs.content(ino).ok().filter(|content| !content.is_empty())?;
            Some(Place { content, ino })
        };
        let mut files: Vec<_> = fs.inodes().filter_map(place).collect();
        files.sort_by_key(|file| file.content.start);
        Self(files)
    }

    /// A file's path in the layer, cleaned, without a leading slash. That of its first entry, when it has several names.
    pub fn path(fs: &LayerFs, file: InodeNo) -> Option<Vec<u8>> {
        Some(clean(&fs.entry(fs.inode(file).ok()?)?.name))
    }

    /// The files that have bytes of `range`, each with those of its own bytes.
    pub fn pieces(&self, range: ByteRange) -> impl Iterator<Item = (&Place, ByteRange)> {
        let first = self.0.partition_point(|file| file.content.end <= range.start);
        self.0[first..].iter().take_while(move |file| file.content.start < range.end).filter_map(
            move |file| {
                let part = file.content.intersect(&range)?;
                let start = file.content.start;
                Some((file, ByteRange::new(part.start - start, part.end - start)))
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_the_files_that_it_touches_and_no_header() {
        let place = |start, end, ino| Place { content: ByteRange::new(start, end), ino: InodeNo(ino) };
        let places = Places(vec![place(512, 1000, 2), place(1536, 9728, 3), place(10_752, 10_753, 4)]);
        let pieces = |start, end| -> Vec<_> {
            let range = ByteRange::new(start, end);
            places.pieces(range).map(|(file, part)| (file.ino.0, part.start, part.end)).collect()
        };
        assert_eq!(pieces(0, 20_000), [(2, 0, 488), (3, 0, 8192), (4, 0, 1)]);
        assert_eq!(pieces(999, 1537), [(2, 487, 488), (3, 0, 1)]);
        assert_eq!(pieces(5632, 9728), [(3, 4096, 8192)]);
        assert_eq!(pieces(1000, 1536), []);
        assert_eq!(pieces(10_753, 99_999), []);
    }
}
