//! LEB128: unsigned integers of one to ten bytes, seven bits in each, the lowest first. Owns no state.

/// Adds one varint.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes one varint off the front; `None` when it is cut or longer than 64 bits.
pub(crate) fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        if shift == 63 && part > 1 {
            return None;
        }
        value |= part << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// A difference as a number that is small when it is: 0, -1, 1, -2, ...
pub(crate) const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// The difference that [`zigzag`] made this of.
pub(crate) const fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn numbers_round_trip(numbers: Vec<u64>) {
            let mut bytes = Vec::new();
            for &number in &numbers {
                put_varint(&mut bytes, number);
            }
            let mut rest = bytes.as_slice();
            let again: Option<Vec<u64>> = numbers.iter().map(|_| take_varint(&mut rest)).collect();
            proptest::prop_assert_eq!(again, Some(numbers));
            proptest::prop_assert!(rest.is_empty());
        }
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        for bytes in
            [&b""[..], &[0x80], &[0xff; 10], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]]
        {
            assert_eq!(take_varint(&mut { bytes }), None, "{bytes:?}");
        }
        let largest = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        assert_eq!(take_varint(&mut &largest[..]), Some(u64::MAX));
    }
}
