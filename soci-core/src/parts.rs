//! Bytes of files: a range at once, or a blob part by part.
//!
//! [`Parts`] owns the file that it reads. What must always hold: no memory is taken for bytes that are not there.

use std::{
    fs::File,
    io::{self, ErrorKind},
    os::unix::fs::FileExt,
};

use bytes::Bytes;

use crate::units::ByteRange;

/// Bytes `range` of a file, for which no memory is taken unless the file has them.
pub(crate) fn read_part(file: &File, range: ByteRange) -> io::Result<Bytes> {
    if file.metadata()?.len() < range.end {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    let mut bytes = vec![0u8; range.len() as usize];
    file.read_exact_at(&mut bytes, range.start)?;
    Ok(bytes.into())
}

/// Bytes in one part of [`Parts`].
const PART: u64 = 1 << 20;

/// A blob part by part: bytes, then a file.
#[derive(Debug)]
pub(crate) struct Parts {
    head: Bytes,
    rest: File,
    length: u64,
    at: Option<u64>,
}

impl Parts {
    pub(crate) fn new(head: Vec<u8>, rest: File, length: u64) -> Self {
        Self { head: head.into(), rest, length, at: None }
    }

    /// The same from the beginning.
    pub(crate) fn again(&self) -> io::Result<Self> {
        Ok(Self { head: self.head.clone(), rest: self.rest.try_clone()?, length: self.length, at: None })
    }
}

impl Iterator for Parts {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        let Some(at) = self.at else {
            self.at = Some(0);
            return Some(Ok(self.head.clone()));
        };
        let end = (at + PART).min(self.length);
        self.at = Some(end);
        (at < end).then(|| read_part(&self.rest, ByteRange::new(at, end)))
    }
}
