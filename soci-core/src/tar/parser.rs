//! Push parser of tar archives: bytes in, entries and content out.
//!
//! [`Parser`] owns one 512-byte block, at most 1 MiB of an extension header, and the map of one sparse file; content is
//! passed through.
//! Invariant: `offset` is always the number of archive bytes consumed.

use super::entry::{Entry, EntryKind, Mtime, Special};
use super::header::{BLOCK, Header, text};
use super::pax::{self, Records, SparseMap};
use super::sparse::{MAP_LIMIT, Map};
use super::{Sink, TarEnd, TarError};

/// Largest PAX body, long name or long link name, in bytes (Go's limit).
const EXTENSION_LIMIT: u64 = 1 << 20;

/// A tar parser that is fed with bytes in any chunking.
#[derive(Debug)]
pub struct Parser {
    state: State,
    offset: u64,
    block: [u8; BLOCK],
    filled: usize,
    body: Vec<u8>,
    records: Records,
    long_name: Vec<u8>,
    long_link: Vec<u8>,
    /// The sparse file whose content comes.
    sparse: Option<Map>,
    /// A sparse file whose map is not complete.
    pending: Option<Pending>,
}

/// A sparse file in front of its content.
#[derive(Debug)]
struct Pending {
    entry: Entry,
    map: Map,
    /// Length of the file.
    size: i64,
    /// Bytes that the archive stores, a map in front of the content included.
    stored: u64,
    /// Lines of such a map so far.
    newlines: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Filling `block` with a header.
    Header,
    /// Filling `block` with what must be the second zero block.
    SecondZero,
    /// Filling `body` of an extension header.
    Extension { typeflag: u8, left: u64 },
    /// Filling `block` with more of an old GNU sparse map.
    MapBlock,
    /// Filling `block` with lines of a PAX 1.0 sparse map, which are part of the stored bytes.
    MapLines { left: u64 },
    /// Passing content on.
    Content { left: u64 },
    /// Skipping to the next block.
    Padding { left: u64 },
    /// After the second zero block: everything else is ignored.
    End,
}

impl Default for Parser {
    fn default() -> Self {
        Self::new()
    }
}

impl Parser {
    /// A parser at the start of an archive.
    pub const fn new() -> Self {
        Self {
            state: State::Header,
            offset: 0,
            block: [0; BLOCK],
            filled: 0,
            body: Vec::new(),
            records: Records::new(),
            long_name: Vec::new(),
            long_link: Vec::new(),
            sparse: None,
            pending: None,
        }
    }

    /// Takes the next bytes of the archive. Bytes after its end mark are ignored.
    pub fn push<S: Sink>(&mut self, mut data: &[u8], sink: &mut S) -> Result<(), S::Error> {
        while !data.is_empty() {
            let taken = match self.state {
                State::Header | State::SecondZero | State::MapBlock | State::MapLines { .. } => {
                    let taken = data.len().min(BLOCK - self.filled);
                    self.block[self.filled..self.filled + taken].copy_from_slice(&data[..taken]);
                    self.filled += taken;
                    taken
                }
                State::Extension { left, .. } | State::Content { left } | State::Padding { left } => {
                    usize::try_from(left).map_or(data.len(), |left| left.min(data.len()))
                }
                State::End => return Ok(()),
            };
            let (now, rest) = data.split_at(taken);
            data = rest;
            self.offset += taken as u64;
            self.advance(now, sink)?;
        }
        Ok(())
    }

    /// Declares the end of the input.
    ///
    /// An archive may end after two zero blocks, after one, at a block boundary, or in the padding behind the
    /// last content.
    pub fn finish(&self) -> Result<TarEnd, TarError> {
        let inside = match self.state {
            State::Header | State::SecondZero if self.filled > 0 => "a header",
            State::Extension { .. } => "an extension header",
            State::MapBlock | State::MapLines { .. } => "a sparse map",
            State::Content { .. } => "content",
            _ => return Ok(TarEnd { uncompressed_archive_size: self.offset }),
        };
        Err(TarError::Truncated { offset: self.offset, inside })
    }

