//! The local store as the commands see it: `<root>/content` and `<root>/artifacts`.
//!
//! The directories are the state, shared with the snapshotter.

use std::{fs, io::ErrorKind, os::unix::fs::DirBuilderExt, str::FromStr};

use anyhow::{Context, Result, bail};
use soci_core::{
    digest::Digest,
    store::{Artifact, ArtifactKind, Artifacts, LayoutStore, StoreError},
};

use crate::cli::Global;

/// Which content store is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ContentStore {
    /// Our own, below the root directory.
    Soci,
}

impl FromStr for ContentStore {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "soci" => Ok(Self::Soci),
            "containerd" => Err("the containerd content store is not supported yet; use soci".into()),
            other => Err(format!("unknown content store type: {other}; must be one of [soci containerd]")),
        }
    }
}

/// The store and its records.
#[derive(Debug, Clone)]
pub(crate) struct Root {
    pub(crate) content: LayoutStore,
    pub(crate) artifacts: Artifacts,
}

impl Root {
    /// Opens the store; makes the root directory (mode 0700) if it is missing, but not its parents.
    pub(crate) fn open(global: &Global) -> Result<Self> {
        let ContentStore::Soci = global.content_store;
        let root = global.store_root();
        match fs::DirBuilder::new().mode(0o700).create(root) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("mkdir {}", root.display()));
            }
            _ => {}
        }
        Ok(Self { content: LayoutStore::open(&root.join("content"))?, artifacts: Artifacts::open(root)? })
    }

    /// The records of one kind, sorted by digest.
    pub(crate) fn list(&self, kind: ArtifactKind) -> Result<Vec<Artifact>> {
        let mut records = self.artifacts.list()?;
        records.retain(|artifact| artifact.kind == kind);
        Ok(records)
    }

    /// The indexes, newest first.
    pub(crate) fn indexes(&self) -> Result<Vec<Artifact>> {
        let mut records = self.list(ArtifactKind::SociIndex)?;
        records.sort_by_key(|artifact| std::cmp::Reverse(artifact.created_at));
        Ok(records)
    }

    /// The record of a digest.
    pub(crate) fn record(&self, digest: &Digest) -> Result<Artifact> {
        match self.artifacts.get(digest) {
            Err(StoreError::NotFound(_)) => bail!("couldn't retrieve artifact for {digest}, not found"),
            record => Ok(record?),
        }
    }
}

/// Reads a digest from the command line; a missing one is no digest either.
pub(crate) fn digest(text: Option<&str>) -> Result<Digest> {
    text.and_then(|text| text.parse().ok()).context("invalid checksum digest format")
}
