//! The files of the image that an import is bound to.
//!
//! Owns the merged view and an ordered list of its files. What must always hold: a file that is found is one that a
//! container of the image sees at that path, and its size and layer are those of the bytes it would read.

use std::collections::BTreeSet;
use std::sync::Arc;

use soci_core::prefetch::{ImageView, VisibleKind};
use soci_core::trace::LayerRef;

/// What an image shows.
#[derive(Debug)]
pub struct ImageFiles {
    view: ImageView,
    layers: Vec<LayerRef>,
    /// Paths of all files and links, without leading slashes.
    names: BTreeSet<Vec<u8>>,
}

/// A file of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Its own path, without a leading slash.
    pub(super) path: Arc<[u8]>,
    /// Number of the layer its bytes are in.
    pub(super) layer: u32,
    /// Its length.
    pub(super) size: u64,
}

impl ImageFiles {
    /// `view` numbers layers as `layers` lists them, lowest first.
    pub fn new(view: ImageView, layers: Vec<LayerRef>) -> Self {
        let leaf = |kind| matches!(kind, VisibleKind::File | VisibleKind::Symlink);
        let names = view.visible().filter(|(.., kind)| leaf(*kind)).map(|(path, ..)| path).collect();
        Self { view, layers, names }
    }

    pub(super) fn layers(&self) -> &[LayerRef] {
        &self.layers
    }

    /// The regular file at a path, links followed.
    pub(super) fn find(&self, path: &[u8]) -> Option<Found> {
        // Lists of other tools have slashes behind files, too.
        let named = path.iter().rposition(|&byte| byte != b'/').map_or(0, |last| last + 1);
        let (path, located) = self.view.find(&path[..named]).ok()?;
        Some(Found {
            path: path.into(),
            layer: u32::try_from(located.layer).ok()?,
            size: located.content.len(),
        })
    }

    /// The files below a directory (not through links), sorted. Empty when it is no directory.
    pub(super) fn below(&self, path: &[u8]) -> Vec<Vec<u8>> {
        let parts = path.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && *part != b".");
        let mut prefix = parts.collect::<Vec<_>>().join(&b'/');
        if !prefix.is_empty() {
            prefix.push(b'/');
        }
        let from = self.names.range(prefix.clone()..);
        let below = from.take_while(|name| name.starts_with(&prefix));
        below.filter(|name| self.find(name).is_some()).cloned().collect()
    }
}
