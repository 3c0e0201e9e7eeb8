//! Reads the flatbuffer of a zTOC into tables, without trusting it.
//!
//! Owns nothing. Invariant: every slice handed out lies within the bytes, and the memory used is bounded by a
//! small multiple of their length, whatever they claim.

use std::ops::Range;

use bytes::Bytes;

use super::{Algorithm, FileEntry, ZtocError, mod_time};
use crate::digest::Digest;
use crate::flat::{OutOfBounds, Table, Vector};
use crate::tar::{EntryKind, Mtime};

/// No file, PAX record or digest that upstream's writer makes takes fewer bytes than this.
const SMALLEST_OBJECT: usize = 16;

/// What a zTOC says, before `verify` asked whether it can be true.
pub(super) struct Raw {
    pub version: Bytes,
    pub build_tool: Bytes,
    pub compressed_size: u64,
    pub uncompressed_size: u64,
    pub algorithm: Algorithm,
    pub max_span_id: i32,
    /// `None` for a text that is no SHA-256 digest.
    pub digests: Vec<Option<Digest>>,
    pub checkpoints: Bytes,
    /// Header offsets are not set yet.
    pub files: Vec<FileEntry>,
}

impl From<OutOfBounds> for ZtocError {
    fn from(_: OutOfBounds) -> Self {
        Self::OutOfBounds
    }
}

/// Reads all tables.
pub(super) fn read(bytes: &Bytes) -> Result<Raw, ZtocError> {
    let root = Table::root(bytes)?;
    let toc = root.table(4)?.ok_or(ZtocError::Missing("table of contents"))?;
    let compression = root.table(5)?.ok_or(ZtocError::Missing("compression information"))?;
    let number = compression.i8(0, 1)?;
    let algorithm = Algorithm::of(number).ok_or(ZtocError::Algorithm(number))?;
    let digests = compression.vector(2)?;
    limit("span digests", &digests, bytes)?;
    let digests = digests.strings().map(|text| Ok(digest(text?))).collect::<Result<_, OutOfBounds>>()?;
    Ok(Raw {
        version: text(bytes, root.bytes(0)?),
        build_tool: text(bytes, root.bytes(1)?),
        compressed_size: unsigned("compressed size", root.i64(2)?)?,
        uncompressed_size: unsigned("uncompressed size", root.i64(3)?)?,
        algorithm,
        max_span_id: compression.i32(1)?,
        digests,
        checkpoints: text(bytes, compression.bytes(3)?),
        files: files(bytes, &toc.vector(0)?)?,
    })
}

fn files(bytes: &Bytes, metadata: &Vector<'_>) -> Result<Vec<FileEntry>, ZtocError> {
    limit("files", metadata, bytes)?;
    let mut records_left = bytes.len() / SMALLEST_OBJECT;
    let mut files = Vec::with_capacity(metadata.len());
    for (index, table) in metadata.tables().enumerate() {
        let table = table?;
        let wrong = |reason| ZtocError::Entry { index, reason };
        let records = table.vector(13)?;
        records_left = records_left.checked_sub(records.len()).ok_or(ZtocError::Overlapping("records"))?;
        let mut xattrs = Vec::with_capacity(records.len());
        for record in records.tables() {
            let record = record?;
            xattrs.push((text(bytes, record.bytes(0)?), text(bytes, record.bytes(1)?)));
        }
        let kind = table.bytes(1)?.ok_or_else(|| wrong("no type"))?;
        let mtime = match table.bytes(10)?.map_or(&[][..], |range| &bytes[range]) {
            // What a writer says of a time that RFC 3339 has no words for.
            [] => Mtime::default(),
            text => mod_time::parse(text).ok_or_else(|| wrong("modification time is not RFC 3339"))?,
        };
        files.push(FileEntry {
            name: text(bytes, Some(table.bytes(0)?.ok_or_else(|| wrong("no name"))?)),
            kind: EntryKind::from_word(&bytes[kind]).ok_or_else(|| wrong("unknown type"))?,
            header_offset: 0,
            content_offset: u64::try_from(table.i64(2)?).map_err(|_| wrong("negative offset"))?,
            size: u64::try_from(table.i64(3)?).map_err(|_| wrong("negative size"))?,
            link_name: text(bytes, table.bytes(4)?),
            mode: table.i64(5)? as u32,
            uid: table.u32(6)?,
            gid: table.u32(7)?,
            uname: text(bytes, table.bytes(8)?),
            gname: text(bytes, table.bytes(9)?),
            mtime,
            dev_major: table.i64(11)? as u32,
            dev_minor: table.i64(12)? as u32,
            xattrs,
        });
    }
    Ok(files)
}

/// Each element takes bytes of its own in an honest zTOC; elements that share them could multiply the memory
/// needed without end.
fn limit(what: &'static str, vector: &Vector<'_>, bytes: &Bytes) -> Result<(), ZtocError> {
    if vector.len() > bytes.len() / SMALLEST_OBJECT { Err(ZtocError::Overlapping(what)) } else { Ok(()) }
}

fn text(bytes: &Bytes, range: Option<Range<usize>>) -> Bytes {
    range.map_or_else(Bytes::new, |range| bytes.slice(range))
}

fn unsigned(what: &'static str, value: i64) -> Result<u64, ZtocError> {
    u64::try_from(value).map_err(|_| ZtocError::Number { what, value })
}

fn digest(text: &[u8]) -> Option<Digest> {
    std::str::from_utf8(text).ok()?.parse().ok()
}
