//! Lists of manifests (image indexes, lists of referrers) with each entry as it is written.
//!
//! Owns nothing: all of it lies in the text that was read. What must always hold: an entry of another tool's that we cannot
//! read spoils no list, and stays in it byte by byte when the list is written again; so does every field that we do not know.

use serde::de::IgnoredAny;

use super::Descriptor;
use crate::digest::Digest;
use crate::json;

/// Entries of one list at most.
pub(crate) const MAX_ENTRIES: usize = 65_536;
/// Fields of a list beside its entries at most.
const MAX_FIELDS: usize = 100;

/// The name of the field with the entries.
const ENTRIES: &str = "manifests";

/// A JSON object whose field `manifests` is a list.
#[derive(Debug)]
pub(crate) struct List<'a> {
    /// Its fields, as they are written, without the entries.
    fields: Vec<(&'a str, &'a str)>,
    entries: Vec<&'a str>,
}

impl<'a> List<'a> {
    /// Reads a list. `None`: it is not one, or has more than [`MAX_ENTRIES`] entries. A list that is `null` is empty, as Go
    /// writes it; an object without the field is none.
    pub(crate) fn parse(raw: &'a [u8]) -> Option<Self> {
        let mut scan = Scan { text: std::str::from_utf8(raw).ok()?, at: 0 };
        let (mut fields, mut entries) = (Vec::new(), None);
        scan.take('{')?;
        while scan.peek()? != '}' {
            if !fields.is_empty() || entries.is_some() {
                scan.take(',')?;
            }
            let name = scan.value().filter(|name| name.starts_with('"'))?;
            scan.take(':')?;
            let value = scan.value()?;
            if serde_json::from_str::<String>(name).ok()? == ENTRIES {
                entries = Some(elements(value)?);
            } else {
                fields.push((name, value));
            }
            if fields.len() > MAX_FIELDS {
                return None;
            }
        }
        scan.take('}')?;
        scan.peek().is_none().then_some(Self { fields, entries: entries? })
    }

    /// The entries that are descriptors to us, in their order.
    pub(crate) fn descriptors(&self) -> Vec<Descriptor> {
        self.entries.iter().filter_map(|entry| serde_json::from_str(entry).ok()).collect()
    }

    /// The bytes of the list with `new` in front of its entries. Everything else stays as it was.
    pub(crate) fn with(&self, new: &[Descriptor]) -> Vec<u8> {
        let new = new.iter().map(|new| {
            String::from_utf8(json::to_vec(new).expect("descriptors always encode")).expect("JSON is UTF-8")
        });
        self.text(new.chain(self.entries.iter().map(|entry| (*entry).to_owned())))
    }

    /// The bytes of the list without the entries of a digest. `None`: there is none. Everything else stays as it was.
    pub(crate) fn without(&self, digest: &Digest) -> Option<Vec<u8>> {
        let is_meant =
            |entry: &str| serde_json::from_str(entry).is_ok_and(|entry: Descriptor| entry.digest == *digest);
        let rest = self.entries.iter().filter(|entry| !is_meant(entry)).map(|entry| (*entry).to_owned());
        let rest: Vec<String> = rest.collect();
        (rest.len() < self.entries.len()).then(|| self.text(rest.into_iter()))
    }

    fn text(&self, entries: impl Iterator<Item = String>) -> Vec<u8> {
        let entries: Vec<_> = entries.collect();
        let mut text = String::from("{");
        for (name, value) in &self.fields {
            text.extend([name, ":", value, ","]);
        }
        text.extend(["\"", ENTRIES, "\":[", &entries.join(","), "]}"]);
        text.into_bytes()
    }
}

/// The elements of a list, as they are written.
fn elements(text: &str) -> Option<Vec<&str>> {
    let mut elements = Vec::new();
    if text == "null" {
        return Some(elements);
    }
    let mut scan = Scan { text, at: 0 };
    scan.take('[')?;
    while scan.peek()? != ']' {
        if !elements.is_empty() {
            scan.take(',')?;
        }
        elements.push(scan.value()?);
        if elements.len() > MAX_ENTRIES {
            return None;
        }
    }
    Some(elements)
}

