//! Bytes of a pack in the making, in a file without a name: a pack may be larger than memory.
//!
//! [`Scratch`] owns the file, which goes away with it. What must always hold: what was appended is read as it was.

use std::{fs::File, io, os::unix::fs::FileExt};

use crate::units::ByteRange;

/// A file that is only appended to.
#[derive(Debug)]
pub(super) struct Scratch {
    file: File,
    length: u64,
}

impl Scratch {
    /// `file` is empty and nobody else's.
    pub(super) const fn new(file: File) -> Self {
        Self { file, length: 0 }
    }

    /// Appends bytes, and says where they are.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<ByteRange> {
        self.file.write_all_at(bytes, self.length)?;
        let range = ByteRange::new(self.length, self.length + bytes.len() as u64);
        self.length = range.end;
        Ok(range)
    }

    /// Adds bytes of `range` to `out`.
    pub(super) fn read(&self, range: ByteRange, out: &mut Vec<u8>) -> io::Result<()> {
        let from = out.len();
        out.resize(from + range.len() as usize, 0);
        self.file.read_exact_at(&mut out[from..], range.start)
    }

    /// The file.
    pub(super) fn into_file(self) -> File {
        self.file
    }
}
