//! Companions: artifacts of ours beside an image, whose subject is the image manifest.
//!
//! Holds no state. A companion is an OCI image manifest with an artifact type and the empty config. It is never an entry of
//! a SOCI index: upstream downloads every entry of an index that it uses.

use std::collections::BTreeMap;

use super::{EMPTY_CONFIG, fine_tables, manifest::Wire};
use crate::{
    digest::Digest,
    image::{Descriptor, Manifest},
    media_type,
    store::{Artifact, ArtifactKind, Artifacts, ContentStore, StoreError, soci_index_labels},
};

/// What a companion is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompanionKind {
    /// The fine indexes of an image: the bundle of tables, then a blob of windows for each layer.
    FineIndex,
    /// A working-set pack: one blob.
    Pack,
    /// What a workload needs of the image: one document.
    Profile,
}

impl CompanionKind {
    /// Its artifact type.
    pub const fn artifact_type(self) -> &'static str {
        match self {
            Self::FineIndex => media_type::FINE_INDEX,
            Self::Pack => media_type::PACK,
            Self::Profile => media_type::PROFILE,
        }
    }

    /// The kind with this artifact type.
    pub fn of(artifact_type: &str) -> Option<Self> {
        [Self::FineIndex, Self::Pack, Self::Profile]
            .into_iter()
            .find(|kind| kind.artifact_type() == artifact_type)
    }

    /// Its kind in the records; profiles are files of the user's and are in none.
    pub(super) const fn record(self) -> Option<ArtifactKind> {
        match self {
            Self::FineIndex => Some(ArtifactKind::FineIndex),
            Self::Pack => Some(ArtifactKind::Pack),
            Self::Profile => None,
        }
    }
}

/// A companion manifest that is to be written.
#[derive(Clone, Debug)]
pub struct Companion {
    /// What it is.
    pub kind: CompanionKind,
    /// The image manifest.
    pub subject: Descriptor,
    /// Its blobs; they are in the store already.
    pub layers: Vec<Descriptor>,
    /// Its annotations; a list of referrers repeats them.
    pub annotations: BTreeMap<String, String>,
}

impl Companion {
    /// Bytes of the tables of a fine index, which a start downloads.
    pub(crate) fn tables_size(&self) -> u64 {
        fine_tables(&self.layers).map_or(0, |tables| tables.size)
    }

    /// Its bytes: the same for the same content.
    pub fn encode(&self) -> Vec<u8> {
        let wire = Wire::new(media_type::OCI_EMPTY, &self.layers, &self.annotations);
        let artifact_type = Some(self.kind.artifact_type());
        Wire { artifact_type, subject: Some(&self.subject), ..wire }.encode()
    }

    /// Its descriptor, as a list of referrers has it.
    pub fn descriptor(&self) -> Descriptor {
        let raw = self.encode();
        let mut descriptor = Descriptor::new(media_type::OCI_MANIFEST, Digest::of(&raw), raw.len() as u64);
        descriptor.artifact_type = Some(self.kind.artifact_type().to_owned());
        descriptor.annotations = self.annotations.clone();
        descriptor
    }

    /// Puts it into the store, with a record unless it is a profile. `image` and `platform` are the image as the user named it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put(
        &self,
        store: &ContentStore,
        artifacts: &Artifacts,
        image: &str,
        platform: &str,
    ) -> Result<Descriptor, StoreError> {
        let config = store.put(EMPTY_CONFIG)?;
        let descriptor = self.descriptor();
        store.put_labelled(&self.encode(), soci_index_labels(&config, &self.layers))?;
        store.add_manifest(listed_for(&descriptor, image, platform))?;
        if let Some(kind) = self.kind.record() {
            artifacts.put(&Artifact {
                image_ref: Some(image.to_owned()),
                platform: Some(platform.to_owned()),
                ..Artifact::new(kind, &descriptor, self.subject.digest, store)
            })?;
        }
        Ok(descriptor)
    }
}

/// The entry of a layout's `index.json` for an artifact of an image: with the image's name and platform, from which the
/// artifact's record can be made again.
pub(super) fn listed_for(artifact: &Descriptor, image: &str, platform: &str) -> Descriptor {
    let mut entry = artifact.clone();
    for (key, value) in [(media_type::OF_IMAGE, image), (media_type::OF_PLATFORM, platform)] {
        entry.annotations.insert(key.to_owned(), value.to_owned());
    }
    entry
}

/// The kind of a manifest that is a companion of the image manifest `image`; `None` for any other manifest.
pub fn companion_of(manifest: &Manifest, image: &Digest) -> Option<CompanionKind> {
    let subject = manifest.subject.as_ref().filter(|subject| subject.digest == *image);
    subject.and_then(|_| CompanionKind::of(manifest.artifact_type.as_deref()?))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_companion_reads_back_as_a_manifest_of_its_kind() {
        let subject = Descriptor::new(media_type::OCI_MANIFEST, Digest::of(b"image"), 5);
        let blob = Descriptor::new(media_type::PACK_BLOCKS, Digest::of(b"pack"), 4);
        let annotations = [(media_type::PACK_WORKLOAD.to_owned(), "web".to_owned())].into();
        let written = Companion {
            kind: CompanionKind::Pack,
            subject: subject.clone(),
            layers: vec![blob.clone()],
            annotations,
        };
        let read = Manifest::parse(Bytes::from(written.encode()), media_type::OCI_MANIFEST).unwrap();
        assert_eq!(read.digest, written.descriptor().digest);
        assert_eq!(read.layers, [blob]);
        assert_eq!(companion_of(&read, &subject.digest), Some(CompanionKind::Pack));
        assert_eq!(companion_of(&read, &Digest::of(b"another image")), None);
        assert_eq!(read.annotations, written.annotations);
    }
}
