//! `--dry-run`: everything is made as it would be, in a directory that goes with the command.
//!
//! A [`Rehearsal`] owns that directory. What must always hold: nothing reaches the stores, containerd or a registry.

use std::path::Path;

use anyhow::{Context, Result};
use soci_core::store::{Artifacts, ContentStore, LayoutStore};

use crate::{
    global::{Global, StoreChoice},
    output::scratch::Scratch,
};

/// A store for results that nobody keeps.
#[derive(Debug)]
pub(super) struct Rehearsal {
    dir: Scratch,
    pub(super) artifacts: Artifacts,
}

impl Rehearsal {
    /// Where temporary files go.
    pub(super) fn new() -> Result<Self> {
        let dir = Scratch::new_in(&std::env::temp_dir()).context("cannot make a temporary directory")?;
        let artifacts = Artifacts::open(dir.path())?;
        Ok(Self { dir, artifacts })
    }

    /// The store in it.
    pub(super) fn store(&self) -> Result<ContentStore> {
        Ok(ContentStore::Layout(LayoutStore::open(&self.path().join("content"))?))
    }

    /// The same flags, with this place as the root directory.
    pub(super) fn global(&self, global: &Global) -> Global {
        let mut global = global.clone();
        global.root = Some(self.path().to_owned());
        global.content_store = Some(StoreChoice::Soci);
        global
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }
}
