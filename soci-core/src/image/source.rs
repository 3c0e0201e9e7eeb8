//! Where images are looked for: a layout directory, a layout in a tar, containerd, or a registry.
//!
//! Owns the handle on that place. What must always hold: manifest and config of an [`Image`] were checked against the
//! digests that name them.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use bytes::Bytes;

use super::{
    Archive, Descriptor, Documents, ImageConfig, ImageError, ImageIndex, LayerReader, MAX_CONFIG,
    MAX_MANIFEST, Manifest, Platform, manifest,
};
use crate::{
    budget::Budget,
    containerd::{Containerd, ContainerdError},
    digest::Digest,
    media_type,
    registry::{Reference, Registry, RegistryError, Repository},
    store::{LayoutStore, StoreError},
    units::ByteRange,
};

/// Limit: lists within lists. Nobody nests them more than once.
const DEPTH: Budget = Budget::new("image-depth", 4);

/// A place and a name in it. Cloning it is cheap.
#[derive(Clone, Debug)]
pub struct ImageSource {
    pub(super) name: String,
    tag: Option<String>,
    pub(super) place: Place,
}

#[derive(Clone, Debug)]
pub(super) enum Place {
    Layout(LayoutStore),
    Archive(Archive),
    Containerd(Containerd),
    Registry(Repository),
}

/// One platform's image.
#[derive(Clone, Debug)]
pub struct Image {
    /// The image as the user named it; a registry reference in full form.
    pub reference: String,
    /// What the name points to: an image index, or the manifest itself.
    pub target: Descriptor,
    /// The platform that was asked for.
    pub platform: Platform,
    /// The image manifest.
    pub manifest: Manifest,
    /// The image configuration.
    pub config: ImageConfig,
    /// Where it was found, and where its layers are.
    pub source: ImageSource,
}

impl ImageSource {
    /// Reads the user's text: `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`, or a registry reference.
    ///
    /// # Errors
    /// When the layout cannot be opened or the text is not a reference.
    pub fn parse(text: &str, registry: &Registry) -> Result<Self, ImageError> {
        let name = text.to_owned();
        if let Some(rest) = text.strip_prefix("oci:") {
            let (path, tag) = path_and_tag(rest);
            let place = Place::Layout(LayoutStore::existing(&path)?);
            return Ok(Self { name, tag, place });
        }
        if let Some(rest) = text.strip_prefix("oci-archive:") {
            let (path, tag) = path_and_tag(rest);
            return Ok(Self { name, tag, place: Place::Archive(Archive::open(&path)?) });
        }
        let reference: Reference =
            text.parse().map_err(|source| ImageError::Reference { text: name, source })?;
        Ok(Self::registry(&reference, registry))
    }

    /// An image of containerd's by its full name; `None` when containerd has none of that name.
    ///
    /// # Errors
    /// When containerd does not answer.
    pub async fn containerd(name: &str, containerd: &Containerd) -> Result<Option<Self>, ImageError> {
        let found = containerd.image(name).await?;
        let name = name.to_owned();
        Ok(found.map(|_| Self { name, tag: None, place: Place::Containerd(containerd.clone()) }))
    }

    /// All manifests that an OCI image layout directory lists.
    ///
    /// # Errors
    /// When it is not a layout.
    pub fn layout(path: &Path) -> Result<Self, ImageError> {
        let place = Place::Layout(LayoutStore::existing(path)?);
        Ok(Self { name: path.display().to_string(), tag: None, place })
    }

    /// All manifests that an OCI image layout in a tar lists.
    ///
    /// # Errors
    /// When it is not a tar.
    pub fn archive(path: &Path) -> Result<Self, ImageError> {
        let place = Place::Archive(Archive::open(path)?);
        Ok(Self { name: path.display().to_string(), tag: None, place })
    }

    /// An image in a registry. A digest in the reference wins over its tag.
    pub fn registry(reference: &Reference, registry: &Registry) -> Self {
        let wanted = reference.digest().or(reference.tag()).unwrap_or("latest");
        Self {
            name: reference.whole(),
            tag: Some(wanted.to_owned()),
            place: Place::Registry(registry.repository(reference)),
        }
    }

