//! Times in end rules: as Go's durations, `300ms`, `5s`, `1m30s`, `0.5h`; where nothing else can be meant, also plain seconds.
//! Pure.

use std::time::Duration;

use soci_core::duration;

/// A duration; a bare number is seconds.
pub(super) fn seconds(text: &str) -> Option<Duration> {
    match text.parse() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => duration::parse(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_others_are_not() {
        let good = [("5s", 5000), ("300ms", 300), ("1m30s", 90_000), ("0.5h", 1_800_000), ("1.5s", 1500)];
        for (text, millis) in good {
            assert_eq!(duration::parse(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "s", "5x", "-5s", "5 s", "1.2.3s", ".s", "99999999999999999999h", "5s5"] {
            assert_eq!(duration::parse(text), None, "{text}");
        }
        assert_eq!(seconds("1.5"), Some(Duration::from_millis(1500)));
        assert_eq!((seconds("-1"), seconds("nan"), seconds("inf"), seconds("")), (None, None, None, None));
    }
}
