//! `soci record --prune`: gives back the disk that unpacked layers take. A layer in use by a recording stays.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use indicatif::HumanBytes;
use recorder::rootfs::{LayerCache, Pruned};
use serde_json::json;

/// Removes the layers below `state` that nobody uses.
pub(super) fn run(state: &Path, as_json: bool) -> Result<ExitCode> {
    let Pruned { layers, bytes, in_use } =
        if state.exists() { LayerCache::open(state, || Ok(()))?.prune()? } else { Pruned::default() };
    if as_json {
        out!("{}", json!({"layers": layers, "bytes": bytes, "in_use": in_use}));
    } else {
        out!("removed {layers} layers, {}; {in_use} are in use", HumanBytes(bytes));
    }
    Ok(ExitCode::SUCCESS)
}
