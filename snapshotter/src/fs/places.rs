//! Which file has which bytes of the layer's tar. Built once, never changes.

use soci_core::units::ByteRange;

use super::attr::Kind;
use super::{InodeNo, LayerFs};

/// Files in the order of their content in the tar.
#[derive(Debug, Default)]
pub struct Places(Vec<Place>);

/// A regular file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its content in the tar; never empty.
    pub content: ByteRange,
    /// Its inode.
    pub ino: InodeNo,
    /// Its path in the layer, cleaned, without a leading slash. That of its first entry, when it has several names.
    pub path: Box<[u8]>,
}

impl Places {
    /// Of all files of a layer that have content.
    pub fn of(fs: &LayerFs) -> Self {
        let place = |ino: InodeNo| {
            let entry = fs.entry(fs.inode(ino).ok()?)?;
            let content = fs.content(ino).ok().filter(|content| !content.is_empty())?;
            (Kind::of(entry.kind) == Kind::Regular).then(|| Place {
                content,
                ino,
                path: clean(entry.name.as_ref()),
            })
        };
        let mut files: Vec<_> = fs.inodes().filter_map(place).collect();
        files.sort_by_key(|file| file.content.start);
        Self(files)
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

/// A name without `.`, and without slashes but one between two parts.
fn clean(name: &[u8]) -> Box<[u8]> {
    let parts = name.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    parts.collect::<Vec<_>>().join(&b'/').into()
}
