//! Sizes on the command line, in the same forms for every flag. Holds no state.

/// Reads a number of bytes: `8388608`, `8M` and `8MiB` (of 1024), `8MB` (of 1000).
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!(
            "{text:?} is no size: give bytes (8388608), or a number with K, M, G, KiB, MiB, GiB, kB, MB or GB"
        )
    };
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "k" | "K" | "KiB" => 1 << 10,
        "m" | "M" | "MiB" => 1 << 20,
        "g" | "G" | "GiB" => 1 << 30,
        _ => return Err(wrong()),
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)).ok_or_else(wrong)
}

/// The same for flags that upstream takes any number for, and refuses later.
pub(crate) fn signed(text: &str) -> Result<i64, String> {
    match text.parse() {
        Ok(number) => Ok(number),
        Err(_) => parse(text).and_then(|size| i64::try_from(size).map_err(|error| error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_all_forms() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("17B", 17),
            ("3kB", 3000),
            ("8M", 8 << 20),
            ("8MiB", 8 << 20),
            ("8 MiB", 8 << 20),
            ("20MB", 20_000_000),
            ("1G", 1 << 30),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in ["", "%", "1.5MB", "-1", "20 mb", "99999999999GB", "MB", "8MiBs"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!((signed("-1"), signed("4M")), (Ok(-1), Ok(4 << 20)));
    }
}
