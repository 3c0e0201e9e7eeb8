//! The place where artifacts are kept: an OCI image layout, or containerd's content store.
//!
//! Holds no state of its own. What must always hold: a reader checks the digest of what it reads; what is put into
//! containerd carries the labels by which containerd knows what it keeps alive.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
};

use bytes::Bytes;

use super::{LayoutStore, StoreError};
use crate::{
    containerd::Containerd,
    digest::{Digest, Hasher},
    image::{Descriptor, Manifest},
    parts::{Parts, read_part},
    units::ByteRange,
};

/// Label in front of what a blob keeps alive.
const GC_REF: &str = "containerd.io/gc.ref.content.";

/// A content store. Cloning it is cheap.
#[derive(Clone, Debug)]
pub enum ContentStore {
    /// An OCI image layout directory.
    Layout(LayoutStore),
    /// containerd's, in one namespace.
    Containerd(Containerd),
}

impl ContentStore {
    /// Stores bytes under their digest.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        self.put_labelled(bytes, BTreeMap::new())
    }

    /// Stores bytes that can be had again, without waiting for the disk: see [`LayoutStore::put_again`].
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn put_again(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        match self {
            Self::Layout(layout) => layout.put_again(bytes),
            Self::Containerd(_) => self.put(bytes),
        }
    }

    /// Stores a manifest or index that keeps alive what `labels` name ([`soci_index_labels`] and its like).
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_labelled(&self, bytes: &[u8], labels: BTreeMap<String, String>) -> Result<Digest, StoreError> {
        match self {
            Self::Layout(layout) => layout.put(bytes),
            Self::Containerd(containerd) => {
                let (it, bytes) = (containerd.clone(), Bytes::copy_from_slice(bytes));
                Ok(containerd.wait(async move { it.put_blob(bytes, labels).await })?)
            }
        }
    }

    /// Stores `head` and the first `length` bytes of `rest`, one behind the other, as one blob.
    ///
    /// # Errors
    /// When they cannot be read or written.
    pub fn put_parts(&self, head: Vec<u8>, rest: File, length: u64) -> Result<Digest, StoreError> {
        let total = head.len() as u64 + length;
        let parts = Parts::new(head, rest, length);
        match self {
            Self::Layout(layout) => {
                let mut writer = layout.writer()?;
                for part in parts {
                    let part = part.map_err(StoreError::io("read", layout.root()))?;
                    writer.write_all(&part).map_err(StoreError::io("write", layout.root()))?;
                }
                writer.commit(None)
            }
            Self::Containerd(containerd) => {
                let mut hasher = Hasher::new();
                for part in parts.again().map_err(StoreError::io("read", "a temporary file"))? {
                    hasher.update(&part.map_err(StoreError::io("read", "a temporary file"))?);
                }
                let (it, digest) = (containerd.clone(), hasher.finish());
                containerd.wait(async move { it.put_parts(digest, total, parts).await })?;
                Ok(digest)
            }
        }
    }

    /// The whole blob, its digest checked.
    ///
    /// # Errors
    /// When it is absent, unreadable, or its bytes are damaged.
    pub fn read(&self, digest: &Digest) -> Result<Bytes, StoreError> {
        self.read_at_most(digest, u64::MAX)
    }

    /// The whole blob, of which no more than `limit` bytes are read, its digest checked.
    ///
    /// # Errors
    /// When it is absent, larger, unreadable, or its bytes are damaged.
    pub fn read_at_most(&self, digest: &Digest, limit: u64) -> Result<Bytes, StoreError> {
        match self {
            Self::Layout(layout) => layout.read_at_most(digest, limit),
            Self::Containerd(containerd) => {
                let (it, wanted) = (containerd.clone(), *digest);
                let blob = containerd.wait(async move { it.blob(&wanted, limit).await })?;
                blob.ok_or(StoreError::NotFound(*digest))
            }
        }
    }

    /// Bytes `range` of a blob. Whoever knows their digest checks it.
    ///
    /// # Errors
    /// When the blob is absent or too short.
    pub fn read_range(&self, digest: &Digest, range: ByteRange) -> Result<Bytes, StoreError> {
        match self {
            Self::Layout(layout) => {
                let read = read_part(&layout.open_blob(digest)?, range);
                read.map_err(StoreError::io("read", layout.blob_path(digest)))
            }
            Self::Containerd(containerd) => {
                let (it, wanted) = (containerd.clone(), *digest);
                Ok(containerd.wait(async move { it.blob_range(&wanted, range).await })?)
            }
        }
    }

    /// Size of a blob in bytes; `None` when it is not there.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub fn size(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        match self {
            Self::Layout(layout) => {
                Ok(fs::metadata(layout.blob_path(digest)).ok().filter(fs::Metadata::is_file).map(|m| m.len()))
            }
            Self::Containerd(containerd) => {
                let (it, wanted) = (containerd.clone(), *digest);
                Ok(containerd.wait(async move { it.blob_size(&wanted).await })?)
            }
        }
    }

    /// Every blob with its size in bytes, in no order.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub fn blobs(&self) -> Result<Vec<(Digest, u64)>, StoreError> {
        match self {
            Self::Layout(layout) => layout.blobs(),
            Self::Containerd(containerd) => {
                let it = containerd.clone();
                Ok(containerd.wait(async move { it.blobs().await })?)
            }
        }
    }

    /// Lists a manifest that no other names. containerd has nothing of the kind: there, images name what is kept.
    ///
    /// # Errors
    /// When `index.json` cannot be changed.
    pub fn add_manifest(&self, manifest: Descriptor) -> Result<(), StoreError> {
        match self {
            Self::Layout(layout) => layout.add_manifest(manifest),
            Self::Containerd(_) => Ok(()),
        }
    }
}

