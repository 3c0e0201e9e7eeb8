//! PAX extended header records and what they override, with the checks of Go's `archive/tar`.
//!
//! Owns no state. Invariant: a record set is accepted whole or refused whole.

use std::collections::BTreeMap;

use super::entry::{Entry, Mtime};

/// Records of one `x` header; the last of equal keys wins.
pub(super) type Records = BTreeMap<Vec<u8>, Vec<u8>>;

pub(super) const SPARSE_MAP: &[u8] = b"GNU.sparse.map";

/// Parses the body of an `x` header: records `LENGTH KEY=VALUE\n`, LENGTH counting the whole record.
pub(super) fn parse(mut body: &[u8]) -> Result<Records, &'static str> {
    let mut records = Records::new();
    let mut sparse: Vec<&[u8]> = Vec::new();
    while !body.is_empty() {
        let (key, value, rest) = record(body)?;
        body = rest;
        if matches!(key, b"GNU.sparse.offset" | b"GNU.sparse.numbytes") {
            // Sparse format 0.0 repeats these two keys in turns; they are folded into format 0.1's one record.
            if sparse.len().is_multiple_of(2) != (key == b"GNU.sparse.offset") || value.contains(&b',') {
                return Err("sparse map records out of order");
            }
            sparse.push(value);
        } else {
            records.insert(key.to_vec(), value.to_vec());
        }
    }
    if !sparse.is_empty() {
        records.insert(SPARSE_MAP.to_vec(), sparse.join(&b','));
    }
    Ok(records)
}

/// Key and value of a record, and the bytes after it.
type Record<'a> = (&'a [u8], &'a [u8], &'a [u8]);

/// First record of `body`.
fn record(body: &[u8]) -> Result<Record<'_>, &'static str> {
    let space = body.iter().position(|&byte| byte == b' ').ok_or("record without length")?;
    let length = decimal(&body[..space]).ok_or("record length is not a number")?;
    let length = usize::try_from(length).map_err(|_| "record length is negative")?;
    if length < 5 || length > body.len() || length <= space + 1 {
        return Err("record length does not fit");
    }
    let (whole, rest) = body.split_at(length);
    let line = whole[space + 1..].strip_suffix(b"\n").ok_or("record does not end in a newline")?;
    let equals = line.iter().position(|&byte| byte == b'=').ok_or("record without '='")?;
    let (key, value) = (&line[..equals], &line[equals + 1..]);
    let text_value = matches!(key, b"path" | b"linkpath" | b"uname" | b"gname");
    if key.is_empty() || if text_value { value } else { key }.contains(&0) {
        return Err("record has no key, or a NUL");
    }
    Ok((key, value, rest))
}

/// Applies `records` to `entry` and keeps them in it. Empty values override nothing.
pub(super) fn apply(entry: &mut Entry, size: &mut i64, records: Records) -> Result<(), &'static str> {
    for (key, value) in records.iter().filter(|(_, value)| !value.is_empty()) {
        let number = || decimal(value).ok_or("record is not a number");
        match key.as_slice() {
            b"path" => entry.name.clone_from(value),
            b"linkpath" => entry.link_name.clone_from(value),
            b"uname" => entry.uname.clone_from(value),
            b"gname" => entry.gname.clone_from(value),
            b"uid" => entry.uid = number()?,
            b"gid" => entry.gid = number()?,
            b"size" => *size = number()?,
            b"mtime" => entry.mtime = time(value)?,
            b"atime" | b"ctime" => drop(time(value)?),
            _ => {}
        }
    }
    entry.pax = records;
    Ok(())
}

/// Where a PAX sparse file has its map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SparseMap {
    /// In the records (formats 0.0 and 0.1).
    Records,
    /// In front of the content (format 1.0).
    Content,
}

