//! The root file system of an image on this machine: layers unpacked once each, and overlays of them.

mod cold;
mod layers;
mod overlay;
mod run_dir;
mod walk;

use std::io;
use std::path::PathBuf;

use soci_core::digest::{Digest, Hasher};
use soci_core::unpack::UnpackError;

pub use cold::forget_pages;
pub use layers::{LayerCache, Pruned, UnpackedLayer};
pub use overlay::Overlay;
pub use run_dir::RunDir;
pub(crate) use walk::each_file;

/// Why a root file system could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// The state directory could not be used.
    #[error("{action} {path}")]
    State {
        /// What was being done.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The blob of a layer could not be opened.
    #[error("cannot open layer {layer}")]
    Open {
        /// Chain id of the layer.
        layer: Digest,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A layer could not be unpacked.
    #[error("unpack layer {layer}")]
    Unpack {
        /// Chain id of the layer.
        layer: Digest,
        /// Why not.
        #[source]
        source: UnpackError,
    },
    /// An overlay could not be mounted.
    #[error("cannot mount overlay on {path}")]
    Mount {
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl RootfsError {
    fn state(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::State { action, path, source }
    }
}

/// The chain ids of an image's layers, lowest first: each names a layer together with all layers below it.
///
/// OCI image specification: the first is the diff id itself, each next the sha256 of `parent " " diff-id`.
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let id = match chain.last() {
            None => *diff_id,
            Some(parent) => {
                let mut hasher = Hasher::new();
                hasher.update(format!("{parent} {diff_id}").as_bytes());
                hasher.finish()
            }
        };
        chain.push(id);
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_ids_follow_the_specification() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let chain = chain_ids(&[a, b]);
        assert_eq!(chain, [a, Digest::of(format!("{a} {b}").as_bytes())]);
        assert!(chain_ids(&[]).is_empty());
    }
}
