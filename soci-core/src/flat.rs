//! Bounds-checked reading of flatbuffers tables, without generated code.
//!
//! Borrows the bytes. Invariant: no offset or length found in the bytes is followed before it was checked
//! against their end, so any bytes at all can be read; a field that is absent from the vtable is its default.
//! docs/design/0001-ztoc-reader-and-tar-parser.md says why flatc's output is not used.

use std::ops::Range;

/// An offset or length that leads out of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OutOfBounds;

/// Position of `slot` in a vtable, as flatbuffers counts it.
pub(crate) const fn slot(slot: u16) -> u16 {
    4 + 2 * slot
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], OutOfBounds> {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or(OutOfBounds)
}

/// Position that the relative offset at `at` points to.
fn follow(bytes: &[u8], at: usize) -> Result<usize, OutOfBounds> {
    at.checked_add(u32::from_le_bytes(array(bytes, at)?) as usize).ok_or(OutOfBounds)
}

/// Range of `count` elements of `size` bytes behind the length field at `at`, with their count.
fn elements(bytes: &[u8], at: usize, size: usize) -> Result<Range<usize>, OutOfBounds> {
    let count = u32::from_le_bytes(array(bytes, at)?) as usize;
    let start = at.checked_add(4).ok_or(OutOfBounds)?;
    let end = count.checked_mul(size).and_then(|length| start.checked_add(length)).ok_or(OutOfBounds)?;
    if end <= bytes.len() { Ok(start..end) } else { Err(OutOfBounds) }
}

/// A table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Table<'a> {
    bytes: &'a [u8],
    at: usize,
    vtable: &'a [u8],
}

impl<'a> Table<'a> {
    /// The root table of a buffer without size prefix.
    pub(crate) fn root(bytes: &'a [u8]) -> Result<Self, OutOfBounds> {
        Self::at(bytes, follow(bytes, 0)?)
    }

    fn at(bytes: &'a [u8], at: usize) -> Result<Self, OutOfBounds> {
        let back = i64::from(i32::from_le_bytes(array(bytes, at)?));
        let vtable = usize::try_from(at as i64 - back).map_err(|_| OutOfBounds)?;
        let length = usize::from(u16::from_le_bytes(array(bytes, vtable)?));
        let vtable = vtable.checked_add(length).and_then(|end| bytes.get(vtable..end)).ok_or(OutOfBounds)?;
        Ok(Self { bytes, at, vtable })
    }

    /// Position of a field; `None` when the table leaves it out.
    fn field(&self, number: u16) -> Option<usize> {
        let offset = u16::from_le_bytes(array(self.vtable, usize::from(slot(number))).ok()?);
        if offset == 0 { None } else { self.at.checked_add(usize::from(offset)) }
    }

    fn scalar<const N: usize>(&self, number: u16) -> Result<Option<[u8; N]>, OutOfBounds> {
        self.field(number).map(|at| array(self.bytes, at)).transpose()
    }

    /// 64-bit field with default 0.
    pub(crate) fn i64(&self, number: u16) -> Result<i64, OutOfBounds> {
        Ok(self.scalar(number)?.map_or(0, i64::from_le_bytes))
    }

    /// 32-bit field with default 0.
    pub(crate) fn i32(&self, number: u16) -> Result<i32, OutOfBounds> {
        Ok(self.scalar(number)?.map_or(0, i32::from_le_bytes))
    }

    /// Unsigned 32-bit field with default 0.
    pub(crate) fn u32(&self, number: u16) -> Result<u32, OutOfBounds> {
        Ok(self.scalar(number)?.map_or(0, u32::from_le_bytes))
    }

    /// 8-bit field.
    pub(crate) fn i8(&self, number: u16, default: i8) -> Result<i8, OutOfBounds> {
        Ok(self.scalar(number)?.map_or(default, i8::from_le_bytes))
    }

    /// Table field.
    pub(crate) fn table(&self, number: u16) -> Result<Option<Self>, OutOfBounds> {
        self.field(number).map(|at| Self::at(self.bytes, follow(self.bytes, at)?)).transpose()
    }

    /// Where the bytes of a string or byte vector lie.
    pub(crate) fn bytes(&self, number: u16) -> Result<Option<Range<usize>>, OutOfBounds> {
        self.field(number).map(|at| elements(self.bytes, follow(self.bytes, at)?, 1)).transpose()
    }

    /// Vector of tables or strings; an absent one is empty.
    pub(crate) fn vector(&self, number: u16) -> Result<Vector<'a>, OutOfBounds> {
        let elements = match self.field(number) {
            Some(at) => elements(self.bytes, follow(self.bytes, at)?, 4)?,
            None => 0..0,
        };
        Ok(Vector { bytes: self.bytes, elements })
    }
}

/// A vector of relative offsets.
#[derive(Debug)]
pub(crate) struct Vector<'a> {
    bytes: &'a [u8],
    elements: Range<usize>,
}

impl<'a> Vector<'a> {
    /// Number of elements.
    pub(crate) fn len(&self) -> usize {
        self.elements.len() / 4
    }

    /// The elements as tables.
    pub(crate) fn tables(&self) -> impl Iterator<Item = Result<Table<'a>, OutOfBounds>> {
        let bytes = self.bytes;
        self.elements.clone().step_by(4).map(move |at| Table::at(bytes, follow(bytes, at)?))
    }

    /// The elements as strings.
    pub(crate) fn strings(&self) -> impl Iterator<Item = Result<&'a [u8], OutOfBounds>> {
        let bytes = self.bytes;
        self.elements.clone().step_by(4).map(move |at| Ok(&bytes[elements(bytes, follow(bytes, at)?, 1)?]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_builder_writes_is_read_and_cuts_are_refused() {
        let mut builder = flatbuffers::FlatBufferBuilder::new();
        let name = builder.create_byte_string(b"n\xffme");
        let names = builder.create_vector(&[name]);
        let table = builder.start_table();
        builder.push_slot_always(slot(0), name);
        builder.push_slot::<i64>(slot(1), -5, 0);
        builder.push_slot_always(slot(3), names);
        let root = builder.end_table(table);
        builder.finish_minimal(root);
        let bytes = builder.finished_data();

        let read = |bytes: &[u8]| -> Result<_, OutOfBounds> {
            let table = Table::root(bytes)?;
            let name = table.bytes(0)?.map(|range| bytes[range].to_vec());
            let names: Result<Vec<_>, _> =
                table.vector(3)?.strings().map(|s| s.map(<[u8]>::to_vec)).collect();
            Ok((name, table.i64(1)?, table.i64(2)?, names?, table.table(9)?.is_none()))
        };
        let name = b"n\xffme".to_vec();
        assert_eq!(read(bytes), Ok((Some(name.clone()), -5, 0, vec![name], true)));
        for cut in 0..bytes.len() {
            // The last text ends with NUL and padding, which nobody reads.
            assert!(read(&bytes[..cut]).is_err() || cut + 8 > bytes.len(), "cut at {cut}");
        }
    }
}
