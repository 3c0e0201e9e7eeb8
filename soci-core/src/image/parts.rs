//! Parts of an image's blobs, and the whole of an image for copying it elsewhere.
//!
//! Holds no state. What must always hold: a range that was read has exactly the length asked for.

use std::path::PathBuf;

use bytes::{Bytes, BytesMut};

use super::{
    Descriptor, ImageError, ImageIndex, ImageSource, MAX_MANIFEST, Manifest,
    source::{Place, Root},
};
use crate::{digest::Digest, media_type, parts::read_part, registry::Content, units::ByteRange};

/// Memory taken for bytes because of their announced number alone.
const MAX_RESERVED: u64 = 16 << 20;

/// Everything an image's name stands for.
#[derive(Clone, Debug)]
pub struct WholeImage {
    /// The image index, unless the name points to a single manifest.
    pub index: Option<ImageIndex>,
    /// The manifests that are here; an index may name others that are not.
    pub manifests: Vec<Manifest>,
}

impl ImageSource {
    /// Bytes of a blob. Whoever knows their digest checks it.
    ///
    /// # Errors
    /// When the range is outside the blob, the blob is absent or cannot be read.
    pub async fn read_range(&self, blob: &Descriptor, range: ByteRange) -> Result<Bytes, ImageError> {
        if range.end > blob.size {
            return Err(ImageError::BlobSize { digest: blob.digest, expected: range.end, actual: blob.size });
        }
        let (file, start) = match &self.place {
            Place::Layout(store) => (store.open_blob(&blob.digest)?, 0),
            Place::Archive(archive) => {
                let member = archive.blob_range(&blob.digest)?;
                (archive.open_blob(&blob.digest)?.into_inner(), member.start)
            }
            Place::Containerd(containerd) => return Ok(containerd.blob_range(&blob.digest, range).await?),
            Place::Registry(repository) => {
                let mut body = repository.range_fetcher(blob.digest, blob.size).fetch(range).await?;
                let mut bytes = BytesMut::with_capacity(range.len().min(MAX_RESERVED) as usize);
                while let Some(chunk) = body.chunk().await? {
                    bytes.extend_from_slice(&chunk);
                }
                return Ok(bytes.freeze());
            }
        };
        read_part(&file, ByteRange::new(start + range.start, start + range.end))
            .map_err(|source| ImageError::Read { path: self.name.clone().into(), source })
    }

    /// A blob as the body of a push; `None` for an image that is in no file here.
    ///
    /// # Errors
    /// When the blob is absent.
    pub fn content(&self, blob: &Descriptor) -> Result<Option<Content>, ImageError> {
        match &self.place {
            Place::Layout(store) => {
                store.open_blob(&blob.digest)?;
                let path = store.blob_path(&blob.digest);
                Ok(Some(Content::File { path, part: ByteRange::new(0, blob.size) }))
            }
            Place::Archive(archive) => {
                let part = archive.blob_range(&blob.digest)?;
                Ok(Some(Content::File { path: archive.path().to_owned(), part }))
            }
            Place::Containerd(_) | Place::Registry(_) => Ok(None),
        }
    }

    /// What the name points to: its descriptor and bytes. Several manifests that only a layout's `index.json` holds
    /// together have no descriptor; they are given as an image index of their own. Entries whose manifests are not
    /// here stay.
    ///
    /// # Errors
    /// When the image is not found.
    pub async fn document(&self) -> Result<(Option<Descriptor>, Bytes), ImageError> {
        match self.root().await? {
            Root::Manifest(found) => Ok((Some(found.0), found.1.raw)),
            Root::List(Some(target), _) => {
                let raw = self.blob_of(&target, MAX_MANIFEST as u64).await?;
                Ok((Some(*target), raw))
            }
            Root::List(None, manifests) => Ok((None, ImageIndex::encode(&manifests).into())),
        }
    }

    /// Whether a blob of the image is here.
    ///
    /// # Errors
    /// When containerd or the registry does not answer.
    pub async fn has(&self, blob: &Descriptor) -> Result<bool, ImageError> {
        match &self.place {
            Place::Layout(store) => Ok(store.has(&blob.digest)),
            Place::Archive(archive) => Ok(archive.blob_range(&blob.digest).is_ok()),
            Place::Containerd(containerd) => Ok(containerd.blob_size(&blob.digest).await?.is_some()),
            Place::Registry(_) => Ok(true),
        }
    }

    /// The file that has the blob's bytes and nothing else, if there is one.
    pub fn file_of(&self, blob: &Digest) -> Option<PathBuf> {
        match &self.place {
            Place::Layout(store) => Some(store.blob_path(blob)),
            Place::Archive(_) | Place::Containerd(_) | Place::Registry(_) => None,
        }
    }

    /// The image index, if any, and every manifest that is here.
    ///
    /// # Errors
    /// When the image is not found or a manifest cannot be read.
    pub async fn whole(&self) -> Result<WholeImage, ImageError> {
        let (target, listed) = match self.root().await? {
            Root::Manifest(found) => return Ok(WholeImage { index: None, manifests: vec![found.1] }),
            Root::List(None, _) => return Err(ImageError::Ambiguous(self.name.clone())),
            Root::List(Some(target), listed) => (target, listed),
        };
        let raw = self.blob_of(&target, MAX_MANIFEST as u64).await?;
        let index = ImageIndex::parse(raw, &target.media_type)?;
        let mut manifests = Vec::new();
        for manifest in listed.iter().filter(|d| media_type::is_manifest(&d.media_type)) {
            match self.blob_of(manifest, MAX_MANIFEST as u64).await {
                Ok(raw) => manifests.push(Manifest::parse(raw, &manifest.media_type)?),
                Err(ImageError::NoBlob(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(WholeImage { index: Some(index), manifests })
    }
}
