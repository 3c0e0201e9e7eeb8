//! How the build of an index ends. Holds no state.

use std::fmt::Write as _;

use super::{Companion, InParts, IndexVersion, LayerBuildError, SociIndex, fine_tables};
use crate::{
    digest::Digest,
    error::chain,
    image::{Descriptor, Image},
    prefetch::Plan,
    store::{Artifacts, ContentStore, StoreError},
};

/// What was built.
#[derive(Clone, Debug)]
pub struct BuildReport {
    /// The index.
    pub index: SociIndex,
    /// Its descriptor, with artifact type.
    pub descriptor: Descriptor,
    /// The companion with the fine indexes, if they were asked for. Its blobs are stored; so is it itself if the index is
    /// of version 1, while that of a version 2 index awaits its subject, the manifest that names the index.
    pub fine: Option<Companion>,
    /// What was planned for, if the settings had a plan or said how to make one.
    pub plan: Option<Plan>,
}

impl BuildReport {
    /// Which layers of the image are served in parts.
    pub fn in_parts(&self) -> InParts<'_> {
        let blobs = self.fine.iter().flat_map(|fine| &fine.layers);
        InParts { index: &self.index, fine_tables: fine_tables(blobs) }
    }

    /// Stores and records the companion of an index that is bound to its image by a subject. One that `convert` binds
    /// waits for the new manifest.
    pub(super) fn put_companion(
        &self,
        image: &Image,
        version: IndexVersion,
        store: &ContentStore,
        artifacts: &Artifacts,
    ) -> Result<Option<Descriptor>, StoreError> {
        let Some(fine) = self.fine.as_ref().filter(|_| version == IndexVersion::V1) else { return Ok(None) };
        fine.put(store, artifacts, &image.reference, &image.platform.to_string()).map(Some)
    }
}

/// Why no index was built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Nothing to index.
    #[error("no ztocs created, all layers either skipped or produced errors")]
    NoZtocs,
    /// Layers failed; all of them are named.
    #[error("errors encountered while building soci layers{}", texts(.0))]
    Layers(Vec<(Digest, LayerBuildError)>),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn texts(failures: &[(Digest, LayerBuildError)]) -> String {
    failures.iter().fold(String::new(), |mut text, (layer, error)| {
        let _ = write!(text, "; layer {layer}: {}", chain(error));
        text
    })
}
