//! JSON: manifests, indexes, configurations, prefetch artifacts, and their indented text.
//!
//! Owns nothing.

use bytes::Bytes;

use super::{Seed, bounded};
use crate::image::{ImageConfig, ImageIndex, Manifest};
use crate::index::SociIndex;
use crate::prefetch::PrefetchArtifact;
use crate::prefetch::artifact::MAX_BYTES;
use crate::units::SpanId;
use crate::{json, media_type};

/// Manifests, indexes and configurations that are read can be written, and read again as the same.
pub fn index_json(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    let length = bytes.len();
    if let Ok(index) = bounded(length, || SociIndex::parse(bytes.clone())) {
        let written = index.encode();
        assert_eq!(SociIndex::parse(Bytes::from(written)).expect("it was written just now"), index);
    }
    let _ = bounded(length, || Manifest::parse(bytes.clone(), media_type::OCI_MANIFEST));
    let _ = bounded(length, || ImageIndex::parse(bytes.clone(), media_type::OCI_INDEX));
    let _ = bounded(length, || ImageConfig::parse(&bytes));
    json_indent(&bytes);
}

/// An artifact that is read names spans of the layer, and survives writing and reading.
pub fn prefetch_json(bytes: &[u8]) {
    let Some((&last, json)) = bytes.split_first() else { return };
    let last = SpanId(u32::from(last));
    let Ok(artifact) = bounded(json.len(), || PrefetchArtifact::parse(json, last)) else { return };
    for range in &artifact.prefetch_spans {
        assert!(range.start_span <= range.end_span && range.end_span <= last.0);
    }
    // What is left out of the text is written down: many short ranges may be too long then.
    let written = artifact.encode();
    if written.len() <= MAX_BYTES {
        let again = PrefetchArtifact::parse(&written, last).expect("it was written just now");
        assert_eq!(again, artifact);
    }
}

/// Indented JSON says the same, and indenting it again changes nothing.
pub fn json_indent(bytes: &[u8]) {
    let Ok(indented) = bounded(bytes.len(), || json::indent(bytes)) else { return };
    let dense = |json: &[u8]| json.iter().filter(|byte| !byte.is_ascii_whitespace()).count();
    assert_eq!(dense(bytes), dense(&indented));
    // What was just below a limit may be over it when blanks are counted as input: then it is an error, never other text.
    if let Ok(again) = json::indent(&indented) {
        assert_eq!(again, indented);
    }
}

/// JSON of few pieces that are repeated and nested, given to every parser of documents.
pub fn json_shapes(bytes: &[u8]) {
    const PIECES: [&str; 12] = [
        "[",
        "{\"a\":",
        "]",
        "}",
        "0,",
        "{},",
        "\"\",",
        "\"k\":\"\",",
        "[0,1],",
        "{\"ranges\":[[0,1]]},",
        "{\"digest\":\"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a\",\"size\":1},",
        "{\"urls\":[\"\",\"\",\"\"],\"annotations\":{\"\":\"\"}},",
    ];
    const FRAMES: [(&str, &str); 6] = [
        ("", ""),
        ("{\"schemaVersion\":2,\"manifests\":[", "]}"),
        ("{\"schemaVersion\":2,\"x\":", "}"),
        ("{\"config\":{\"Env\":[", "]}}"),
        ("{\"version\":\"1.0\",\"prefetch_spans\":[", "]}"),
        ("{\"schemaVersion\":2,\"annotations\":{", "}}"),
    ];
    let mut seed = Seed(bytes);
    let (open, close) = FRAMES[seed.below(FRAMES.len())];
    let (mut text, mut ends) = (open.to_owned(), Vec::new());
    for _ in 0..seed.below(6) {
        let piece = PIECES[seed.below(PIECES.len())];
        let times = seed.count().min((4 << 20) / piece.len());
        text.push_str(&piece.repeat(times));
        match piece {
            "[" => ends.push("]".repeat(times)),
            "{\"a\":" => ends.push("}".repeat(times)),
            _ => {}
        }
    }
    // A list ends without a comma.
    if text.ends_with(',') {
        text.pop();
    }
    text.extend(ends.into_iter().rev());
    text.push_str(close);
    index_json(text.as_bytes());
    prefetch_json(&[&[9], text.as_bytes()].concat());
}
