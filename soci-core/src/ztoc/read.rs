//! Reads the flatbuffer of a zTOC into tables, without trusting it.
//!
//! Owns nothing. Invariant: every slice handed out lies within the bytes. Objects of a flatbuffer may share bytes, but no
//! writer of zTOCs lets them: so what is read is counted as if each object had bytes of its own, and a zTOC whose objects
//! need more than there are is refused before memory is taken for them. That bounds memory and steps by the length.

use std::ops::Range;

use bytes::Bytes;

use super::{Algorithm, FileEntry, ZtocError, mod_time};
use crate::budget::Budget;
use crate::digest::Digest;
use crate::flat::{OutOfBounds, Table, Vector};
use crate::tar::{EntryKind, Mtime};

/// Limit: bytes of all objects of a zTOC, each counted with the fewest that it takes; as many as the zTOC has.
const OBJECTS: &str = "ztoc-objects";

/// Fewest bytes of a file: its offset, a table with two texts and one number, the length fields of the texts and the
/// shortest type.
const FILE: u64 = 24 + 8 + 3;
/// Fewest bytes of a PAX record: its offset and a table with two texts.
const RECORD: u64 = 16;
/// Fewest bytes of a span's digest: its offset, its length field, and half of what a longer text than `sha256:` takes.
const DIGEST: u64 = 16;
/// Fewest bytes of any text: its length field.
const TEXT: u64 = 4;

/// A digest as text.
const DIGEST_TEXT: usize = 71;
/// Longest modification time that is looked at: RFC 3339 with nine digits and a zone has 35.
const LONGEST_TIME: usize = 64;

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

/// Reads all tables. `memory` is for what is made of them.
pub(super) fn read(bytes: &Bytes, memory: &mut Budget) -> Result<Raw, ZtocError> {
    let mut reader = Reader { bytes, objects: Budget::new(OBJECTS, bytes.len() as u64), memory };
    let root = Table::root(bytes)?;
    let toc = root.table(4)?.ok_or(ZtocError::Missing("table of contents"))?;
    let compression = root.table(5)?.ok_or(ZtocError::Missing("compression information"))?;
    let number = compression.i8(0, 1)?;
    Ok(Raw {
        version: reader.text(root.bytes(0)?)?,
        build_tool: reader.text(root.bytes(1)?)?,
        compressed_size: unsigned("compressed size", root.i64(2)?)?,
        uncompressed_size: unsigned("uncompressed size", root.i64(3)?)?,
        algorithm: Algorithm::of(number).ok_or(ZtocError::Algorithm(number))?,
        max_span_id: compression.i32(1)?,
        checkpoints: reader.text(compression.bytes(3)?)?,
        digests: reader.digests(&compression.vector(2)?)?,
        files: reader.files(&toc.vector(0)?)?,
    })
}

/// The memory that [`read`] takes for the files of a zTOC.
pub(super) fn memory(bytes: &[u8]) -> Result<u64, ZtocError> {
    let toc = Table::root(bytes)?.table(4)?.ok_or(ZtocError::Missing("table of contents"))?;
    let files = toc.vector(0)?;
    let mut records = 0;
    for file in files.tables() {
        records += file?.vector(13)?.len();
    }
    Ok((files.len() * size_of::<FileEntry>() + records * size_of::<(Bytes, Bytes)>()) as u64)
}

struct Reader<'a> {
    bytes: &'a Bytes,
    objects: Budget,
    memory: &'a mut Budget,
}

impl Reader<'_> {
    fn digests(&mut self, texts: &Vector<'_>) -> Result<Vec<Option<Digest>>, ZtocError> {
        self.objects.spend_each(texts.len(), DIGEST)?;
        self.memory.spend_each(texts.len(), size_of::<Option<Digest>>() as u64)?;
        let digests = texts.strings().map(|text| Ok(digest(text?)));
        Ok(digests.collect::<Result<_, OutOfBounds>>()?)
    }

    fn files(&mut self, metadata: &Vector<'_>) -> Result<Vec<FileEntry>, ZtocError> {
        self.objects.spend_each(metadata.len(), FILE)?;
        self.memory.spend_each(metadata.len(), size_of::<FileEntry>() as u64)?;
        let mut files = Vec::with_capacity(metadata.len());
        for (index, table) in metadata.tables().enumerate() {
            files.push(self.file(index, &table?)?);
        }
        Ok(files)
    }

    fn file(&mut self, index: usize, table: &Table<'_>) -> Result<FileEntry, ZtocError> {
        let wrong = |reason| ZtocError::Entry { index, reason };
        let name = table.bytes(0)?.ok_or_else(|| wrong("no name"))?;
        self.objects.spend(name.len() as u64)?;
        let kind = table.bytes(1)?.ok_or_else(|| wrong("no type"))?;
        let mtime = match table.bytes(10)?.map_or(&[][..], |range| &self.bytes[range]) {
            // What a writer says of a time that RFC 3339 has no words for.
            [] => Mtime::default(),
            text if text.len() > LONGEST_TIME => return Err(wrong("modification time is too long")),
            text => mod_time::parse(text).ok_or_else(|| wrong("modification time is not RFC 3339"))?,
        };
        Ok(FileEntry {
            name: self.bytes.slice(name),
            kind: EntryKind::from_word(&self.bytes[kind]).ok_or_else(|| wrong("unknown type"))?,
            header_offset: 0,
            content_offset: u64::try_from(table.i64(2)?).map_err(|_| wrong("negative offset"))?,
            size: u64::try_from(table.i64(3)?).map_err(|_| wrong("negative size"))?,
            link_name: self.text(table.bytes(4)?)?,
            mode: table.i64(5)? as u32,
            uid: table.u32(6)?,
            gid: table.u32(7)?,
            uname: self.text(table.bytes(8)?)?,
            gname: self.text(table.bytes(9)?)?,
            mtime,
            dev_major: table.i64(11)? as u32,
            dev_minor: table.i64(12)? as u32,
            xattrs: self.records(&table.vector(13)?)?,
        })
    }

    fn records(&mut self, tables: &Vector<'_>) -> Result<Vec<(Bytes, Bytes)>, ZtocError> {
        self.objects.spend_each(tables.len(), RECORD)?;
        self.memory.spend_each(tables.len(), size_of::<(Bytes, Bytes)>() as u64)?;
        let mut records = Vec::with_capacity(tables.len());
        for record in tables.tables() {
            let record = record?;
            records.push((self.text(record.bytes(0)?)?, self.text(record.bytes(1)?)?));
        }
        Ok(records)
    }

    fn text(&mut self, range: Option<Range<usize>>) -> Result<Bytes, ZtocError> {
        let Some(range) = range else { return Ok(Bytes::new()) };
        self.objects.spend(TEXT + range.len() as u64)?;
        Ok(self.bytes.slice(range))
    }
}

fn unsigned(what: &'static str, value: i64) -> Result<u64, ZtocError> {
    u64::try_from(value).map_err(|_| ZtocError::Number { what, value })
}

fn digest(text: &[u8]) -> Option<Digest> {
    if text.len() != DIGEST_TEXT {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}