/// The labels by which a SOCI index keeps its config, zTOCs and prefetch artifacts.
pub fn soci_index_labels(config: &Digest, layers: &[Descriptor]) -> BTreeMap<String, String> {
    labels("config", [config], "ztoc", layers)
}

/// The labels by which an image manifest keeps its config and layers.
pub fn manifest_labels(manifest: &Manifest) -> BTreeMap<String, String> {
    if crate::index::IndexVersion::of(&manifest.config.media_type).is_some() {
        return soci_index_labels(&manifest.config.digest, &manifest.layers);
    }
    labels("config", [&manifest.config.digest], "l", &manifest.layers)
}

/// The labels by which an image index keeps its manifests, also those that are not here.
pub fn image_index_labels(manifests: &[Descriptor]) -> BTreeMap<String, String> {
    labels("config", [], "m", manifests)
}

fn labels<'a>(
    one: &str,
    of: impl IntoIterator<Item = &'a Digest>,
    many: &str,
    named: &[Descriptor],
) -> BTreeMap<String, String> {
    let single = of.into_iter().map(|digest| (format!("{GC_REF}{one}"), digest.to_string()));
    let numbered =
        named.iter().enumerate().map(|(n, d)| (format!("{GC_REF}{many}.{n}"), d.digest.to_string()));
    single.chain(numbered).collect()
}

/// Label of an image in containerd that keeps its SOCI index alive.
pub const SOCI_INDEX_LABEL: &str = "containerd.io/gc.ref.content.soci-index";

/// The same for its fine indexes.
pub const FINE_INDEX_LABEL: &str = "containerd.io/gc.ref.content.soci-fine-index";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media_type;

    #[test]
    fn labels_name_what_is_kept() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let layers = [a, b].map(|digest| Descriptor::new(media_type::ZTOC, digest, 1));
        let labels = soci_index_labels(&Digest::of(b"{}"), &layers);
        assert_eq!(labels["containerd.io/gc.ref.content.config"], Digest::of(b"{}").to_string());
        assert_eq!(labels["containerd.io/gc.ref.content.ztoc.1"], b.to_string());
        assert_eq!(image_index_labels(&layers)["containerd.io/gc.ref.content.m.0"], a.to_string());
    }
}
