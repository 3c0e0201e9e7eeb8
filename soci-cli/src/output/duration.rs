//! Durations as Go writes and reads them.

use std::time::Duration;

/// Whole seconds as Go prints a rounded duration: `0s`, `1m5s`, `26h3m0s`.
pub(crate) fn seconds(duration: Duration) -> String {
    let total = duration.as_secs() + u64::from(duration.subsec_nanos() >= 500_000_000);
    let (hours, minutes, seconds) = (total / 3600, total / 60 % 60, total % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// Reads a Go duration, such as `1m30s`. A bare number is seconds.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().map(Duration::try_from_secs_f64);
    seconds
        .map_or_else(|| soci_core::duration::parse(text), Result::ok)
        .ok_or_else(|| format!("invalid duration {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_look_like_gos() {
        for (ns, want) in
            [(0u64, "0s"), (499, "0s"), (1_500, "2s"), (65_000, "1m5s"), (93_780_000, "26h3m0s")]
        {
            assert_eq!(seconds(Duration::from_millis(ns)), want);
        }
    }

    #[test]
    fn gos_durations_are_read() {
        for (text, millis) in [("0", 0), ("300ms", 300), ("1m30s", 90_000), ("0.5s", 500), ("1h", 3_600_000)]
        {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "1x", "-1s", "1.2.3s", "99999999999999999999h"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
