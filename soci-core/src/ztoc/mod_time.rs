//! Modification times as zTOCs write them: RFC 3339 texts.
//!
//! Owns no state. Invariant: writing is always in UTC, so that a layer has one zTOC whatever the machine's time
//! zone; reading takes any zone.

use crate::tar::Mtime;

const DAY: i64 = 86_400;

/// Days from 1970-01-01 to the first day of `month` (1..=12) of `year` in the proleptic Gregorian calendar.
fn days_before(year: i64, month: i64) -> i64 {
    // Years are counted from March, so that the leap day is the last one of a year.
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (153 * month + 2) / 5 - 719_468
}

/// The text of `time`: whole seconds, a fraction without trailing zeros if there is one, `Z`. Empty when the year
/// is not within 0..=9999, which RFC 3339 cannot say.
pub(super) fn format(time: Mtime) -> String {
    let (first, end) = (days_before(0, 1) * DAY, days_before(10_000, 1) * DAY);
    if !(first..end).contains(&time.secs) {
        return String::new();
    }
    let (day, second) = (time.secs.div_euclid(DAY), time.secs.rem_euclid(DAY));
    // The mean year has 365.2425 days, so this guess is the year or the one before or after it.
    let guess = 1970 + day * 400 / 146_097;
    let year = (guess - 1..=guess + 1).rfind(|&year| days_before(year, 1) <= day).unwrap_or(guess);
    let month = (1..=12).rfind(|&month| days_before(year, month) <= day).unwrap_or(1);
    let mut text = format!(
        "{year:04}-{month:02}-{:02}T{:02}:{:02}:{:02}",
        day - days_before(year, month) + 1,
        second / 3600,
        second / 60 % 60,
        second % 60
    );
    if time.nanos != 0 {
        text.push_str(format!(".{:09}", time.nanos).trim_end_matches('0'));
    }
    text.push('Z');
    text
}

/// The time that `text` means; `None` when it is no RFC 3339 time.
pub(super) fn parse(text: &[u8]) -> Option<Mtime> {
    let (date_time, rest) = text.split_at_checked(19)?;
    let number = |at: usize, length: usize, from: i64, to: i64| -> Option<i64> {
        let digits = date_time.get(at..at + length)?;
        two_or_more_digits(digits).filter(|value| (from..=to).contains(value))
    };
    let punctuation = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if punctuation.iter().any(|&(at, mark)| date_time[at] != mark) {
        return None;
    }
    let (year, month) = (number(0, 4, 0, 9999)?, number(5, 2, 1, 12)?);
    let month_end = if month == 12 { days_before(year + 1, 1) } else { days_before(year, month + 1) };
    let day = days_before(year, month) + number(8, 2, 1, 31)? - 1;
    if day >= month_end {
        return None;
    }
    let second = number(11, 2, 0, 23)? * 3600 + number(14, 2, 0, 59)? * 60 + number(17, 2, 0, 59)?;
    let (nanos, zone) = fraction(rest)?;
    Some(Mtime { secs: day * DAY + second - offset(zone)?, nanos })
}

/// Nanoseconds of an optional `.ddd` (more than nine digits are cut) and the text behind it.
fn fraction(text: &[u8]) -> Option<(i32, &[u8])> {
    let Some(digits) = text.strip_prefix(b".") else { return Some((0, text)) };
    let count = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if count == 0 {
        return None;
    }
    let padded = digits[..count].iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nanos = padded.fold(0, |nanos, digit| nanos * 10 + i32::from(digit - b'0'));
    Some((nanos, &digits[count..]))
}

/// Seconds east of UTC of `Z`, `+hh:mm` or `-hh:mm`.
fn offset(zone: &[u8]) -> Option<i64> {
    if zone == b"Z" {
        return Some(0);
    }
    let &[sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] = zone else { return None };
    let hours = two_or_more_digits(&[h1, h2]).filter(|&hours| hours < 24)?;
    let minutes = two_or_more_digits(&[m1, m2]).filter(|&minutes| minutes < 60)?;
    let seconds = hours * 3600 + minutes * 60;
    Some(if sign == b'-' { -seconds } else { seconds })
}

fn two_or_more_digits(digits: &[u8]) -> Option<i64> {
    digits
        .iter()
        .try_fold(0, |value, byte| byte.is_ascii_digit().then(|| value * 10 + i64::from(byte - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64, nanos: i32) -> Mtime {
        Mtime { secs, nanos }
    }

    #[test]
    fn known_texts() {
        for (time, text) in [
            (at(0, 0), "1970-01-01T00:00:00Z"),
            (at(1_700_000_000, 123_456_000), "2023-11-14T22:13:20.123456Z"),
            (at(-1, 500_000_000), "1969-12-31T23:59:59.5Z"),
            (at(951_782_400, 0), "2000-02-29T00:00:00Z"),
            (at(-62_135_596_800, 0), "0001-01-01T00:00:00Z"),
            (at(-62_167_219_200, 0), "0000-01-01T00:00:00Z"),
            (at(253_402_300_799, 999_999_999), "9999-12-31T23:59:59.999999999Z"),
        ] {
            assert_eq!(format(time), text);
            assert_eq!(parse(text.as_bytes()), Some(time));
        }
        assert_eq!(format(at(253_402_300_800, 0)), "");
        assert_eq!(format(at(i64::MIN, 0)), "");
        assert_eq!(parse(b"2023-11-14T23:13:20+01:00"), Some(at(1_700_000_000, 0)));
        assert_eq!(parse(b"2023-11-14T16:43:20-05:30"), Some(at(1_700_000_000, 0)));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "2023-11-14",
            "2023-11-14T22:13:20",
            "2023-11-14 22:13:20Z",
            "2023-02-29T00:00:00Z",
            "2023-13-01T00:00:00Z",
            "2023-11-14T24:00:00Z",
            "2023-11-14T22:13:20.Z",
            "2023-11-14T22:13:20+1:00",
            "2023-11-14T22:13:20ZZ",
            "+023-11-14T22:13:20Z",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn round_trip(secs in -62_167_219_200_i64..253_402_300_800, nanos in 0..1_000_000_000_i32) {
            proptest::prop_assert_eq!(parse(format(at(secs, nanos)).as_bytes()), Some(at(secs, nanos)));
        }
    }
}
