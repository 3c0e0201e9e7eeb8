//! Sizes as upstream's files write them: `16mb`, `1.5 GB`, `512 kb`, a number of bytes as a number or as text. Holds no state.

use std::fmt;

use serde::de::{Error, Visitor};
use serde::{Deserializer, de};

/// Bytes: a number, its units 1024-based, in any case; without a unit it is bytes. Negative numbers stay what they are.
pub(super) fn parse(text: &str) -> Option<i64> {
    let lower = text.trim().to_ascii_lowercase();
    let (sign, digits) = lower.strip_prefix('-').map_or((1, lower.as_str()), |rest| (-1, rest));
    let end = digits.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(digits.len());
    let (number, unit) = digits.split_at(end);
    let unit: u64 = match unit.trim() {
        "" | "b" => 1,
        "kb" => 1 << 10,
        "mb" => 1 << 20,
        "gb" => 1 << 30,
        _ => return None,
    };
    let number: f64 = number.parse().ok()?;
    let bytes = number * unit as f64;
    (bytes < i64::MAX as f64 / 2.0).then_some(sign * bytes as i64)
}

/// Reads a size that a file has as a number or as text; empty text is 0.
pub(super) fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    struct Size;

    impl Visitor<'_> for Size {
        type Value = i64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number of bytes, or a size such as \"16mb\"")
        }

        fn visit_i64<E: Error>(self, value: i64) -> Result<i64, E> {
            Ok(value)
        }

        fn visit_u64<E: Error>(self, value: u64) -> Result<i64, E> {
            i64::try_from(value).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(value), &self))
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<i64, E> {
            if text.trim().is_empty() {
                return Ok(0);
            }
            parse(text).ok_or_else(|| E::custom(format!("invalid size format: {text}")))
        }
    }

    deserializer.deserialize_any(Size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_upstream() {
        for (text, bytes) in [
            ("16mb", 16 << 20),
            (" 1.5 GB ", 3 << 29),
            ("512 kb", 512 << 10),
            ("7b", 7),
            ("4096", 4096),
            ("-1", -1),
            ("0", 0),
        ] {
            assert_eq!(parse(text), Some(bytes), "{text}");
        }
        for text in ["", "mb", "5 tb", "1.2.3", "99999999999gb", "nan", "1e9", "--1"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
