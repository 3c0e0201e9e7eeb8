//! Numbers and hostile names as words, the same on a terminal and in a page.
//!
//! Holds no state. What must always hold: the result of [`printable`] has no control characters and nothing that turns
//! the direction of text, whatever the bytes; it is not yet escaped for HTML, that is the page's work.

use std::fmt::Write;

/// In place of a figure that the engine does not measure.
pub const NOT_MEASURED: &str = "not measured";

/// Bytes as text: what is not UTF-8 becomes `\xNN`, invisible and control characters become `\u{N}`.
pub fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || is_invisible(c) {
                text.extend(c.escape_unicode());
            } else {
                text.push(c);
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}"); // a String takes everything
        }
    }
    text
}

/// Marks of direction, joiners and other characters that take no room.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// At most `max` characters of a text: what is left out of its middle becomes an ellipsis.
pub(super) fn shortened(text: &str, max: usize) -> String {
    let len = text.chars().count();
    if len <= max {
        return text.to_owned();
    }
    let keep = max.saturating_sub(1);
    let head: String = text.chars().take(keep / 3).collect();
    let tail: String = text.chars().skip(len - (keep - keep / 3)).collect();
    format!("{head}…{tail}")
}

/// A number of bytes with three digits.
pub fn bytes(count: u64) -> String {
    let mut value = count as f64;
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    for larger in units {
        if value < 1000.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    match value {
        _ if unit == "B" => format!("{count} B"),
        0.0..9.995 => format!("{value:.2} {unit}"),
        0.0..99.95 => format!("{value:.1} {unit}"),
        _ => format!("{value:.0} {unit}"),
    }
}

/// A time with three digits.
pub fn time(ns: u64) -> String {
    let ns = ns as f64;
    match ns {
        0.0..999_500.0 => format!("{:.0} µs", ns / 1e3),
        0.0..999_950_000.0 => format!("{:.1} ms", ns / 1e6),
        _ => format!("{:.2} s", ns / 1e9),
    }
}

/// A count with its thousands apart.
pub(super) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// A part of a whole in per cent; a dash when there is no whole.
pub(super) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "–".into() } else { format!("{:.1} %", part as f64 * 100.0 / whole as f64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_steer_a_terminal_or_turn_text_around() {
        assert_eq!(printable(b"a\x1b[2J\xff\xc3\xa4b\n"), "a\\u{1b}[2J\\xffäb\\u{a}");
        assert_eq!(printable("exe\u{202e}gpj".as_bytes()), "exe\\u{202e}gpj");
        assert_eq!(printable(b""), "");
    }

    #[test]
    fn long_names_keep_both_ends() {
        assert_eq!(shortened("abc", 3), "abc");
        assert_eq!(shortened("0123456789", 7), "01…6789");
        assert_eq!(shortened("ääääää", 1), "…");
        assert_eq!(shortened("ab", 0), "…");
    }

    #[test]
    fn numbers_have_three_digits() {
        let sizes = [0, 999, 1000, 1024, 10_240, 999 << 10, 5 << 30, u64::MAX].map(bytes);
        assert_eq!(
            sizes,
            ["0 B", "999 B", "0.98 KiB", "1.00 KiB", "10.0 KiB", "999 KiB", "5.00 GiB", "16.0 EiB"]
        );
        let times = [0, 1_500, 2_500_000, 1_234_000_000].map(time);
        assert_eq!(times, ["0 µs", "2 µs", "2.5 ms", "1.23 s"]);
        assert_eq!((count(1), count(1_234_567)), ("1".into(), "1\u{202f}234\u{202f}567".into()));
        assert_eq!((percent(1, 0), percent(1, 8)), ("–".into(), "12.5 %".into()));
    }
}
