//! What the directories look like that a layer only implies: as in the layers below it, where it is mounted.
//!
//! One layer may lie on different ones, so this belongs to a mount and not to the layer. Read once, never changes.

use std::collections::HashMap;
use std::path::PathBuf;

use soci_core::digest::Digest;
use soci_core::tree::LayerTree;
use soci_core::unpack::{Below, DirectoryAttributes, UnpackError};
use soci_core::ztoc::FileEntry;

/// Attributes of implied directories, by their numbers in the layer's tree.
#[derive(Debug, Default)]
pub struct Inherited(HashMap<u32, DirectoryAttributes>);

impl Inherited {
    /// What the layers at `below`, nearest first, say. They must be unpacked or mounted.
    pub fn read(tree: &LayerTree, files: &[FileEntry], below: &[PathBuf]) -> Result<Self, UnpackError> {
        let mut known = HashMap::new();
        if tree.implies_directories() && !below.is_empty() {
            let below = Below::open(below)?;
            tree.each_implied(files, |number, path| {
                let found = below.directory(path)?;
                // What is not there has nothing below it.
                let is_there = found.is_some();
                known.extend(found.map(|attributes| (number, attributes)));
                Ok::<_, UnpackError>(is_there)
            })?;
        }
        Ok(Self(known))
    }

    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Another one if it says something else.
    pub fn digest(&self) -> Digest {
        let mut all: Vec<_> = self.0.iter().collect();
        all.sort_by_key(|(number, _)| **number);
        Digest::of(format!("{all:?}").as_bytes())
    }

    /// The attributes of one.
    pub fn get(&self, number: u32) -> Option<&DirectoryAttributes> {
        self.0.get(&number)
    }

    /// Whether one of them has extended attributes.
    pub fn has_xattrs(&self) -> bool {
        self.0.values().any(|attributes| !attributes.xattrs.is_empty())
    }
}
