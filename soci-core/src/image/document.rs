//! JSON documents of the OCI image specification, written as upstream's tool writes them, that lose nothing.
//!
//! Holds no state. What must always hold: the fields that the specification knows come first, in the order of its Go
//! structs, empty optional ones left out; what it does not know follows, sorted by name. So a document that upstream
//! would re-encode without loss gets the same bytes here.

use serde_json::{Map, Value};

use crate::json;

/// What a JSON value is by the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Manifest,
    Index,
    Descriptor,
    Platform,
    /// Nothing that has an order of its own: maps are sorted.
    Free,
}

/// Name, shape (of the elements, for a list), and whether an empty one is left out.
type Field = (&'static str, Shape, bool);

impl Shape {
    fn fields(self) -> &'static [Field] {
        use Shape::{Descriptor, Free, Platform};
        match self {
            Self::Manifest => &[
                ("schemaVersion", Free, false),
                ("mediaType", Free, true),
                ("artifactType", Free, true),
                ("config", Descriptor, false),
                ("layers", Descriptor, false),
                ("subject", Descriptor, true),
                ("annotations", Free, true),
            ],
            Self::Index => &[
                ("schemaVersion", Free, false),
                ("mediaType", Free, true),
                ("artifactType", Free, true),
                ("manifests", Descriptor, false),
                ("subject", Descriptor, true),
                ("annotations", Free, true),
            ],
            Self::Descriptor => &[
                ("mediaType", Free, false),
                ("digest", Free, false),
                ("size", Free, false),
                ("urls", Free, true),
                ("annotations", Free, true),
                ("data", Free, true),
                ("platform", Platform, true),
                ("artifactType", Free, true),
            ],
            Self::Platform => &[
                ("architecture", Free, false),
                ("os", Free, false),
                ("os.version", Free, true),
                ("os.features", Free, true),
                ("variant", Free, true),
            ],
            Self::Free => &[],
        }
    }
}

/// The bytes of an object of that shape.
pub(crate) fn encode(object: &Map<String, Value>, shape: Shape) -> Vec<u8> {
    let mut out = Vec::new();
    write_object(&mut out, object, shape);
    out
}

fn write(out: &mut Vec<u8>, value: &Value, shape: Shape) {
    match value {
        Value::Object(object) => write_object(out, object, shape),
        Value::Array(elements) => {
            out.push(b'[');
            for (at, element) in elements.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write(out, element, shape);
            }
            out.push(b']');
        }
        plain => out.extend(json::to_vec(plain).expect("plain values always encode")),
    }
}

fn write_object(out: &mut Vec<u8>, object: &Map<String, Value>, shape: Shape) {
    let known = shape.fields();
    let present = known.iter().filter_map(|&(name, shape, optional)| {
        let value = object.get(name)?;
        (!optional || !is_empty(value)).then_some((name, value, shape))
    });
    let mut others: Vec<(&str, &Value, Shape)> = object
        .iter()
        .filter(|(name, _)| !known.iter().any(|field| field.0 == name.as_str()))
        .map(|(name, value)| (name.as_str(), value, Shape::Free))
        .collect();
    others.sort_unstable_by_key(|(name, ..)| *name);
    out.push(b'{');
    for (at, (name, value, shape)) in present.chain(others).enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend(json::to_vec(name).expect("text always encodes"));
        out.push(b':');
        write(out, value, shape);
    }
    out.push(b'}');
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(elements) => elements.is_empty(),
        Value::Object(object) => object.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(text: &str, shape: Shape) -> String {
        let object: Map<String, Value> = serde_json::from_str(text).unwrap();
        String::from_utf8(encode(&object, shape)).unwrap()
    }

    #[test]
    fn known_fields_are_in_gos_order_and_others_follow() {
        let text = r#"{"x.new": {"b": 1, "a": "<"}, "annotations": {"z": "1", "a": "2"}, "manifests": [
            {"size": 3, "new": [true], "digest": "d", "mediaType": "", "urls": null, "artifactType": "t",
             "platform": {"os": "linux", "variant": "", "architecture": "arm", "os.features": []}}
        ], "subject": null, "schemaVersion": 2}"#;
        let manifest = r#"{"mediaType":"","digest":"d","size":3,"platform":{"architecture":"arm","os":"linux"},"artifactType":"t","new":[true]}"#;
        let want = format!(
            r#"{{"schemaVersion":2,"manifests":[{manifest}],"annotations":{{"a":"2","z":"1"}},"x.new":{{"a":"\u003c","b":1}}}}"#
        );
        assert_eq!(encoded(text, Shape::Index), want);
        assert_eq!(encoded(&want, Shape::Index), want, "encoding again changes nothing");
    }

    #[test]
    fn upstreams_own_bytes_stay() {
        for (bytes, shape) in [
            (&include_bytes!("../../../tests/golden/index-v1.json")[..], Shape::Manifest),
            (&include_bytes!("../../../tests/golden/index-v2.json")[..], Shape::Manifest),
        ] {
            let text = std::str::from_utf8(bytes).unwrap();
            assert_eq!(encoded(text, shape), text);
        }
    }
}
