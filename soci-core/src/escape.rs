//! Names as text: paths and process names are bytes, JSON and tables want UTF-8.
//!
//! Holds no state. A backslash becomes `\\`, a byte that is not part of valid UTF-8 becomes `\xHH` (two lower-case hex
//! digits), all else stays. What must always hold: [`unescape`] gives back exactly what [`escape`] was given.

use std::borrow::Cow;
use std::fmt::Write;

/// Bytes as text.
pub fn escape(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\\') => Cow::Borrowed(text),
        _ => Cow::Owned(escaped(bytes)),
    }
}

fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() + 8);
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            if char == '\\' {
                text.push('\\');
            }
            text.push(char);
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}"); // a String takes everything
        }
    }
    text
}

/// Text that [`escape`] made, as bytes; `None` when it is not such text.
pub fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|&byte| byte == b'\\') {
        bytes.extend_from_slice(&rest[..at]);
        rest = &rest[at..];
        match rest {
            [_, b'\\', tail @ ..] => {
                bytes.push(b'\\');
                rest = tail;
            }
            [_, b'x', high, low, tail @ ..] => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                bytes.push((digit(*high)? * 16 + digit(*low)?) as u8);
                rest = tail;
            }
            _ => return None,
        }
    }
    bytes.extend_from_slice(rest);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_look_as_documented() {
        assert_eq!(escape("dir/ünï".as_bytes()), "dir/ünï");
        assert_eq!(escape(b"a\\b\xff\xc3("), r"a\\b\xff\xc3(");
        for wrong in [r"\", r"a\y", r"\x1", r"\xg0"] {
            assert_eq!(unescape(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn nothing_is_lost(bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'\\'), Just(b'x')], 0..40)) {
            prop_assert_eq!(unescape(&escape(&bytes)), Some(bytes));
        }

        #[test]
        fn any_text_is_survived(text in ".{0,20}") {
            let _ = unescape(&text);
        }
    }
}
