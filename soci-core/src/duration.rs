//! Durations as Go's programs write them in flags and files: numbers with units, `1m30s`. Holds no state.

use std::time::Duration;

/// Reads numbers with units (`ns us µs ms s m h`) one behind the other, such as `1m30s` or `0.5s`; `None` when it is not
/// that, or too long.
pub fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, next) = tail.split_at(unit_end);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        let number: f64 = number.parse().ok()?;
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = next;
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gos_durations_are_read() {
        for (text, millis) in [
            ("300ms", 300),
            ("1m30s", 90_000),
            (".5s", 500),
            ("1h", 3_600_000),
            ("0", 0),
            ("2000\u{3bc}s", 2),
        ] {
            assert_eq!(parse(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "s", "1x", "-1s", "1.2.3s", "99999999999999999999h"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