    /// The image as the user named it; a registry reference in full form.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The registry's repository, if that is where the image is.
    pub fn repository(&self) -> Option<&Repository> {
        match &self.place {
            Place::Registry(repository) => Some(repository),
            Place::Layout(_) | Place::Archive(_) | Place::Containerd(_) => None,
        }
    }

    /// containerd, if that is where the image is.
    pub fn in_containerd(&self) -> Option<&Containerd> {
        match &self.place {
            Place::Containerd(containerd) => Some(containerd),
            Place::Layout(_) | Place::Archive(_) | Place::Registry(_) => None,
        }
    }

    /// Every platform of the image, in the order of its index; for a single manifest, its config's platform.
    ///
    /// # Errors
    /// When the image is not found or its index or config cannot be read.
    pub async fn platforms(&self) -> Result<Vec<Platform>, ImageError> {
        let mut documents = Documents::new();
        let manifests = match self.root().await? {
            Root::Manifest(found) => return Ok(vec![self.config(&found.1).await?.platform]),
            Root::List(_, manifests) => self.flat(manifests, &mut documents).await?,
        };
        let mut platforms: Vec<Platform> = Vec::new();
        for manifest in images(&manifests) {
            let platform = self.counted_platform_of(manifest, &mut documents).await?;
            if !platform.is_unknown() && !platforms.iter().any(|p| p.matches(&platform)) {
                platforms.push(platform);
            }
        }
        Ok(platforms)
    }

    /// Finds the image for a platform. A name that points to a single manifest gives it whatever its platform is.
    ///
    /// # Errors
    /// When the image or the platform is not found, or its manifest or config cannot be read.
    pub async fn resolve(&self, platform: &Platform) -> Result<Image, ImageError> {
        let (target, manifest) = match self.root().await? {
            Root::Manifest(found) => *found,
            Root::List(target, manifests) => {
                let mut documents = Documents::new();
                let manifests = self.flat(manifests, &mut documents).await?;
                let found = self.choose(&manifests, platform, &mut documents).await?;
                let raw = self.blob_of(&found, MAX_MANIFEST as u64).await?;
                (
                    target.map_or_else(|| found.clone(), |target| *target),
                    Manifest::parse(raw, &found.media_type)?,
                )
            }
        };
        let config = self.config(&manifest).await?;
        let (reference, platform) = (self.name.clone(), platform.clone());
        Ok(Image { reference, target, platform, manifest, config, source: self.clone() })
    }

    /// A whole blob of this image, at most `limit` bytes, its digest and size checked.
    ///
    /// # Errors
    /// When it is absent, too large, unreadable or damaged.
    pub async fn blob_of(&self, descriptor: &Descriptor, limit: u64) -> Result<Bytes, ImageError> {
        let digest = &descriptor.digest;
        if descriptor.size > limit {
            return Err(ImageError::BlobTooLarge { digest: *digest, limit });
        }
        let bytes = match &self.place {
            // Whatever is there under the digest: no more than the descriptor says is read.
            Place::Layout(store) => store.read_at_most(digest, descriptor.size)?,
            Place::Archive(archive) => archive.read(digest, descriptor.size)?,
            Place::Containerd(containerd) => {
                containerd.blob(digest, descriptor.size).await?.ok_or(ImageError::NoBlob(*digest))?
            }
            Place::Registry(repository) if is_manifest_like(&descriptor.media_type) => {
                repository.manifest(&digest.to_string()).await?.0
            }
            Place::Registry(repository) => repository.blob(digest, limit).await?,
        };
        if bytes.len() as u64 == descriptor.size {
            Ok(bytes)
        } else {
            Err(ImageError::BlobSize {
                digest: *digest,
                expected: descriptor.size,
                actual: bytes.len() as u64,
            })
        }
    }

