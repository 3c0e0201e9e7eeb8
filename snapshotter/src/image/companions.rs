//! What an image has beside its SOCI index: fine indexes of its layers, and a pack of what its workload reads.
//!
//! Stateless: found by one list of referrers (or, for a converted image in a registry without referrers, in the image
//! index), fetched, checked and stored like everything small. Both can only help: whatever is wrong with them is logged with
//! its reason, and the image starts without.

use bytes::Bytes;
use soci_core::digest::Digest;
use soci_core::image::{Descriptor, ImageIndex, Manifest};
use soci_core::index::{CompanionKind, companion_of, is_advised_whole};
use soci_core::media_type;
use soci_core::pack::{Purpose, head_pin};
use soci_core::registry::Reference;
use soci_core::ztoc::{Bundle, MAX_BUNDLE, Ztoc, ZtocError};

use super::source::{Indexed, Source, within_limits};
use crate::layer::LayerError;
use crate::layer::tables::parsed;
use crate::pack::{Listed, PackOptions, PackSource};
use crate::span::chain;

/// Entries of an image index without an artifact type that are looked at.
const MAX_UNTYPED: usize = 16;

/// Which companions an image is to be served with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Companions {
    /// Those that the registry has.
    Discover,
    /// Those that it was served with before, by the digests of their manifests; none, if there were none. No registry is asked,
    /// and the pack waits until [`super::ImageContext::wanted`].
    Recorded {
        /// Its fine indexes.
        fine: Option<Digest>,
        /// Its pack.
        pack: Option<Digest>,
    },
}

/// The fine indexes of an image.
#[derive(Debug)]
pub(crate) struct FineIndexes {
    /// Their manifest.
    pub(crate) digest: Digest,
    bundle: Bundle,
    windows: Vec<Descriptor>,
}

