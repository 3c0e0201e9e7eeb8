//! Numbers of the table: varints in their shortest form.
//!
//! Owns no state. Invariant: a number has one spelling only.

use crate::varint::take_varint;

/// Reads numbers one after the other.
#[derive(Debug)]
pub(super) struct Numbers<'a> {
    bytes: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Numbers<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, rest: bytes }
    }

    /// The next number; `None` when the bytes end inside of it, or it is too large or not in its shortest form.
    pub(super) fn next(&mut self) -> Option<u64> {
        let mut rest = self.rest;
        let value = take_varint(&mut rest)?;
        let spelling = &self.rest[..self.rest.len() - rest.len()];
        if matches!(spelling, [_, .., 0]) {
            return None;
        }
        self.rest = rest;
        Some(value)
    }

    /// Where the next number starts.
    pub(super) fn at(&self) -> usize {
        self.bytes.len() - self.rest.len()
    }

    /// Bytes that were not read.
    pub(super) fn rest(&self) -> usize {
        self.rest.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::varint::{put_varint, unzigzag, zigzag};

    proptest! {
        #[test]
        fn numbers_survive(values: Vec<u64>, differences: Vec<i64>) {
            let mut bytes = Vec::new();
            for number in values.iter().copied().chain(differences.iter().copied().map(zigzag)) {
                put_varint(&mut bytes, number);
            }
            let mut numbers = Numbers::new(&bytes);
            for &value in &values {
                prop_assert_eq!(numbers.next(), Some(value));
            }
            for &difference in &differences {
                prop_assert_eq!(numbers.next().map(unzigzag), Some(difference));
            }
            prop_assert_eq!((numbers.rest(), numbers.next()), (0, None));
        }

        #[test]
        fn a_number_has_one_spelling(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            let mut numbers = Numbers::new(&bytes);
            if let Some(value) = numbers.next() {
                let mut again = Vec::new();
                put_varint(&mut again, value);
                prop_assert_eq!(&bytes[..numbers.at()], &again[..]);
            }
        }
    }

    #[test]
    fn long_and_unfinished_numbers_are_refused() {
        for bytes in [
            &[][..],
            &[0x80],
            &[0x80, 0],
            &[0xff; 10],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
        ] {
            assert_eq!(Numbers::new(bytes).next(), None, "{bytes:?}");
        }
    }
}
