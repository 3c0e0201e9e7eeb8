//! Partial content: what a ranged request asks for, and whether an answer is that.
//!
//! Owns no state. Invariant: an answer is accepted only if its header says that its bytes are the wanted ones.

use http::header::{CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};

use super::error::RegistryError;
use super::reply::Reply;
use super::traffic::RequestKind;
use crate::units::ByteRange;

/// The bytes wanted from one request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Want {
    /// What they are wanted for.
    pub(super) kind: RequestKind,
    pub(super) start: u64,
    /// `None`: up to the end of the blob.
    pub(super) end: Option<u64>,
    pub(super) size: Option<u64>,
    pub(super) max_skip: u64,
}

/// What an answer brings: how much to throw away first, and where the blob's wanted part ends, if it says so.
pub(super) struct Accepted {
    pub(super) skip: u64,
    pub(super) end: Option<u64>,
    /// Whether a part came as a part; `None`: not a part was asked for, but the whole.
    pub(super) as_part: Option<bool>,
}

impl Want {
    pub(super) fn header(self) -> Option<HeaderValue> {
        let text = match self.end {
            None if self.start == 0 => return None,
            None => format!("bytes={}-", self.start),
            Some(end) => format!("bytes={}-{}", self.start, end.saturating_sub(1)),
        };
        HeaderValue::try_from(text).ok()
    }

    /// Accepts an answer only if its header says that its bytes are the wanted ones.
    pub(super) fn check(self, reply: &Reply) -> Result<Accepted, RegistryError> {
        let refuse = |reason: String| Err(RegistryError::protocol(reply.url(), reason));
        if let Some(encoding) = reply.header(CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
            return refuse(format!("content encoding {encoding} was not asked for"));
        }
        let length = reply.content_length();
        match reply.status() {
            StatusCode::PARTIAL_CONTENT => {
                let Some(sent) = reply.header(CONTENT_RANGE) else {
                    let media_type = reply.header(CONTENT_TYPE).unwrap_or_default();
                    return refuse(format!("partial content ({media_type}) without Content-Range"));
                };
                let Some((range, total)) = parse_content_range(sent) else {
                    return refuse(format!("invalid Content-Range {sent:?}"));
                };
                let end = self.end.or(total);
                let fits = range.start == self.start
                    && end.is_none_or(|end| end == range.end)
                    && self.size.is_none_or(|size| total.is_none_or(|total| total == size))
                    && length.is_none_or(|length| length == range.len());
                if !fits {
                    let wanted = ByteRange::new(self.start, self.end.unwrap_or(u64::MAX));
                    return refuse(format!("asked for {wanted}, got Content-Range {sent:?}"));
                }
                Ok(Accepted { skip: 0, end: Some(range.end), as_part: Some(true) })
            }
            StatusCode::OK => {
                if let (Some(length), Some(size)) = (length, self.size)
                    && length != size
                {
                    return refuse(format!("blob of {length} bytes, expected {size}"));
                }
                if self.start > self.max_skip {
                    return refuse("ranges are not supported by this server".to_owned());
                }
                if length.is_some_and(|length| length < self.start) {
                    return refuse("blob is shorter than before".to_owned());
                }
                // Some answer a request for all of a blob, as a range, as if it were none.
                let is_all = self.start == 0 && (self.end.is_none() || self.end == self.size);
                Ok(Accepted {
                    skip: self.start,
                    end: self.end.or(length),
                    as_part: (!is_all).then_some(false),
                })
            }
            status => refuse(format!("status {status} to a read")),
        }
    }
}

/// `bytes A-B/T`: the half-open range, and the total unless it is `*`.
pub(crate) fn parse_content_range(value: &str) -> Option<(ByteRange, Option<u64>)> {
    let (range, total) = value.trim().strip_prefix("bytes ")?.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    let total = if total == "*" { None } else { Some(number(total)?) };
    let end = last.checked_add(1).filter(|end| first < *end && total.is_none_or(|total| *end <= total))?;
    Some((ByteRange::new(first, end), total))
}

/// Decimal digits only: `parse` alone would take a sign.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_range_forms() {
        let range = |start, end| ByteRange::new(start, end);
        assert_eq!(parse_content_range("bytes 0-0/1"), Some((range(0, 1), Some(1))));
        assert_eq!(parse_content_range("bytes 5-9/*"), Some((range(5, 10), None)));
        for bad in [
            "",
            "bytes",
            "bytes */10",
            "bytes 9-5/10",
            "bytes 0-10/10",
            "items 0-1/2",
            "bytes +0-1/2",
            "bytes 0-1",
            "bytes -1/2",
            "bytes 0-18446744073709551615/*",
            "bytes 0-99999999999999999999/*",
        ] {
            assert_eq!(parse_content_range(bad), None, "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn content_range_is_read_as_written(start: u32, length in 1..u32::MAX, after: u32) {
            let (first, end) = (u64::from(start), u64::from(start) + u64::from(length));
            let total = end + u64::from(after);
            let parsed = parse_content_range(&format!("bytes {first}-{}/{total}", end - 1));
            proptest::prop_assert_eq!(parsed, Some((ByteRange::new(first, end), Some(total))));
        }

        #[test]
        fn any_content_range_is_survived(text in "(bytes |[0-9]{1,25}|-|/|\\*|\\PC){0,8}") {
            if let Some((range, _)) = parse_content_range(&text) {
                proptest::prop_assert!(!range.is_empty());
            }
        }
    }

    #[test]
    fn range_header_is_inclusive() {
        let want =
            |start, end| Want { kind: RequestKind::Range, start, end, size: None, max_skip: 0 }.header();
        assert_eq!(want(0, Some(1)), HeaderValue::try_from("bytes=0-0").ok());
        assert_eq!(want(7, None), HeaderValue::try_from("bytes=7-").ok());
        assert_eq!(want(0, None), None);
    }
}