    /// The bytes of a layer as a blocking stream. The caller checks the digest.
    ///
    /// # Errors
    /// When the layer is absent or the registry does not answer.
    pub async fn open_layer(&self, layer: &Descriptor) -> Result<LayerReader, ImageError> {
        Ok(match &self.place {
            Place::Layout(store) => LayerReader::file(store.open_blob(&layer.digest)?.take(u64::MAX)),
            Place::Archive(archive) => LayerReader::file(archive.open_blob(&layer.digest)?),
            Place::Containerd(containerd) => {
                let whole = ByteRange::new(0, layer.size);
                LayerReader::containerd(containerd.blob_stream(&layer.digest, whole).await?)
            }
            Place::Registry(repository) => {
                let fetcher = repository.range_fetcher(layer.digest, layer.size);
                LayerReader::registry(fetcher.fetch(ByteRange::new(0, layer.size)).await?)
            }
        })
    }

    /// What the name points to.
    pub(super) async fn root(&self) -> Result<Root, ImageError> {
        let manifests = match &self.place {
            Place::Layout(store) => store.index()?,
            Place::Archive(archive) => archive.index()?,
            Place::Containerd(containerd) => {
                let found = containerd.image(&self.name).await?;
                let target = found.ok_or_else(|| ImageError::NotFound(self.name.clone()))?.target;
                let raw = self.blob_of(&target, MAX_MANIFEST as u64).await?;
                return root(target, raw);
            }
            Place::Registry(repository) => {
                let tag = self.tag.as_deref().unwrap_or("latest");
                let (raw, digest, media_type) = match repository.manifest(tag).await {
                    Err(RegistryError::NotFound { .. }) => {
                        return Err(ImageError::NotFound(self.name.clone()));
                    }
                    answer => answer?,
                };
                return root(Descriptor::new(media_type, digest, raw.len() as u64), raw);
            }
        };
        let named = |d: &&Descriptor| {
            self.tag.as_deref().is_none_or(|tag| {
                d.annotation(media_type::REF_NAME) == Some(tag)
                    || d.annotation(media_type::CONTAINERD_IMAGE_NAME) == Some(tag)
                    || d.digest.to_string() == tag
            })
        };
        let found: Vec<Descriptor> = images(&manifests).filter(named).cloned().collect();
        match found.as_slice() {
            [] => Err(ImageError::NotFound(self.name.clone())),
            [one] => root(one.clone(), self.blob_of(one, MAX_MANIFEST as u64).await?),
            _ if found.iter().all(|d| media_type::is_manifest(&d.media_type)) => Ok(Root::List(None, found)),
            _ => Err(ImageError::Ambiguous(self.name.clone())),
        }
    }

    /// The manifests of a list, with those of lists in it in their places. A list that is not here is left out: it may be
    /// of platforms that nobody has fetched.
    async fn flat(
        &self,
        manifests: Vec<Descriptor>,
        documents: &mut Documents,
    ) -> Result<Vec<Descriptor>, ImageError> {
        let mut flat = Vec::new();
        documents.entries(manifests.len())?;
        let mut left: Vec<(Descriptor, u64)> = manifests.into_iter().rev().map(|one| (one, 0)).collect();
        while let Some((one, depth)) = left.pop() {
            if !media_type::is_index(&one.media_type) {
                flat.push(one);
                continue;
            }
            { DEPTH }.spend(depth)?;
            // What a list names twice is there once already.
            if !documents.read_once(&one)? {
                continue;
            }
            let raw = match self.blob_of(&one, MAX_MANIFEST as u64).await {
                Err(ImageError::NoBlob(_)) => continue,
                raw => raw?,
            };
            let list = ImageIndex::parse(raw, &one.media_type)?;
            documents.entries(list.manifests.len())?;
            left.extend(list.manifests.into_iter().rev().map(|one| (one, depth + 1)));
        }
        Ok(flat)
    }

