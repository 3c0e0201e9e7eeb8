//! Numbers of the table: little-endian base 128, in the shortest form, and differences folded so that small ones are short.
//!
//! Owns no state. Invariant: a number has one spelling only.

/// Reads numbers one after the other.
#[derive(Debug)]
pub(super) struct Numbers<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Numbers<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next number; `None` when the bytes end inside of it, or it is too large or not in its shortest form.
    pub(super) fn next(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for (place, &byte) in self.bytes.get(self.at..)?.iter().enumerate() {
            let bits = u64::from(byte & 0x7f);
            let shift = 7 * place as u32;
            if shift > 63 || bits << shift >> shift != bits {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && place > 0 {
                    return None;
                }
                self.at += place + 1;
                return Some(value);
            }
        }
        None
    }

    /// Where the next number starts.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Bytes that were not read.
    pub(super) fn rest(&self) -> usize {
        self.bytes.len() - self.at
    }
}

/// Appends a number.
pub(super) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A difference as a number: 0, -1, 1, -2, ...
pub(super) const fn fold(difference: i64) -> u64 {
    ((difference << 1) ^ (difference >> 63)) as u64
}

/// The difference that [`fold`] made this of.
pub(super) const fn unfold(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_survive(values: Vec<u64>, differences: Vec<i64>) {
            let mut bytes = Vec::new();
            for number in values.iter().copied().chain(differences.iter().copied().map(fold)) {
                put(&mut bytes, number);
            }
            let mut numbers = Numbers::new(&bytes);
            for &value in &values {
                prop_assert_eq!(numbers.next(), Some(value));
            }
            for &difference in &differences {
                prop_assert_eq!(numbers.next().map(unfold), Some(difference));
            }
            prop_assert_eq!((numbers.rest(), numbers.next()), (0, None));
        }

        #[test]
        fn a_number_has_one_spelling(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            let mut numbers = Numbers::new(&bytes);
            if let Some(value) = numbers.next() {
                let mut again = Vec::new();
                put(&mut again, value);
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