/// A place in a JSON text.
struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    /// The next character that is no white space.
    fn peek(&mut self) -> Option<char> {
        let rest = self.text.get(self.at..)?;
        let next = rest.find(|c| !matches!(c, ' ' | '\t' | '\r' | '\n'))?;
        self.at += next;
        rest[next..].chars().next()
    }

    fn take(&mut self, wanted: char) -> Option<()> {
        (self.peek()? == wanted).then(|| self.at += wanted.len_utf8())
    }

    /// The next value, as it is written.
    fn value(&mut self) -> Option<&'a str> {
        self.peek()?;
        let rest = self.text.get(self.at..)?;
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<IgnoredAny>();
        values.next()?.ok()?;
        let value = rest.get(..values.byte_offset())?;
        self.at += value.len();
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn digests(text: &str) -> Option<Vec<Digest>> {
        let list = List::parse(text.as_bytes())?;
        Some(list.descriptors().into_iter().map(|one| one.digest).collect())
    }

    #[test]
    fn what_cannot_be_read_spoils_nothing_and_stays() {
        let one = Digest::of(b"one");
        let odd = [
            r#"{"mediaType":"m", "digest":"sha512:00","size":1, "x":1e400}"#,
            "null",
            r#"{"digest":null,"size":-1}"#,
            r#"[[{"a":"]"}]]"#,
            r#""text \" , ]""#,
        ];
        let ours = format!(
            r#"{{"mediaType":null,"digest":"{one}","size":3,"annotations":{{"a":null,"b":"c"}},"urls":null,
                "platform":{{"os":"linux","architecture":"arm","variant":null,"os.version":null,"os.features":null}},
                "artifactType":null,"data":null,"new":[1,  2]}}"#
        );
        let text = format!(
            " {{ \"schemaVersion\":2,\n\"annotations\" : {{\"k\":\"<&>\"}},\"manifests\":[{}, {ours} ],\"later\":1.10}}\n",
            odd.join(" ,\n")
        );
        assert_eq!(digests(&text), Some(vec![one]));

        let list = List::parse(text.as_bytes()).unwrap();
        let new = Descriptor::new("a/b", Digest::of(b"new"), 9);
        let written = String::from_utf8(list.with(std::slice::from_ref(&new))).unwrap();
        let listed = String::from_utf8(json::to_vec(&new).unwrap()).unwrap();
        let entries = [&[listed.as_str()][..], &odd, &[&ours]].concat().join(",");
        let expected = format!(
            "{{\"schemaVersion\":2,\"annotations\":{{\"k\":\"<&>\"}},\"later\":1.10,\"manifests\":[{entries}]}}"
        );
        assert_eq!(written, expected);
        assert_eq!(digests(&written), Some(vec![new.digest, one]));
    }

    #[test]
    fn what_is_a_list_and_what_is_none() {
        for empty in [r#"{"manifests":null}"#, r#"{"manifests":[]}"#, "{\"manifests\" : [ ] }\r\n"] {
            assert_eq!(digests(empty), Some(Vec::new()), "{empty}");
        }
        for none in [
            "",
            "false",
            "null",
            "[]",
            "{}",
            "{\"manifests\":1}",
            "{\"manifests\":[1",
            "{\"manifests\":[1 2]}",
            "{\"manifests\":[]",
            "{\"manifests\":[]}x",
            "{\"manifests\":[],}",
            "{,\"manifests\":[]}",
            "{manifests:[]}",
            "{\"schemaVersion\":2}",
            "{\"errors\":[]}",
            "\u{feff}{\"manifests\":[]}",
        ] {
            assert_eq!(digests(none), None, "{none}");
        }
        let many = |n: usize| format!("{{\"manifests\":[{}]}}", vec!["{}"; n].join(","));
        assert!(digests(&many(MAX_ENTRIES)).is_some());
        assert!(digests(&many(MAX_ENTRIES + 1)).is_none());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_survived(text in r#"(\{|\}|\[|\]|,|:|"manifests"|"|null|1|\PC){0,24}"#) {
            if let Some(list) = List::parse(text.as_bytes()) {
                proptest::prop_assert!(List::parse(&list.with(&[])).is_some());
            }
        }
    }
}