/// Whether the records describe a GNU sparse file.
pub(super) fn sparse_map(records: &Records) -> Option<SparseMap> {
    match (value(records, b"GNU.sparse.major"), value(records, b"GNU.sparse.minor")) {
        (b"0", b"0" | b"1") => Some(SparseMap::Records),
        (b"1", b"0") => Some(SparseMap::Content),
        (b"", b"") => (!value(records, SPARSE_MAP).is_empty()).then_some(SparseMap::Records),
        _ => None,
    }
}

/// Gives a sparse entry its own name, and the length of its file, if the records have them.
pub(super) fn apply_sparse(entry: &mut Entry, size: &mut i64) -> Result<(), &'static str> {
    let of = |key| value(&entry.pax, key);
    let length =
        [of(b"GNU.sparse.size"), of(b"GNU.sparse.realsize")].into_iter().find(|text| !text.is_empty());
    if let Some(length) = length {
        *size = decimal(length).ok_or("length of a sparse file is not a number")?;
    }
    let name = of(b"GNU.sparse.name");
    if !name.is_empty() {
        entry.name = name.to_vec();
    }
    Ok(())
}

/// The value of a record; empty when there is none.
pub(super) fn value<'a>(records: &'a Records, key: &[u8]) -> &'a [u8] {
    records.get(key).map_or(&[][..], Vec::as_slice)
}

/// Decimal number with optional sign that fits 64 bits.
pub(super) fn decimal(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Seconds with an optional fraction, cut to nanoseconds; the fraction of `-1.5` counts backwards too.
fn time(text: &[u8]) -> Result<Mtime, &'static str> {
    let (whole, fraction) = match text.iter().position(|&byte| byte == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &[][..]),
    };
    let secs = decimal(whole).ok_or("time is not a number")?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err("fraction of a time is not a number");
    }
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nanos = digits.fold(0_i32, |nanos, digit| nanos * 10 + i32::from(digit - b'0'));
    if whole.starts_with(b"-") && nanos != 0 {
        let secs = secs.checked_sub(1).ok_or("time overflows")?;
        return Ok(Mtime { secs, nanos: 1_000_000_000 - nanos });
    }
    Ok(Mtime { secs, nanos })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_follow_the_format() {
        let records = parse(b"12 path=a/b\n30 mtime=1350244992.023960108\n7 k=v=\n").unwrap();
        assert_eq!(records[b"path".as_slice()], b"a/b");
        assert_eq!(records[b"k".as_slice()], b"v=");
        // The cases of Go's own test table for malformed records.
        for bad in [
            "11 path=a/b\n0",
            "6 k=v\n\n",
            "0 k=v\n",
            "+0000005 a=\n",
            "6 k=\n",
            "5 a=\n ",
            "100 k=v\n",
            "k=v\n",
            "6 k~v\n",
            "6 =v1\n",
            "3 somelongkey=\n",
            "50 tooshort=\n",
            "13 path=a\0b!\n",
            "8 k\0=vv\n",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sparse_0_0_pairs_become_one_record() {
        let body = b"23 GNU.sparse.offset=0\n25 GNU.sparse.numbytes=5\n";
        let records = parse(body).unwrap();
        assert_eq!(records[SPARSE_MAP], b"0,5");
        assert_eq!(sparse_map(&records), Some(SparseMap::Records));
        assert!(parse(b"25 GNU.sparse.numbytes=5\n").is_err());
    }

    #[test]
    fn times() {
        let at = |secs, nanos| Ok(Mtime { secs, nanos });
        assert_eq!(time(b"1350244992.023960108"), at(1_350_244_992, 23_960_108));
        assert_eq!(time(b"1350244992.02396010899"), at(1_350_244_992, 23_960_108));
        assert_eq!(time(b"1."), at(1, 0));
        assert_eq!(time(b"-1.5"), at(-2, 500_000_000));
        assert_eq!(time(b"-0.25"), at(-1, 750_000_000));
        assert_eq!(time(b"-3"), at(-3, 0));
        for bad in [&b""[..], b".5", b"1.2.3", b"1.-5", b"x", b"-9223372036854775808.5"] {
            assert!(time(bad).is_err(), "{bad:?}");
        }
    }
}
