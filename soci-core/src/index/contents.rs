//! The digests of an image's files: what a profile follows a file by, from one build of an image to the next.
//!
//! Owns nothing. A build of an index takes them from the pass that it makes anyway; [`file_digests`] is for those who build none. What
//! must always hold: a digest is given only for a layer whose bytes have the digest that the manifest gives.

use tokio::runtime::Handle;

use super::{Event, LayerBuildError, Told, planned};
use crate::{
    digest::Digest,
    image::Image,
    prefetch::{ImageView, VisibleKind},
    tar::ContentDigests,
};

/// A regular file of an image, as a container sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileDigest {
    /// Path without a leading slash.
    pub path: Vec<u8>,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of its content.
    pub digest: Digest,
}

/// Reads all layers of an image once and gives its regular files, in no particular order. Sparse files are left out. Blocks; not to
/// be called on a thread that runs async tasks. `tell` hears of bytes that were read.
///
/// # Errors
/// When a layer cannot be read, is damaged, or is compressed in a way that cannot be read here.
pub fn file_digests(
    image: &Image,
    runtime: &Handle,
    tell: &(dyn Fn(Event<'_>) + Sync),
) -> Result<Vec<FileDigest>, LayerBuildError> {
    let mut layers = Vec::new();
    for layer in image.layers() {
        let bytes = Told { inner: planned::open(image, layer, None, runtime)?, blob: layer, tell };
        let walked = planned::walk(layer, bytes, true)?;
        layers.push((walked.files, walked.contents));
    }
    let view = ImageView::build(layers.iter().map(|(files, _)| files).enumerate());
    Ok(files(&view, |layer| layers.get(layer).map(|(_, contents)| contents)))
}

/// The regular files of an image whose layers have these contents.
pub(super) fn files<'a>(
    view: &ImageView,
    contents: impl Fn(usize) -> Option<&'a ContentDigests>,
) -> Vec<FileDigest> {
    let mut files = Vec::new();
    for (path, ..) in view.visible().filter(|(.., kind)| *kind == VisibleKind::File) {
        let Ok((_, located)) = view.find(&path) else { continue };
        let size = located.content.len();
        let digest = if size == 0 {
            Some(Digest::of(b""))
        } else {
            contents(located.layer).and_then(|contents| contents.get(&located.content.start)).copied()
        };
        files.extend(digest.map(|digest| FileDigest { path, size, digest }));
    }
    files
}
