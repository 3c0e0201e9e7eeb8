//! JSON in the exact form of Go's `encoding/json`, which the digests of SOCI artifacts depend on.
//!
//! Holds no state. Compact output has no white space, keeps struct order, sorts map keys (give it a `BTreeMap`)
//! and escapes `<`, `>`, `&`, U+2028 and U+2029. [`indent`] re-spaces existing JSON and changes nothing else.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};

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
/// When `raw` is not one JSON value.
pub fn indent(raw: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::from_slice::<serde::de::IgnoredAny>(raw)?;
    let mut out = Vec::with_capacity(raw.len() * 2);
    let mut depth = 0usize;
    let mut opened = false; // the last token was an opening bracket
    let mut bytes = raw.iter().copied().peekable();
    let line = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.resize(out.len() + 2 * depth, b' ');
    };
    while let Some(byte) = bytes.next() {
        if matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
            continue;
        }
        if opened && !matches!(byte, b']' | b'}') {
            line(&mut out, depth);
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
                    line(&mut out, depth);
                }
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                line(&mut out, depth);
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
}
