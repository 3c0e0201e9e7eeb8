//! Times in end rules: numbers with units, `300ms`, `5s`, `1m30s`, `0.5h`. Pure.

use std::time::Duration;

/// Reads a time, each number of which has a unit (`ms`, `s`, `m` or `h`).
pub(super) fn with_units(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let seconds = match unit {
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

/// As [`with_units`]; a bare number is seconds.
pub(super) fn seconds(text: &str) -> Option<Duration> {
    match text.parse() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => with_units(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_others_are_not() {
        let good = [("5s", 5000), ("300ms", 300), ("1m30s", 90_000), ("0.5h", 1_800_000), ("1.5s", 1500)];
        for (text, millis) in good {
            assert_eq!(with_units(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "s", "5x", "-5s", "5 s", "1.2.3s", ".s", "99999999999999999999h", "5s5"] {
            assert_eq!(with_units(text), None, "{text}");
        }
        assert_eq!(seconds("1.5"), Some(Duration::from_millis(1500)));
        assert_eq!((seconds("-1"), seconds("nan"), seconds("inf"), seconds("")), (None, None, None, None));
    }
}
