//! JSON in the exact form of Go's `encoding/json`, which the digests of SOCI artifacts depend on.
//!
//! Holds no state. What must always hold: JSON that others wrote passes [`check`] before anything is made of it, so neither its
//! nesting nor the number of its values takes memory out of proportion. Compact output has no white space, keeps struct order, sorts map keys (give it a `BTreeMap`)
//! and escapes `<`, `>`, `&`, U+2028 and U+2029. [`indent`] re-spaces existing JSON and changes nothing else.

use std::io::{self, Write};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::ser::{CompactFormatter, Formatter, Serializer};

use crate::budget::{Budget, OverLimit};

/// Limit: deepest nesting of a document; serde_json's own for typed values.
const DEPTH: Budget = Budget::new("json-depth", 128);
/// Limit: values of a document: separators and brackets. A list of 80 000 manifests has 700 000.
const VALUES: Budget = Budget::new("json-values", 1 << 20);
/// Limit: memory for a re-spaced document, by its length.
const OUTPUT: &str = "json-output";

/// Why JSON is not re-spaced.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// Not one JSON value.
    #[error(transparent)]
    Invalid(#[from] serde_json::Error),
    /// Too deep, or too much.
    #[error("JSON is refused: {0}")]
    OverLimit(#[from] OverLimit),
}

/// Go writes `null` for an empty list or map; read it as empty.
pub(crate) fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// What a document is made of, whether it is valid or not: how much a parser would make of it is known before it does.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Deepest nesting.
    pub depth: u64,
    /// Opening braces.
    pub objects: u64,
    /// Opening brackets.
    pub arrays: u64,
    /// Commas and colons.
    pub separators: u64,
}

impl Shape {
    /// Of `raw`, in one pass.
    pub fn of(raw: &[u8]) -> Self {
        let (mut shape, mut depth) = (Self::default(), 0_u64);
        let mut bytes = raw.iter();
        while let Some(byte) = bytes.next() {
            match byte {
                b'"' => {
                    while let Some(byte) = bytes.next() {
                        match byte {
                            b'"' => break,
                            b'\\' => drop(bytes.next()),
                            _ => {}
                        }
                    }
                }
                b'{' | b'[' => {
                    *(if *byte == b'{' { &mut shape.objects } else { &mut shape.arrays }) += 1;
                    depth += 1;
                    shape.depth = shape.depth.max(depth);
                }
                b'}' | b']' => depth = depth.saturating_sub(1),
                b',' | b':' => shape.separators += 1,
                _ => {}
            }
        }
        shape
    }
}

/// Looks at JSON from elsewhere before it is parsed.
///
/// # Errors
/// When it is nested deeper than any parser needs, or has more values than any document of its length that is meant to be
/// read.
pub fn check(raw: &[u8]) -> Result<(), OverLimit> {
    let shape = Shape::of(raw);
    { DEPTH }.spend(shape.depth)?;
    { VALUES }.spend(shape.objects + shape.arrays + shape.separators)
}

struct GoFormatter;

impl Formatter for GoFormatter {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(['<', '>', '&', '\u{2028}', '\u{2029}']) {
            let (plain, tail) = rest.split_at(at);
            CompactFormatter.write_string_fragment(writer, plain)?;
            let special = tail.chars().next().expect("find returned its position");
            write!(writer, "\\u{:04x}", u32::from(special))?;
            rest = &tail[special.len_utf8()..];
        }
        CompactFormatter.write_string_fragment(writer, rest)
    }
}

/// Encodes `value` as Go's `json.Marshal` would: compact, no trailing newline.
///
/// # Errors
/// Only those of the value's own `Serialize` (such as a map key that is not a string).
pub fn to_vec<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, serde_json::Error> {
    let mut out = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut out, GoFormatter))?;
    Ok(out)
}

/// Re-spaces valid JSON with two blanks for each level, as Go's `json.Indent` does. No trailing newline.
///
/// # Errors
/// When `raw` is not one JSON value, is nested too deeply, or would become too long.
pub fn indent(raw: &[u8]) -> Result<Vec<u8>, JsonError> {
    { DEPTH }.spend(Shape::of(raw).depth)?;
    serde_json::from_slice::<serde::de::IgnoredAny>(raw)?;
    let mut blanks = Budget::memory(OUTPUT, raw.len() as u64);
    // Three times all that is written: a vector that grows is copied into one of twice its length.
    blanks.spend_each(raw.len(), 6)?;
    let mut out = Vec::with_capacity(raw.len() * 2);
    let mut depth = 0usize;
    let mut opened = false; // the last token was an opening bracket
    let mut bytes = raw.iter().copied().peekable();
    let mut line = |out: &mut Vec<u8>, depth: usize| {
        blanks.spend_each(depth + 1, 6)?;
        out.push(b'\n');
        out.resize(out.len() + 2 * depth, b' ');
        Ok::<_, OverLimit>(())
    };
    while let Some(byte) = bytes.next() {
        if matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
            continue;
        }
        if opened && !matches!(byte, b']' | b'}') {
            line(&mut out, depth)?;
        }
        match byte {
            b'{' | b'[' => {
                depth += 1;
                opened = true;
                out.push(byte);
                continue;
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                if !opened {
                    line(&mut out, depth)?;
                }
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                line(&mut out, depth)?;
            }
            b':' => out.extend(b": "),
            b'"' => {
                out.push(byte);
                while let Some(byte) = bytes.next() {
                    out.push(byte);
                    match byte {
                        b'"' => break,
                        b'\\' => out.extend(bytes.next()),
                        _ => {}
                    }
                }
            }
            _ => out.push(byte),
        }
        opened = false;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped_as_go_does() {
        let text = "a<b>&\u{2028}\u{2029}\u{8}\u{c}\n\r\t\"\\/\u{1}\u{7f}é";
        let want = "\"a\\u003cb\\u003e\\u0026\\u2028\\u2029\\b\\f\\n\\r\\t\\\"\\\\/\\u0001\u{7f}é\"";
        assert_eq!(String::from_utf8(to_vec(text).unwrap()).unwrap(), want);
    }

    #[test]
    fn indent_equals_a_pretty_printer_and_keeps_tokens() {
        let raw = br#"{"b":[1,2.50,{"x":"a:{,}\"["}],"a":{},"c":[],"d":null}"#;
        let text = String::from_utf8(indent(raw).unwrap()).unwrap();
        let want = "{\n  \"b\": [\n    1,\n    2.50,\n    {\n      \"x\": \"a:{,}\\\"[\"\n    }\n  ],\n  \"a\": {},\n  \"c\": [],\n  \"d\": null\n}";
        assert_eq!(text, want);
        assert_eq!(String::from_utf8(indent(text.as_bytes()).unwrap()).unwrap(), want);
        assert!(indent(b"{\"a\":").is_err());
    }

    #[test]
    fn depth_and_values_are_counted_outside_of_texts() {
        let shape = Shape::of(br#"{"a\"[{":[1,[2,3],{"b":"]"}],"c":[]}"#);
        assert_eq!(shape, Shape { depth: 3, objects: 2, arrays: 3, separators: 7 });
        let nested = |depth: usize| ["[".repeat(depth), "]".repeat(depth)].concat();
        check(nested(128).as_bytes()).unwrap();
        assert_eq!(check(nested(129).as_bytes()).unwrap_err().limit, "json-depth");
        assert!(matches!(indent(nested(129).as_bytes()), Err(JsonError::OverLimit(_))));
        assert_eq!(check(&vec![b','; (1 << 20) + 1]).unwrap_err().limit, "json-values");
    }
}
