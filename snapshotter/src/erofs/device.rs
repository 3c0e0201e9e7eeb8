//! The bytes of an image as one file: metadata from memory, content from the layer.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::try_join_all;
use soci_core::units::ByteRange;

use super::Image;
use super::format::BLOCK;
use crate::fs::error::FsError;
use crate::fs::{InodeNo, LayerFs};

/// An image and the layer that it is of.
#[derive(Debug)]
pub(crate) struct Device {
    fs: Arc<LayerFs>,
    image: Image,
}

/// What a part of the file is.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Metadata(std::ops::Range<usize>),
    Content {
        ino: InodeNo,
        offset: u64,
        /// Bytes of the piece; zeros stand behind the file's end.
        length: usize,
    },
}

impl Device {
    pub(crate) const fn new(fs: Arc<LayerFs>, image: Image) -> Self {
        Self { fs, image }
    }

    pub(crate) const fn image(&self) -> &Image {
        &self.image
    }

    /// The layer.
    pub(crate) fn fs(&self) -> &LayerFs {
        &self.fs
    }

    /// The file that has the byte at `offset`, and where it is in the file.
    pub(crate) fn file_at(&self, offset: u64) -> Option<(InodeNo, u64)> {
        let (ino, place) = self.image.file_at(offset)?;
        Some((ino, offset.saturating_sub(place.start)))
    }

    /// Bytes of the file, if all that are asked for are metadata.
    pub(crate) fn metadata(&self, offset: u64, size: u32) -> Option<&[u8]> {
        let start = usize::try_from(offset).ok()?;
        self.image.metadata().get(start..start.checked_add(size as usize)?)
    }

    /// The parts of `size` bytes at `offset`, of which none is behind the end.
    fn pieces(&self, offset: u64, size: u32) -> Vec<Part> {
        let end = offset.saturating_add(u64::from(size)).min(self.image.size());
        let metadata = ByteRange::new(0, self.image.content_start());
        let mut pieces = Vec::new();
        let mut at = offset;
        if let Some(part) = metadata.intersect(&ByteRange::new(offset, end)) {
            pieces.push(Part::Metadata(part.start as usize..part.end as usize));
            at = part.end;
        }
        while at < end {
            let Some((ino, place)) = self.image.file_at(at) else { break };
            let until = place.end.min(end);
            pieces.push(Part::Content { ino, offset: at - place.start, length: (until - at) as usize });
            at = until;
        }
        pieces
    }

    /// Bytes of the file, fewer at its end, if they are all cached.
    pub(crate) fn read_cached(&self, offset: u64, size: u32) -> Result<Option<Bytes>, FsError> {
        let pieces = self.pieces(offset, size);
        // Nearly all reads are of one page.
        if let [Part::Content { ino, offset, length }] = pieces[..] {
            let bytes = self.fs.read_cached(ino, offset, length as u32)?;
            return Ok(bytes.map(|bytes| padded(bytes, length)));
        }
        let mut all = Vec::new();
        for piece in pieces {
            match piece {
                Part::Metadata(range) => all.extend_from_slice(&self.image.metadata()[range]),
                Part::Content { ino, offset, length } => {
                    let Some(bytes) = self.fs.read_cached(ino, offset, length as u32)? else {
                        return Ok(None);
                    };
                    all.extend_from_slice(&padded(bytes, length));
                }
            }
        }
        Ok(Some(all.into()))
    }

    /// Bytes of the file, fewer at its end; waits for what is not cached.
    pub(crate) async fn read(&self, offset: u64, size: u32) -> Result<Bytes, FsError> {
        let read = async |piece| match piece {
            Part::Metadata(range) => Ok(Bytes::copy_from_slice(&self.image.metadata()[range])),
            Part::Content { ino, offset, length } => {
                Ok::<_, FsError>(padded(self.fs.read(ino, offset, length as u32).await?, length))
            }
        };
        Ok(try_join_all(self.pieces(offset, size).into_iter().map(read)).await?.concat().into())
    }
}

/// `bytes` with zeros behind, `length` in all.
fn padded(bytes: Bytes, length: usize) -> Bytes {
    if bytes.len() == length {
        return bytes;
    }
    let mut all = Vec::with_capacity(length);
    all.extend_from_slice(&bytes);
    all.resize(length, 0);
    all.into()
}

/// Bytes up to the end of their last block.
pub(crate) fn whole_blocks(bytes: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    let whole = bytes.len().next_multiple_of(BLOCK as usize);
    if whole == bytes.len() {
        return bytes;
    }
    let mut bytes = bytes.into_owned();
    bytes.resize(whole, 0);
    Cow::Owned(bytes)
}
