//! Which layers of an image are served in parts. Holds no state.

use super::SociIndex;
use crate::{image::Descriptor, media_type};

/// What tells which layers of an image are served in parts.
#[derive(Debug, Clone, Copy)]
pub struct InParts<'a> {
    /// The image's SOCI index.
    pub index: &'a SociIndex,
    /// The bundle of its fine tables, if it has one; it may have layers that are not in the index.
    pub fine_tables: Option<&'a Descriptor>,
}

/// The bundle of tables among the blobs of a fine index.
pub fn fine_tables<'a>(blobs: impl IntoIterator<Item = &'a Descriptor>) -> Option<&'a Descriptor> {
    blobs.into_iter().find(|blob| blob.media_type == media_type::FINE_TABLES)
}
