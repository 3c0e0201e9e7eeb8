//! JSON: manifests, indexes, prefetch artifacts, and what is shown of them.

use bytes::Bytes;
use soci_core::image::{ImageConfig, ImageIndex, Manifest};
use soci_core::index::SociIndex;
use soci_core::prefetch::PrefetchArtifact;
use soci_core::units::SpanId;
use soci_core::{json, media_type};

use crate::refused;

fn nested(depth: usize) -> Vec<u8> {
    format!("{{\"schemaVersion\":2,\"x\":{}{}}}", "[".repeat(depth), "]".repeat(depth)).into_bytes()
}

fn index(bytes: &[u8]) -> Result<ImageIndex, soci_core::image::ManifestError> {
    ImageIndex::parse(Bytes::copy_from_slice(bytes), media_type::OCI_INDEX)
}

#[test]
fn deep_nesting() {
    refused("json-depth", || nested(100_000), index);
    refused("json-depth", || nested(100_000), |bytes| SociIndex::parse(Bytes::copy_from_slice(bytes)));
    refused("json-depth", || nested(100_000), ImageConfig::parse);
    refused("json-depth", || nested(100_000), json::indent);
}

#[test]
fn more_blanks_than_text() {
    let make = || {
        let values = vec!["0"; 1 << 20].join(",");
        format!("{}{values}{}", "[".repeat(120), "]".repeat(120)).into_bytes()
    };
    refused("json-output", make, json::indent);
}

#[test]
fn many_small_values() {
    let make =
        || format!("{{\"schemaVersion\":2,\"manifests\":[{}]}}", vec!["{}"; 2 << 20].join(",")).into_bytes();
    refused("json-values", make, index);
    let make = || format!("{{\"config\":{{\"Env\":[{}]}}}}", vec!["\"\""; 2 << 20].join(",")).into_bytes();
    refused("json-values", make, ImageConfig::parse);
}

#[test]
fn a_list_that_nobody_reads() {
    let list = vec!["{\"ranges\":[[0,1]]}"; 160_000].join(",");
    let text = Bytes::from(format!("{{\"schemaVersion\":2,\"manifests\":[{list}]}}"));
    let _one = crate::ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    assert!(crate::measured(text.len(), || SociIndex::parse(text.clone())).is_err());
}

#[test]
fn more_layers_than_any_image_has() {
    let digest = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
    let blob = format!("{{\"digest\":\"{digest}\",\"size\":2}}");
    let make = || {
        let layers = vec![blob.as_str(); 50_000].join(",");
        format!("{{\"schemaVersion\":2,\"config\":{blob},\"layers\":[{layers}]}}").into_bytes()
    };
    let open = |bytes: &[u8]| Manifest::parse(Bytes::copy_from_slice(bytes), media_type::OCI_MANIFEST);
    refused("manifest-layers", make, open);
}

#[test]
fn prefetch_artifacts_of_millions_of_ranges() {
    let artifact =
        |spans: String| format!("{{\"version\":\"1.0\",\"prefetch_spans\":[{spans}]}}").into_bytes();
    let open = |bytes: &[u8]| PrefetchArtifact::parse(bytes, SpanId(9));
    refused("prefetch-ranges", || artifact(vec!["{}"; 5 << 20].join(",")), open);
    let ranges = || artifact(format!("{{\"ranges\":[{}]}}", vec!["[0,1]"; 2 << 20].join(",")));
    refused("prefetch-ranges", ranges, open);
    // As many as may be cost no more than they pay for.
    let _one = crate::ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let most = artifact(vec!["{}"; 1 << 20].join(","));
    assert_eq!(crate::measured(most.len(), || open(&most)).unwrap().prefetch_spans.len(), 1 << 20);
}
