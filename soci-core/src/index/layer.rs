//! One layer: whether it gets a zTOC, whether a known one serves, and the building of a new one, or of a fine index alone.
//!
//! Owns nothing but the layer's bytes while they stream by. What must always hold: a zTOC is only kept for bytes that
//! have the digest and size the image manifest gives.

use std::collections::HashSet;
use std::io::{self, Read};

use super::fine::FineLayer;
use crate::{
    compression::format::{LayerFormat, is_readable_layer, layer_format},
    compression::gzip::GzipError,
    digest::Digest,
    error::chain,
    image::{Descriptor, ImageError},
    media_type::{self, LayerKind, layer_compression},
    store::{Artifact, ArtifactKind, Artifacts, ContentStore, StoreError},
    tar::{ContentDigests, EntryKind, TarError},
    tree::{clean, split},
    ztoc::{Algorithm, BuildError, BuildOptions, Built, ZstdError, Ztoc, build_gzip, build_tar, build_zstd},
};

/// Why a layer has no zTOC, though nothing is wrong with it.
#[derive(Debug)]
#[non_exhaustive]
pub enum SkipReason {
    /// Smaller than the minimum (bytes) asked for.
    TooSmall(u64),
    /// A SOCI prefetch artifact among the layers: nothing to speak of.
    Prefetch,
    /// By its media type a layer that cannot be read here: encrypted or foreign.
    Unsupported,
    /// By its media type no tar at all.
    NotATar(String),
    /// The bytes are those of the manifest, but no tar comes out of them.
    Unreadable(Box<LayerBuildError>),
    /// Its fine table, or the bundle with it, would be larger than readers take.
    FineTable,
    /// It is zstd, but not of frames that can be read alone.
    Zstd(ZstdError),
    /// Its tar has an entry that a zTOC has no words for.
    Entry(TarError),
}

impl std::fmt::Display for SkipReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooSmall(min) => write!(f, "is less than min-layer-size {min}"),
            Self::FineTable => f.write_str("has too many files or spans for a fine table"),
            Self::Prefetch => f.write_str("is a prefetch artifact"),
            Self::Unsupported => f.write_str(
                "is compressed in an unsupported format. expect: [tar, gzip, unknown] but got \"\"",
            ),
            Self::NotATar(media_type) => write!(f, "has media type {media_type:?}, which is none of a tar"),
            Self::Unreadable(error) => {
                write!(f, "cannot be read: {}", chain(&**error))
            }
            Self::Zstd(error) => write!(
                f,
                "is compressed in an unsupported format. expect: [tar, gzip, unknown] but got \"zstd\": {error}"
            ),
            Self::Entry(error) => write!(f, "cannot be read in parts: {error}"),
        }
    }
}