    /// Handles `now`, the bytes just consumed in the present state, and moves on when the state is complete.
    fn advance<S: Sink>(&mut self, now: &[u8], sink: &mut S) -> Result<(), S::Error> {
        let count = now.len() as u64;
        match &mut self.state {
            State::Header if self.filled == BLOCK => {
                self.filled = 0;
                self.header(sink)?;
            }
            State::SecondZero if self.filled == BLOCK => {
                self.filled = 0;
                if self.block != [0; BLOCK] {
                    return Err(self
                        .bad_header("a zero block is followed by a block that is not zero")
                        .into());
                }
                self.state = State::End;
            }
            State::Extension { typeflag, left } => {
                self.body.extend_from_slice(now);
                *left -= count;
                if *left == 0 {
                    let typeflag = *typeflag;
                    self.extension(typeflag, sink)?;
                }
            }
            State::MapBlock if self.filled == BLOCK => {
                self.filled = 0;
                self.map_block(sink)?;
            }
            State::MapLines { left } if self.filled == BLOCK => {
                self.filled = 0;
                *left -= BLOCK as u64;
                let left = *left;
                self.map_lines(left, sink)?;
            }
            State::Content { left } => {
                *left -= count;
                if *left == 0 {
                    self.pad();
                }
                match &mut self.sparse {
                    Some(map) => map.hand_out(now, sink)?,
                    None => sink.data(now)?,
                }
            }
            State::Padding { left } => {
                *left -= count;
                if *left == 0 {
                    self.state = State::Header;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Interprets a full header block.
    fn header<S: Sink>(&mut self, sink: &mut S) -> Result<(), S::Error> {
        if self.block == [0; BLOCK] {
            self.state = State::SecondZero;
            return Ok(());
        }
        let header = Header::parse(&self.block).map_err(|reason| self.bad_header(reason))?;
        if !matches!(header.typeflag, b'x' | b'g' | b'L' | b'K') {
            return self.entry(header, sink);
        }
        let size = header.size.cast_unsigned();
        if size > EXTENSION_LIMIT {
            let limit = EXTENSION_LIMIT;
            return Err(TarError::ExtensionTooLarge { offset: self.offset, size, limit }.into());
        }
        self.body.clear();
        self.state = State::Extension { typeflag: header.typeflag, left: size };
        if size == 0 { self.extension(header.typeflag, sink) } else { Ok(()) }
    }

    /// Interprets a complete extension body; unless it is a global one, it holds for the next entry.
    fn extension<S: Sink>(&mut self, typeflag: u8, sink: &mut S) -> Result<(), S::Error> {
        let offset = self.offset;
        self.pad();
        match typeflag {
            b'x' | b'g' => {
                let records = pax::parse(&self.body).map_err(|reason| TarError::Pax { offset, reason })?;
                if typeflag == b'x' {
                    self.records = records;
                } else {
                    return self.global(records, offset, sink);
                }
            }
            b'L' => self.long_name = text(&self.body).to_vec(),
            _ => self.long_link = text(&self.body).to_vec(),
        }
        Ok(())
    }

    /// Hands out a global header. It takes the place of an entry, so what came before it is used up, as in Go.
    fn global<S: Sink>(&mut self, records: Records, offset: u64, sink: &mut S) -> Result<(), S::Error> {
        // The header's own block is still there: bodies go elsewhere.
        let header = Header::parse(&self.block).map_err(|reason| self.bad_header(reason))?;
        self.records.clear();
        self.long_name.clear();
        self.long_link.clear();
        let entry = Entry { pax: records, ..base(header, offset) };
        sink.special(entry, Special::Global)
    }

    /// Completes a header with its extensions and hands it out.
    fn entry<S: Sink>(&mut self, header: Header, sink: &mut S) -> Result<(), S::Error> {
        let Header { typeflag, gnu, mut size, .. } = header;
        let mut entry = base(header, self.offset);
        let records = std::mem::take(&mut self.records);
        let offset = self.offset;
        let bad_records = |reason| TarError::Pax { offset, reason };
        pax::apply(&mut entry, &mut size, records).map_err(bad_records)?;
        for (long, name) in
            [(&mut self.long_name, &mut entry.name), (&mut self.long_link, &mut entry.link_name)]
        {
            if !long.is_empty() {
                *name = std::mem::take(long);
            }
        }
        let mut special = None;
        entry.kind = match typeflag {
            // Archives older than USTAR mark a directory by its name only.
            0 if entry.name.ends_with(b"/") => EntryKind::Dir,
            0 | b'0' | b'S' => EntryKind::Reg,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::Char,
            b'4' => EntryKind::Block,
            b'5' => EntryKind::Dir,
            b'6' => EntryKind::Fifo,
            b'7' => {
                special = Some(Special::Contiguous);
                EntryKind::Reg
            }
            other => {
                special = Some(Special::Other(other));
                EntryKind::Reg
            }
        };
        let stored = u64::try_from(size).map_err(|_| self.bad_header("negative size"))?;
        let left = if entry.kind == EntryKind::Reg { stored } else { 0 };
        if self.offset.checked_add(left).is_none_or(|end| end > i64::MAX.cast_unsigned() - BLOCK as u64) {
            return Err(self.bad_header("size is past the largest offset").into());
        }
        if typeflag == b'S' {
            if !gnu {
                return Err(self.bad_header("a sparse file that is not GNU's").into());
            }
            let size =
                super::header::number(&self.block[483..495]).map_err(|reason| self.bad_header(reason))?;
            let mut map = Map::default();
            let more = map.add_fields(&self.block, true).map_err(|reason| self.bad_header(reason))?;
            self.pending = Some(Pending { entry, map, size, stored, newlines: 0 });
            if more {
                self.state = State::MapBlock;
                return Ok(());
            }
            return self.mapped(stored, sink);
        }
        if !matches!(special, Some(Special::Other(_)))
            && let Some(place) = pax::sparse_map(&entry.pax)
        {
            if entry.kind != EntryKind::Reg {
                return Err(self.bad_header("a sparse entry that is no file").into());
            }
            pax::apply_sparse(&mut entry, &mut size).map_err(bad_records)?;
            let in_records = place == SparseMap::Records;
            let map = in_records.then(|| Map::of_records(&entry.pax)).transpose().map_err(bad_records)?;
            self.pending = Some(Pending { entry, map: map.unwrap_or_default(), size, stored, newlines: 0 });
            if in_records {
                return self.mapped(stored, sink);
            }
            if stored < BLOCK as u64 {
                return Err(self.bad_header("sparse file without its map").into());
            }
            self.body.clear();
            self.state = State::MapLines { left: stored };
            return Ok(());
        }
        entry.size = stored;
        self.sparse = None;
        self.state = if left > 0 { State::Content { left } } else { State::Header };
        match special {
            None => sink.entry(entry),
            Some(special) => sink.special(entry, special),
        }
    }

    /// Takes a block of an old GNU sparse map.
    fn map_block<S: Sink>(&mut self, sink: &mut S) -> Result<(), S::Error> {
        let offset = self.offset;
        let Some(pending) = &mut self.pending else { return Ok(()) };
        let more = pending.map.add_fields(&self.block, false).map_err(|reason| bad_map(offset, reason))?;
        if more {
            return Ok(());
        }
        pending.entry.content_offset = offset;
        let stored = pending.stored;
        if offset.checked_add(stored).is_none_or(|end| end > i64::MAX.cast_unsigned() - BLOCK as u64) {
            return Err(self.bad_header("size is past the largest offset").into());
        }
        self.mapped(stored, sink)
    }

    /// Takes a block of lines of a PAX 1.0 sparse map; `left` stored bytes follow.
    fn map_lines<S: Sink>(&mut self, left: u64, sink: &mut S) -> Result<(), S::Error> {
        let offset = self.offset;
        let Some(pending) = &mut self.pending else { return Ok(()) };
        self.body.extend_from_slice(&self.block);
        pending.newlines += self.block.split(|&byte| byte == b'\n').count() - 1;
        if let Some(map) =
            Map::of_lines(&self.body, pending.newlines).map_err(|reason| bad_map(offset, reason))?
        {
            pending.map = map;
            pending.entry.content_offset = offset;
            return self.mapped(left, sink);
        }
        if left < BLOCK as u64 || self.body.len() >= MAP_LIMIT {
            return Err(bad_map(offset, "sparse map does not end").into());
        }
        self.state = State::MapLines { left };
        Ok(())
    }

    /// Hands out a sparse file whose map is complete; `left` stored bytes are its content.
    fn mapped<S: Sink>(&mut self, left: u64, sink: &mut S) -> Result<(), S::Error> {
        let offset = self.offset;
        let Some(Pending { mut entry, mut map, size, .. }) = self.pending.take() else { return Ok(()) };
        entry.size = u64::try_from(size).map_err(|_| bad_map(offset, "negative size"))?;
        map.check(entry.size, left).map_err(|reason| bad_map(offset, reason))?;
        sink.special(entry, Special::Sparse)?;
        map.hand_out(&[], sink)?;
        self.sparse = Some(map);
        if left > 0 {
            self.state = State::Content { left };
        } else {
            self.pad();
        }
        Ok(())
    }

    /// Goes on at the next block boundary. Bodies start at a block boundary, so the offset tells the padding.
    fn pad(&mut self) {
        let left = self.offset.next_multiple_of(BLOCK as u64) - self.offset;
        self.state = if left > 0 { State::Padding { left } } else { State::Header };
    }

    fn bad_header(&self, reason: &'static str) -> TarError {
        TarError::Header { offset: self.offset - BLOCK as u64, reason }
    }
}

/// The entry that a header block tells of, before extensions: a regular file without content.
fn base(header: Header, content_offset: u64) -> Entry {
    Entry {
        name: header.name,
        kind: EntryKind::Reg,
        content_offset,
        size: 0,
        link_name: header.link_name,
        mode: header.mode,
        uid: header.uid,
        gid: header.gid,
        uname: header.uname,
        gname: header.gname,
        mtime: Mtime { secs: header.mtime, nanos: 0 },
        dev_major: header.dev_major,
        dev_minor: header.dev_minor,
        pax: Records::new(),
    }
}

fn bad_map(offset: u64, reason: &'static str) -> TarError {
    TarError::Header { offset: offset - BLOCK as u64, reason }
}