    /// The first image that is for the platform, else for the best one that falls back on it.
    async fn choose(
        &self,
        manifests: &[Descriptor],
        platform: &Platform,
        documents: &mut Documents,
    ) -> Result<Descriptor, ImageError> {
        let mut known = Vec::new();
        for manifest in images(manifests) {
            let of_manifest = self.counted_platform_of(manifest, documents).await?;
            if platform.matches(&of_manifest) {
                return Ok(manifest.clone());
            }
            known.push((of_manifest, manifest));
        }
        let fitting = platform.choices().into_iter().find_map(|choice| {
            known
                .iter()
                .find(|(platform, _)| choice.matches(platform))
                .map(|(_, manifest)| (*manifest).clone())
        });
        fitting.ok_or_else(|| ImageError::NoPlatform(platform.clone()))
    }

    /// The platform of a manifest in a list, which may have to be read for it.
    async fn counted_platform_of(
        &self,
        manifest: &Descriptor,
        documents: &mut Documents,
    ) -> Result<Platform, ImageError> {
        if manifest.platform.is_none() {
            documents.read(manifest)?;
        }
        self.platform_of(manifest).await
    }

    pub(crate) async fn platform_of(&self, manifest: &Descriptor) -> Result<Platform, ImageError> {
        if let Some(platform) = &manifest.platform {
            return Ok(platform.clone());
        }
        let raw = self.blob_of(manifest, MAX_MANIFEST as u64).await?;
        Ok(self.config(&Manifest::parse(raw, &manifest.media_type)?).await?.platform)
    }

    async fn config(&self, manifest: &Manifest) -> Result<ImageConfig, ImageError> {
        Ok(ImageConfig::parse(&self.blob_of(&manifest.config, MAX_CONFIG as u64).await?)?)
    }
}

impl Image {
    /// The layers, lowest first.
    pub fn layers(&self) -> &[Descriptor] {
        &self.manifest.layers
    }

    /// The bytes of a layer as a blocking stream. The caller checks the digest.
    ///
    /// # Errors
    /// When the layer is absent or the registry does not answer.
    pub async fn open_layer(&self, layer: &Descriptor) -> Result<LayerReader, ImageError> {
        self.source.open_layer(layer).await
    }

    /// Digest of what the image's name points to.
    pub fn target_digest(&self) -> Digest {
        self.target.digest
    }
}

pub(super) enum Root {
    Manifest(Box<(Descriptor, Manifest)>),
    /// A list, and its own descriptor unless it is a layout's `index.json`.
    List(Option<Box<Descriptor>>, Vec<Descriptor>),
}

fn root(mut target: Descriptor, raw: Bytes) -> Result<Root, ImageError> {
    target.media_type = manifest::kind(&raw, &target.media_type)?;
    if media_type::is_index(&target.media_type) {
        let index = ImageIndex::parse(raw, &target.media_type)?;
        return Ok(Root::List(Some(Box::new(target)), index.manifests));
    }
    let manifest = Manifest::parse(raw, &target.media_type)?;
    target.media_type.clone_from(&manifest.media_type);
    Ok(Root::Manifest(Box::new((target, manifest))))
}

/// The entries that can be images: not SOCI indexes, nor other artifacts that say so.
fn images(manifests: &[Descriptor]) -> impl Iterator<Item = &Descriptor> {
    manifests.iter().filter(|d| d.artifact_type.is_none() && is_manifest_like(&d.media_type))
}

fn is_manifest_like(media_type: &str) -> bool {
    media_type::is_manifest(media_type) || media_type::is_index(media_type)
}

/// `DIR[:TAG]`: a colon with no slash after it starts the tag.
fn path_and_tag(text: &str) -> (PathBuf, Option<String>) {
    match text.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') && !path.is_empty() => {
            (Path::new(path).to_owned(), Some(tag.to_owned()))
        }
        _ => (Path::new(text).to_owned(), None),
    }
}

impl From<ContainerdError> for ImageError {
    fn from(error: ContainerdError) -> Self {
        Self::Store(error.into())
    }
}

impl From<StoreError> for ImageError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound(digest) => Self::NoBlob(digest),
            error => Self::Store(error),
        }
    }
}