/// Why a layer could not be indexed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerBuildError {
    /// Encrypted, foreign, or no tar at all.
    #[error("layers with media type {0:?} cannot be read here")]
    NotReadable(String),
    /// The layer cannot be read.
    #[error("cannot read layer")]
    Image(#[from] ImageError),
    /// The layer is damaged or holds what a zTOC cannot describe.
    #[error("build zTOC")]
    Build(#[from] BuildError),
    /// The bytes are not those the manifest names.
    #[error("layer has digest {actual}, expected {expected}")]
    Digest {
        /// Digest in the image manifest.
        expected: Digest,
        /// Digest of the bytes.
        actual: Digest,
    },
    /// The bytes are not as many as the manifest says.
    #[error("layer has {actual} bytes, expected {expected}")]
    Size {
        /// Size in the image manifest.
        expected: u64,
        /// Number of bytes.
        actual: u64,
    },
    /// The layer's tar cannot be walked.
    #[error("walk layer")]
    Walk(#[from] TarError),
    /// The layer is not a gzip file from its first to its last byte.
    #[error("walk layer")]
    Gzip(#[from] GzipError),
    /// The layer is not a zstd file from its first to its last byte.
    #[error("walk layer")]
    Zstd(#[from] ZstdError),
    /// The layer's bytes cannot be read or copied.
    #[error("copy layer")]
    Copy(#[source] io::Error),
    /// The zTOC cannot be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A layer with its zTOC.
#[derive(Clone, Debug)]
pub(super) struct IndexedLayer {
    pub(super) ztoc_digest: Digest,
    pub(super) ztoc_size: u64,
    /// How an index lists it.
    pub(super) media_type: &'static str,
    /// The zTOC, unless it is one that readers refuse (upstream builds such, and so do we).
    pub(super) ztoc: Option<Ztoc>,
    pub(super) xattrs_present: bool,
    /// It was known before.
    pub(super) existed: bool,
    /// What its files contain, if it was read and that was asked for.
    pub(super) contents: Option<ContentDigests>,
}

/// Whether the layer is to be indexed, as far as its descriptor tells; the reason if not.
pub(super) fn eligible(layer: &Descriptor, min_size: u64) -> Result<(), SkipReason> {
    match layer_compression(&layer.media_type) {
        LayerKind::Prefetch => Err(SkipReason::Prefetch),
        LayerKind::NotALayer | LayerKind::Undetermined => Err(SkipReason::NotATar(layer.media_type.clone())),
        _ if layer.size < min_size => Err(SkipReason::TooSmall(min_size)),
        _ if !is_readable_layer(&layer.media_type) => Err(SkipReason::Unsupported),
        _ => Ok(()),
    }
}

impl LayerBuildError {
    /// The reason to leave the layer out, if that is all this is: its bytes are those of the manifest, but not for a zTOC.
    /// [`SkipReason::Unreadable`] is to be believed only when the layer's digest was checked.
    pub(crate) fn skips(self) -> Result<SkipReason, Self> {
        match self {
            Self::Build(BuildError::Tar(error)) | Self::Walk(error) if error.is_unsupported() => {
                Ok(SkipReason::Entry(error))
            }
            Self::Build(BuildError::Zstd(error)) => Ok(SkipReason::Zstd(error)),
            Self::Build(BuildError::Tar(_) | BuildError::Gzip(_) | BuildError::TooLarge)
            | Self::Walk(_)
            | Self::Gzip(_)
            | Self::Zstd(_) => Ok(SkipReason::Unreadable(Box::new(self))),
            Self::NotReadable(media_type) => Ok(SkipReason::NotATar(media_type)),
            other => Err(other),
        }
    }
}

/// A zTOC made earlier for this layer, with this span size and layout, whose blob is still whole.
pub(super) fn known(
    records: &[Artifact],
    store: &ContentStore,
    layer: &Digest,
    span_size: u64,
    span_layout: Option<&str>,
) -> Option<IndexedLayer> {
    let fits = |a: &&Artifact| {
        a.kind == ArtifactKind::SociLayer
            && a.oci_digest == *layer
            && a.span_size == span_size
            && a.span_layout.as_deref() == span_layout
    };
    let record = records.iter().filter(fits).max_by_key(|a| a.created_at)?;
    let ztoc = Ztoc::open(store.read(&record.digest).ok()?).ok()?;
    Some(IndexedLayer {
        ztoc_digest: record.digest,
        ztoc_size: ztoc.size(),
        media_type: if ztoc.algorithm() == Algorithm::Zstd {
            media_type::ZTOC_ZSTD
        } else {
            media_type::ZTOC
        },
        xattrs_present: needs_xattrs(&ztoc),
        ztoc: Some(ztoc),
        existed: true,
        contents: None,
    })
}

/// Builds, checks, stores and records the zTOC of a layer. With it its fine index, if one is asked for.
pub(super) fn build(
    layer: &Descriptor,
    bytes: impl Read,
    options: &BuildOptions,
    span_layout: Option<&str>,
    store: &ContentStore,
    artifacts: &Artifacts,
) -> Result<(IndexedLayer, Option<FineLayer>), LayerBuildError> {
    let (format, built) = read(layer, bytes, options)?;
    let fine = built.fine.map(|fine| FineLayer::keep(fine, layer.digest, store)).transpose()?;
    let digest = store.put(&built.ztoc)?;
    let size = built.ztoc.len() as u64;
    let blob = Descriptor::new(ztoc_type(format), digest, size);
    artifacts.put(&Artifact {
        span_size: options.span_size,
        span_layout: span_layout.map(str::to_owned),
        ..Artifact::new(ArtifactKind::SociLayer, &blob, layer.digest, store)
    })?;
    let indexed = IndexedLayer {
        ztoc_digest: digest,
        ztoc_size: size,
        media_type: ztoc_type(format),
        ztoc: Ztoc::open(built.ztoc.into()).ok(),
        xattrs_present: built.xattrs_present,
        existed: false,
        contents: built.contents,
    };
    Ok((indexed, fine))
}

/// Builds the fine index of a layer that gets no zTOC, because it is too small. `None`: it has directories that it does not describe. Unpacked, those get the attributes that they have in the layers below; served in
/// parts, a layer knows no others.
pub(super) fn build_fine_alone(
    layer: &Descriptor,
    bytes: impl Read,
    options: &BuildOptions,
    store: &ContentStore,
) -> Result<Result<Option<FineLayer>, SkipReason>, LayerBuildError> {
    let (_, built) = read(layer, bytes, options)?;
    let describes_all = Ztoc::open(built.ztoc.into()).is_ok_and(|ztoc| describes_its_directories(&ztoc));
    if built.fine.is_none() {
        return Ok(Err(SkipReason::FineTable));
    }
    let fine = built.fine.filter(|_| describes_all);
    Ok(Ok(fine.map(|fine| FineLayer::keep(fine, layer.digest, store)).transpose()?))
}

/// Reads a layer that has the digest and size the manifest gives.
fn read(
    layer: &Descriptor,
    bytes: impl Read,
    options: &BuildOptions,
) -> Result<(LayerFormat, Built), LayerBuildError> {
    let format = layer_format(&layer.media_type, bytes).map_err(LayerBuildError::Copy)?;
    let Some((format, bytes)) = format else {
        return Err(LayerBuildError::NotReadable(layer.media_type.clone()));
    };
    let built = match format {
        LayerFormat::Gzip => build_gzip(bytes, options)?,
        LayerFormat::Zstd => build_zstd(bytes, options)?,
        LayerFormat::Tar => build_tar(bytes, options)?,
    };
    if built.layer_size != layer.size {
        return Err(LayerBuildError::Size { expected: layer.size, actual: built.layer_size });
    }
    if built.layer_digest != layer.digest {
        return Err(LayerBuildError::Digest { expected: layer.digest, actual: built.layer_digest });
    }
    Ok((format, built))
}

/// Whether each directory of the layer, but for its root, has an entry of its own before those of what is in it.
fn describes_its_directories(ztoc: &Ztoc) -> bool {
    let mut described = HashSet::from([Vec::new()]);
    ztoc.files().iter().all(|file| {
        let path = clean(&file.name);
        let known = described.contains(split(&path).0);
        if file.kind == EntryKind::Dir {
            described.insert(path);
        }
        known
    })
}

fn ztoc_type(format: LayerFormat) -> &'static str {
    if format == LayerFormat::Zstd { media_type::ZTOC_ZSTD } else { media_type::ZTOC }
}

fn needs_xattrs(ztoc: &Ztoc) -> bool {
    ztoc.files()
        .iter()
        .any(|file| file.xattrs_schily().next().is_some() || file.name.ends_with(b".wh..wh..opq"))
}
