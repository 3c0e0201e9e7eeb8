//! GNU sparse files, old and PAX: where the stored bytes lie in the file, with the checks of Go's `archive/tar`.
//!
//! A [`Map`] owns the parts of one file. What must always hold: the parts ascend, do not overlap, lie within the file,
//! and are together exactly as long as what the archive stores.

use super::Sink;
use super::header::{BLOCK, number};
use super::pax::{self, Records, decimal};

/// Largest map of a sparse file, in bytes of the archive; Go's limit for the map of PAX 1.0. It has some 50 000 parts.
pub(super) const MAP_LIMIT: usize = 1 << 20;

/// A stretch of a sparse file that the archive stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    offset: u64,
    length: u64,
}

/// The map of one sparse file, and how far its stored bytes have come.
#[derive(Debug, Default)]
pub(super) struct Map {
    parts: Vec<Part>,
    size: u64,
    /// The part that the next stored byte belongs to, and how many of its bytes have come.
    next: usize,
    taken: u64,
    /// End in the file of what has been handed out, holes included.
    at: u64,
}

impl Map {
    /// Adds the part that two number fields of an old GNU header give.
    fn add(&mut self, offset: i64, length: i64) -> Result<(), &'static str> {
        let (Ok(offset), Ok(length)) = (u64::try_from(offset), u64::try_from(length)) else {
            return Err("negative number in a sparse map");
        };
        self.parts.push(Part { offset, length });
        Ok(())
    }

    /// Adds the parts of an old GNU header (4) or of a block behind it (21); true: another such block follows.
    pub(super) fn add_fields(&mut self, block: &[u8; BLOCK], header: bool) -> Result<bool, &'static str> {
        let (fields, extended) =
            if header { (&block[386..482], block[482]) } else { (&block[..504], block[504]) };
        for field in fields.chunks_exact(24).take_while(|field| field[0] != 0) {
            self.add(number(&field[..12])?, number(&field[12..])?)?;
        }
        if self.parts.len() * 24 > MAP_LIMIT { Err("sparse map is too long") } else { Ok(extended > 0) }
    }

    /// The map in the records of PAX formats 0.0 and 0.1.
    pub(super) fn of_records(records: &Records) -> Result<Self, &'static str> {
        let count =
            decimal(pax::value(records, b"GNU.sparse.numblocks")).ok_or("sparse map without a count")?;
        let text = pax::value(records, pax::SPARSE_MAP);
        let numbers: Vec<&[u8]> = text.split(|&byte| byte == b',').filter(|_| !text.is_empty()).collect();
        if usize::try_from(count).ok().and_then(|count| count.checked_mul(2)) != Some(numbers.len()) {
            return Err("sparse map has another length than its count");
        }
        Self::of_numbers(&numbers)
    }

    /// The map in front of the content in PAX format 1.0; `None` while lines are missing.
    pub(super) fn of_lines(text: &[u8], newlines: usize) -> Result<Option<Self>, &'static str> {
        let mut lines = text.split(|&byte| byte == b'\n');
        let count = lines.next().filter(|_| newlines > 0);
        let Some(count) = count else { return Ok(None) };
        let count = decimal(count).and_then(|count| usize::try_from(count).ok()?.checked_mul(2));
        let count = count.ok_or("sparse map without a count")?;
        if newlines <= count {
            return Ok(None);
        }
        Self::of_numbers(&lines.take(count).collect::<Vec<_>>()).map(Some)
    }

    fn of_numbers(numbers: &[&[u8]]) -> Result<Self, &'static str> {
        let mut map = Self::default();
        let number = |text| decimal(text).ok_or("sparse map is not of numbers");
        for pair in numbers.chunks_exact(2) {
            map.add(number(pair[0])?, number(pair[1])?)?;
        }
        Ok(map)
    }

    /// Completes the map of a file of `size` bytes, of which the archive stores `stored`.
    pub(super) fn check(&mut self, size: u64, stored: u64) -> Result<(), &'static str> {
        let mut end = 0;
        let mut sum = 0_u64;
        for part in &self.parts {
            let after = part.offset.checked_add(part.length).filter(|&after| after <= size);
            let after = after.ok_or("sparse map leaves the file")?;
            if part.offset < end {
                return Err("sparse map has overlapping parts");
            }
            end = after;
            sum += part.length; // parts do not overlap: at most `size`
        }
        self.size = size;
        if sum == stored { Ok(()) } else { Err("sparse map does not fit what is stored") }
    }

    /// Hands out the next stored bytes, each behind the hole in front of it; with the last ones, the hole at the end.
    /// To be called once without bytes before any come.
    pub(super) fn hand_out<S: Sink>(&mut self, mut bytes: &[u8], sink: &mut S) -> Result<(), S::Error> {
        while let Some(&part) = self.parts.get(self.next) {
            if part.length > 0 && bytes.is_empty() {
                return Ok(());
            }
            self.hole(part.offset, sink)?;
            let take =
                usize::try_from(part.length - self.taken).map_or(bytes.len(), |left| left.min(bytes.len()));
            let (now, rest) = bytes.split_at(take);
            bytes = rest;
            if !now.is_empty() {
                sink.data(now)?;
            }
            self.at = (part.offset + self.taken + take as u64).max(self.at);
            self.taken += take as u64;
            if self.taken == part.length {
                (self.next, self.taken) = (self.next + 1, 0);
            }
        }
        self.hole(self.size, sink)
    }

    fn hole<S: Sink>(&mut self, to: u64, sink: &mut S) -> Result<(), S::Error> {
        if self.taken == 0 && to > self.at {
            let length = to - self.at;
            self.at = to;
            sink.hole(length)?;
        }
        Ok(())
    }
}
