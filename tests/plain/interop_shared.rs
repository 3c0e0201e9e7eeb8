//! zTOCs of a larger image against the digests that upstream printed for it.
//!
//! Reads the golden cases in the folder `golden` of the reference material, which `SOCI_SHARED` names. Only built with
//! the feature `shared`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use soci_core::digest::Digest;
use soci_core::ztoc::{BuildOptions, Built, DEFAULT_SPAN_SIZE, Ztoc, build_gzip};

fn golden() -> PathBuf {
    let shared = std::env::var_os("SOCI_SHARED").expect("SOCI_SHARED names the reference material");
    PathBuf::from(shared).join("golden")
}

/// What upstream said: (layer, span size) -> zTOC, and the layers that need no extended attributes.
#[derive(Default)]
struct Said {
    ztocs: BTreeMap<(Digest, u64), Digest>,
    without_xattrs: BTreeSet<Digest>,
    judged: BTreeSet<Digest>,
}

fn read_case(path: &Path, said: &mut Said) {
    let case: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let mut optimised = false;
    for command in case["commands"].as_array().into_iter().flatten() {
        let words: Vec<&str> = command["cmd"].as_str().unwrap_or_default().split(' ').collect();
        let after = |word: &str| {
            let at = words.iter().position(|candidate| *candidate == word)?;
            words.get(at + 1).copied()
        };
        optimised |= after("--optimizations") == Some("xattr");
        // Cases of wrong usage have sizes that are no numbers.
        let Ok(span_size) = after("--span-size").map_or(Ok(DEFAULT_SPAN_SIZE), str::parse) else { continue };
        for line in command["stdout"].as_str().unwrap_or_default().lines() {
            let words: Vec<&str> = line.split(' ').collect();
            if let ["layer", layer, "->", "ztoc", ztoc] = words[..] {
                said.ztocs.insert((layer.parse().unwrap(), span_size), ztoc.parse().unwrap());
            }
        }
    }
    for blob in case["blobs"].as_array().into_iter().flatten().filter(|_| optimised) {
        let manifest: Value =
            serde_json::from_str(blob["json"].as_str().unwrap_or("null")).unwrap_or_default();
        for descriptor in manifest["layers"].as_array().into_iter().flatten() {
            let annotations = &descriptor["annotations"];
            let Some(layer) = annotations["com.amazon.soci.image-layer-digest"].as_str() else { continue };
            let layer = layer.parse().unwrap();
            said.judged.insert(layer);
            if annotations["com.amazon.soci.disable-xattrs"] == "true" {
                said.without_xattrs.insert(layer);
            }
        }
    }
}

fn build(layer: Digest, span_size: u64) -> Option<Built> {
    let path = golden().join("image-small/blobs/sha256").join(layer.hex());
    let file = fs::File::open(path).ok()?;
    Some(build_gzip(file, &BuildOptions { span_size, ..BuildOptions::default() }).unwrap())
}

#[test]
fn same_digests_as_upstream() {
    let mut said = Said::default();
    for entry in fs::read_dir(golden()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "json") {
            read_case(&path, &mut said);
        }
    }
    let mut compared = 0;
    for ((layer, span_size), ztoc) in said.ztocs {
        let Some(built) = build(layer, span_size) else { continue };
        assert_eq!(built.layer_digest, layer);
        assert_eq!(built.ztoc_digest, ztoc, "{layer} at {span_size}");
        if said.judged.contains(&layer) {
            assert_eq!(built.xattrs_present, !said.without_xattrs.contains(&layer), "{layer}");
        }
        Ztoc::open(built.ztoc.into()).unwrap();
        compared += 1;
    }
    assert!(compared >= 16, "only {compared} zTOCs compared");
}
