//! Push parser of tar archives: bytes in, entries and content out.
//!
//! [`Parser`] owns one 512-byte block and at most 1 MiB of an extension header; content is passed through.
//! Invariant: `offset` is always the number of archive bytes consumed.

use super::entry::{Entry, EntryKind, Mtime};
use super::header::{BLOCK, Header, text};
use super::pax::{self, Records};
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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Filling `block` with a header.
    Header,
    /// Filling `block` with what must be the second zero block.
    SecondZero,
    /// Filling `body` of an extension header.
    Extension { typeflag: u8, left: u64 },
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
        }
    }

    /// Takes the next bytes of the archive. Bytes after its end mark are ignored.
    pub fn push(&mut self, mut data: &[u8], sink: &mut impl Sink) -> Result<(), TarError> {
        while !data.is_empty() {
            let taken = match self.state {
                State::Header | State::SecondZero => {
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
            State::Content { .. } => "content",
            _ => return Ok(TarEnd { uncompressed_archive_size: self.offset }),
        };
        Err(TarError::Truncated { offset: self.offset, inside })
    }

    /// Handles `now`, the bytes just consumed in the present state, and moves on when the state is complete.
    fn advance(&mut self, now: &[u8], sink: &mut impl Sink) -> Result<(), TarError> {
        let count = now.len() as u64;
        match &mut self.state {
            State::Header if self.filled == BLOCK => {
                self.filled = 0;
                self.header(sink)?;
            }
            State::SecondZero if self.filled == BLOCK => {
                self.filled = 0;
                if self.block != [0; BLOCK] {
                    return Err(self.bad_header("a zero block is followed by a block that is not zero"));
                }
                self.state = State::End;
            }
            State::Extension { typeflag, left } => {
                self.body.extend_from_slice(now);
                *left -= count;
                if *left == 0 {
                    let typeflag = *typeflag;
                    self.extension(typeflag)?;
                }
            }
            State::Content { left } => {
                *left -= count;
                if *left == 0 {
                    self.pad();
                }
                sink.data(now)?;
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
    fn header(&mut self, sink: &mut impl Sink) -> Result<(), TarError> {
        if self.block == [0; BLOCK] {
            self.state = State::SecondZero;
            return Ok(());
        }
        let header = Header::parse(&self.block).map_err(|reason| self.bad_header(reason))?;
        if !matches!(header.typeflag, b'x' | b'L' | b'K') {
            return self.entry(header, sink);
        }
        let size = header.size.cast_unsigned();
        if size > EXTENSION_LIMIT {
            let limit = EXTENSION_LIMIT;
            return Err(TarError::ExtensionTooLarge { offset: self.offset, size, limit });
        }
        self.body.clear();
        self.state = State::Extension { typeflag: header.typeflag, left: size };
        if size == 0 { self.extension(header.typeflag) } else { Ok(()) }
    }

    /// Interprets a complete extension body; it holds for the next entry.
    fn extension(&mut self, typeflag: u8) -> Result<(), TarError> {
        match typeflag {
            b'x' => {
                self.records =
                    pax::parse(&self.body).map_err(|reason| TarError::Pax { offset: self.offset, reason })?;
            }
            b'L' => self.long_name = text(&self.body).to_vec(),
            _ => self.long_link = text(&self.body).to_vec(),
        }
        self.pad();
        Ok(())
    }

    /// Completes a header with its extensions and hands it out.
    fn entry(&mut self, header: Header, sink: &mut impl Sink) -> Result<(), TarError> {
        let Header { typeflag, mut size, .. } = header;
        let mut entry = Entry {
            name: header.name,
            kind: EntryKind::Reg,
            content_offset: self.offset,
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
        };
        let records = std::mem::take(&mut self.records);
        pax::apply(&mut entry, &mut size, records)
            .map_err(|reason| TarError::Pax { offset: self.offset, reason })?;
        for (long, name) in
            [(&mut self.long_name, &mut entry.name), (&mut self.long_link, &mut entry.link_name)]
        {
            if !long.is_empty() {
                *name = std::mem::take(long);
            }
        }
        let name = || String::from_utf8_lossy(&entry.name).into_owned();
        entry.kind = match typeflag {
            // Archives older than USTAR mark a directory by its name only.
            0 if entry.name.ends_with(b"/") => EntryKind::Dir,
            0 | b'0' => EntryKind::Reg,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::Char,
            b'4' => EntryKind::Block,
            b'5' => EntryKind::Dir,
            b'6' => EntryKind::Fifo,
            b'S' => return Err(TarError::Sparse { name: name() }),
            other => return Err(TarError::Unsupported { typeflag: char::from(other), name: name() }),
        };
        if pax::is_sparse(&entry.pax) {
            return Err(TarError::Sparse { name: name() });
        }
        entry.size = u64::try_from(size).map_err(|_| self.bad_header("negative size"))?;
        let left = if entry.kind == EntryKind::Reg { entry.size } else { 0 };
        if self.offset.checked_add(left).is_none_or(|end| end > i64::MAX.cast_unsigned() - BLOCK as u64) {
            return Err(self.bad_header("size is past the largest offset"));
        }
        self.state = if left > 0 { State::Content { left } } else { State::Header };
        sink.entry(entry)
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