/// Why a companion is not used.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    #[error(transparent)]
    Layer(#[from] LayerError),
    #[error("its subject is another image, or its artifact type is not what the list says")]
    OtherImage,
    #[error("it has no blob of media type {0}")]
    NoBlob(&'static str),
    #[error("its blob has {size} bytes, the limit is {limit}")]
    TooLarge { size: u64, limit: u64 },
    #[error("its manifest does not pin the head of its blob")]
    Unpinned,
    #[error("the bundle of tables is not valid")]
    Bundle(#[from] soci_core::ztoc::BundleError),
}

impl Companions {
    /// What was used before and may still be used, as a list would have it; `None`: the registry is to be asked. Whoever listed it
    /// was asked then.
    pub(crate) fn recorded(self, options: &PackOptions) -> Option<Vec<Descriptor>> {
        let Self::Recorded { fine, pack } = self else { return None };
        let entry = |kind: CompanionKind, digest: Option<Digest>| {
            let digest = digest?;
            if !options.accepts(&digest, Listed::ByImage) {
                tracing::warn!(%digest, "what the image was served with is not used any more: not verified");
                return None;
            }
            // Its size does not matter: the store has it.
            let entry = Descriptor::new(media_type::OCI_MANIFEST, digest, 0);
            Some(Descriptor { artifact_type: Some(kind.artifact_type().to_owned()), ..entry })
        };
        let both = [entry(CompanionKind::FineIndex, fine), entry(CompanionKind::Pack, pack)];
        Some(both.into_iter().flatten().collect())
    }
}

impl FineIndexes {
    /// The layers of the image that have a table here and no zTOC.
    pub(crate) fn alone(&self, image: &Manifest, indexed: &[Indexed]) -> Vec<Indexed> {
        let mut alone: Vec<Indexed> = Vec::new();
        for (position, layer) in image.layers.iter().enumerate() {
            let is_known = |known: &Indexed| known.layer == layer.digest;
            if self.bundle.layers().any(|table| table == layer.digest)
                && !indexed.iter().chain(&alone).any(is_known)
            {
                let (position, size) = (position as u32, layer.size);
                alone.push(Indexed {
                    layer: layer.digest,
                    position,
                    size,
                    ztoc: None,
                    artifacts: Vec::new(),
                });
            }
        }
        alone
    }

    /// Length of the fine index of a layer, if there is one.
    pub(crate) fn length(&self, layer: &Digest) -> Option<u64> {
        self.bundle.length(layer)
    }

    /// Opens the fine index of a layer. Blocking: it is decompressed and checked.
    pub(crate) fn open(&self, layer: &Digest) -> Option<Result<Ztoc, ZtocError>> {
        self.bundle.table(layer)
    }

    /// The fine index of a layer, if it is one that fits.
    pub(crate) fn fitting(&self, indexed: &Indexed, opened: Result<Ztoc, ZtocError>) -> Option<Ztoc> {
        let table = match opened {
            Ok(table) => table,
            Err(error) => {
                tracing::warn!(layer = %indexed.layer, error = %chain(&error), "fine index of the layer is not valid");
                return None;
            }
        };
        let (found, wanted) = (table.compressed_size(), indexed.size);
        if found != wanted {
            tracing::warn!(layer = %indexed.layer, found, wanted, "fine index is for a layer of another size");
            return None;
        }
        if let Err(error) = within_limits(&table) {
            tracing::warn!(layer = %indexed.layer, error = %chain(&error), "fine index of the layer is not used");
            return None;
        }
        let fits = |windows: &soci_core::ztoc::Windows| {
            self.windows.iter().any(|blob| blob.digest == windows.digest() && blob.size == windows.size())
        };
        if !table.windows().is_none_or(fits) {
            tracing::warn!(layer = %indexed.layer, "the windows of the fine index are not in its manifest");
            return None;
        }
        Some(table)
    }
}

impl Source {
    /// The companions that may be used, among what refers to the image and, if there is none, what the image index lists to
    /// which the name of a converted image points.
    pub(crate) async fn companions(
        &self,
        image: &Manifest,
        referrers: &[Descriptor],
        name: &Reference,
        options: &PackOptions,
    ) -> Vec<Descriptor> {
        let may = |entry: &Descriptor, listed| is_companion(entry) && options.accepts(&entry.digest, listed);
        let found: Vec<_> =
            referrers.iter().filter(|entry| may(entry, Listed::ByReferrers)).cloned().collect();
        if !found.is_empty() || !image.annotations.contains_key(media_type::INDEX_DIGEST) {
            return found;
        }
        let Some(name) = name.digest().or(name.tag()) else { return found };
        let listed = self.listed_in_index(image, name).await;
        let mut found = self.with_types(image, listed).await;
        found.retain(|entry| may(entry, Listed::ByImage));
        found
    }

    /// Tools that copy an image may drop the artifact types of its index: then the manifests tell what they are.
    async fn with_types(&self, image: &Manifest, listed: Vec<Descriptor>) -> Vec<Descriptor> {
        let index = image.annotations.get(media_type::INDEX_DIGEST);
        let typed = listed.into_iter().enumerate().map(|(at, mut entry)| async move {
            let is_index = index.is_some_and(|index| *index == entry.digest.to_string());
            if entry.artifact_type.is_some() || is_index || at >= MAX_UNTYPED {
                return entry;
            }
            if let Ok(manifest) = self.manifest(entry.digest).await
                && let Some(kind) = companion_of(&manifest, &image.digest)
            {
                entry.artifact_type = Some(kind.artifact_type().to_owned());
                entry.annotations.extend(manifest.annotations);
            }
            entry
        });
        futures_util::future::join_all(typed).await
    }

    async fn listed_in_index(&self, image: &Manifest, name: &str) -> Vec<Descriptor> {
        let listed = match self.repository.manifest(name).await {
            Ok((raw, _, served_as)) => parsed(raw.len(), move || ImageIndex::parse(raw, &served_as)).await,
            Err(error) => {
                tracing::debug!(name, error = %chain(&error), "image index not read");
                return Vec::new();
            }
        };
        let wanted = image.digest.to_string();
        let of_image =
            |entry: &Descriptor| entry.annotation(media_type::IMAGE_MANIFEST_DIGEST) == Some(wanted.as_str());
        // A name that points to the manifest itself lists nothing.
        listed
            .ok()
            .and_then(Result::ok)
            .map(|index| index.manifests.into_iter().filter(of_image).collect())
            .unwrap_or_default()
    }

    /// The fine indexes among `listed`, the first that can be used.
    pub(crate) async fn fine_indexes(&self, image: &Manifest, listed: &[Descriptor]) -> Option<FineIndexes> {
        for entry in of_kind(listed, CompanionKind::FineIndex) {
            match self.open_fine_indexes(image, entry).await {
                Ok(fine) => return Some(fine),
                Err(error) => {
                    tracing::warn!(digest = %entry.digest, error = %chain(&error), "fine indexes are not used");
                }
            }
        }
        None
    }

    async fn open_fine_indexes(&self, image: &Manifest, entry: &Descriptor) -> Result<FineIndexes, Unfit> {
        let manifest = self.companion(image, entry, CompanionKind::FineIndex).await?;
        let blob = blob_of(&manifest, media_type::FINE_TABLES)?;
        let raw = self.blob("bundle of fine indexes", blob, MAX_BUNDLE).await?;
        let windows = manifest.layers.into_iter();
        Ok(FineIndexes {
            digest: entry.digest,
            bundle: Bundle::open(raw)?,
            windows: windows.filter(|blob| blob.media_type == media_type::FINE_WINDOWS).collect(),
        })
    }

    /// The pack that fits best ([`Purpose::order`]), with what it is for, and whether it advises a full pull of the image.
    pub(crate) async fn pack(
        &self,
        image: &Manifest,
        listed: &[Descriptor],
        workload: &str,
        options: &PackOptions,
    ) -> Option<(PackSource, Purpose, bool)> {
        let packs: Vec<_> = of_kind(listed, CompanionKind::Pack).collect();
        let purposes: Vec<_> = packs.iter().map(|entry| Purpose::of(&entry.annotations)).collect();
        for at in Purpose::order(&purposes, workload, &options.attributes) {
            let (entry, purpose) = (packs[at], &purposes[at]);
            match self.open_pack(image, entry, options.max_bytes).await {
                Ok(pack) => {
                    let workload = purpose.workload.as_deref().unwrap_or_default();
                    tracing::info!(image = %image.digest, digest = %entry.digest, workload, bytes = pack.blob.size, "using pack");
                    return Some((pack, purpose.clone(), is_advised_whole(&entry.annotations)));
                }
                Err(error) => {
                    tracing::warn!(digest = %entry.digest, error = %chain(&error), "pack is not used");
                }
            }
        }
        None
    }

    async fn open_pack(&self, image: &Manifest, entry: &Descriptor, limit: u64) -> Result<PackSource, Unfit> {
        let manifest = self.companion(image, entry, CompanionKind::Pack).await?;
        let blob = blob_of(&manifest, media_type::PACK_BLOCKS)?.clone();
        if blob.size > limit {
            return Err(Unfit::TooLarge { size: blob.size, limit });
        }
        let head = head_pin(&blob).ok_or(Unfit::Unpinned)?;
        Ok(PackSource { digest: entry.digest, blob, head })
    }

    /// A manifest that the list of referrers has carried. It is stored meanwhile: what it names can be asked for at once, and after
    /// a restart that came too early the registry has it.
    async fn listed_manifest(&self, digest: Digest, raw: Bytes) -> Result<Manifest, LayerError> {
        let bytes = raw.clone();
        let manifest = parsed(raw.len(), move || Manifest::parse(bytes, media_type::OCI_MANIFEST))
            .await?
            .map_err(|source| LayerError::Manifest { digest, source })?;
        let this = self.clone();
        // Nobody waits for it now; who hands out a layer does.
        self.writes.lock().await.spawn(async move {
            if let Err(error) = this.keep(raw).await {
                tracing::warn!(%digest, error = %chain(&error), "manifest was not stored");
            }
        });
        Ok(manifest)
    }

    async fn companion(
        &self,
        image: &Manifest,
        entry: &Descriptor,
        kind: CompanionKind,
    ) -> Result<Manifest, Unfit> {
        let manifest = match entry.embedded() {
            Some(raw) => self.listed_manifest(entry.digest, raw.into()).await?,
            None => self.manifest(entry.digest).await?,
        };
        if companion_of(&manifest, &image.digest) == Some(kind) {
            Ok(manifest)
        } else {
            Err(Unfit::OtherImage)
        }
    }
}

fn is_companion(entry: &Descriptor) -> bool {
    let kind = entry.artifact_type.as_deref().and_then(CompanionKind::of);
    matches!(kind, Some(CompanionKind::FineIndex | CompanionKind::Pack))
}

pub(super) fn of_kind(listed: &[Descriptor], kind: CompanionKind) -> impl Iterator<Item = &Descriptor> {
    listed.iter().filter(move |entry| entry.artifact_type.as_deref() == Some(kind.artifact_type()))
}

fn blob_of<'a>(manifest: &'a Manifest, media_type: &'static str) -> Result<&'a Descriptor, Unfit> {
    manifest.layers.iter().find(|blob| blob.media_type == media_type).ok_or(Unfit::NoBlob(media_type))
}
