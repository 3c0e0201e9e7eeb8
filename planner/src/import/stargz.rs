//! stargz-snapshotter's record (`ctr-remote image optimize --record-out`): JSON objects, one a line, in the order of
//! first use: `path` (without a leading slash), `manifestDigest`, `layerIndex`.
//!
//! Holds no state. The layer is looked up anew, as the image may have been built again; entries of another manifest
//! are used all the same, and counted.

use serde::Deserialize;
use soci_core::digest::Digest;

use super::lines::Lines;
use super::{Collector, ImportError, Use};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    path: String,
    #[serde(default)]
    manifest_digest: Option<String>,
}

pub(super) fn read(
    lines: &mut Lines<'_>,
    manifest: Digest,
    out: &mut Collector<'_>,
) -> Result<(), ImportError> {
    let manifest = manifest.to_string();
    let mut place = 0;
    while let Some(line) = lines.next_path()? {
        let entry: Entry = serde_json::from_slice(&line)
            .map_err(|error| lines.wrong(format!("no entry of a stargz record: {error}")))?;
        if entry.manifest_digest.is_some_and(|digest| digest != manifest) {
            out.done.other_image += 1;
        }
        out.add(entry.path.as_bytes(), &Use::listed(place))?;
        place += 1;
    }
    Ok(())
}
