//! One layer: whether it gets a zTOC, whether a known one serves, and the building of a new one, or of a fine index alone.
//!
//! Owns nothing but the layer's bytes while they stream by. What must always hold: a zTOC is only kept for bytes that
//! have the digest and size the image manifest gives.

use std::collections::HashSet;
use std::io::{self, Read};

use super::fine::FineLayer;
use crate::{
    compression::gzip::GzipError,
    digest::Digest,
    image::{Descriptor, ImageError},
    media_type::{self, LayerKind, layer_compression},
    store::{Artifact, ArtifactKind, Artifacts, ContentStore, StoreError},
    tar::{EntryKind, TarError},
    unpack::{normalise, split},
    ztoc::{Algorithm, BuildError, BuildOptions, Built, ZstdError, Ztoc, build_gzip, build_tar, build_zstd},
};

/// Why a layer has no zTOC, though nothing is wrong with it.
#[derive(Debug)]
#[non_exhaustive]
pub enum SkipReason {
    /// Smaller than the minimum (bytes) asked for.
    TooSmall(u64),
    /// Compressed in a way that cannot be indexed; its name, if it has one.
    Unsupported(&'static str),
    /// It is zstd, but not of frames that can be read alone.
    Zstd(ZstdError),
    /// Its tar has an entry that a zTOC has no words for.
    Entry(TarError),
}

impl std::fmt::Display for SkipReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooSmall(min) => write!(f, "is less than min-layer-size {min}"),
            Self::Unsupported(name) => write!(
                f,
                "is compressed in an unsupported format. expect: [tar, gzip, unknown] but got {name:?}"
            ),
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
    /// The manifest lists something that is no layer.
    #[error("not a layer mediaType: {0:?}")]
    NotALayer(String),
    /// A layer type of unknown form.
    #[error("could not determine layer compression: {0:?}")]
    Undetermined(String),
    /// The layer cannot be read.
    #[error("read layer")]
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
}

/// Whether the layer is to be indexed: its compression, or the reason why not.
pub(super) fn eligible(
    layer: &Descriptor,
    min_size: u64,
) -> Result<Result<LayerKind, SkipReason>, LayerBuildError> {
    let kind = layer_compression(&layer.media_type);
    if kind == LayerKind::NotALayer {
        return Err(LayerBuildError::NotALayer(layer.media_type.clone()));
    }
    if layer.size < min_size {
        return Ok(Err(SkipReason::TooSmall(min_size)));
    }
    match kind {
        LayerKind::Gzip | LayerKind::Tar | LayerKind::Unknown | LayerKind::Zstd => Ok(Ok(kind)),
        LayerKind::Undetermined => Err(LayerBuildError::Undetermined(layer.media_type.clone())),
        _ => Ok(Err(SkipReason::Unsupported(kind.algorithm()))),
    }
}

impl LayerBuildError {
    /// The reason to leave the layer out, if that is all this is: the layer is whole, but not for a zTOC.
    pub(super) fn skips(self) -> Result<SkipReason, Self> {
        match self {
            Self::Build(BuildError::Tar(error)) if error.is_unsupported() => Ok(SkipReason::Entry(error)),
            Self::Build(BuildError::Zstd(error)) => Ok(SkipReason::Zstd(error)),
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
    })
}

/// Builds, checks, stores and records the zTOC of a layer. With it its fine index, if one is asked for.
pub(super) fn build(
    layer: &Descriptor,
    kind: LayerKind,
    bytes: impl Read,
    options: &BuildOptions,
    span_layout: Option<&str>,
    store: &ContentStore,
    artifacts: &Artifacts,
) -> Result<(IndexedLayer, Option<FineLayer>), LayerBuildError> {
    let built = read(layer, kind, bytes, options)?;
    let fine = built.fine.map(|fine| FineLayer::keep(fine, layer.digest, store)).transpose()?;
    let digest = store.put(&built.ztoc)?;
    let size = built.ztoc.len() as u64;
    artifacts.put(&Artifact {
        digest,
        kind: ArtifactKind::SociLayer,
        oci_digest: layer.digest,
        image_digest: None,
        image_ref: None,
        platform: None,
        media_type: ztoc_type(kind).into(),
        artifact_type: None,
        created_at: jiff::Timestamp::now(),
        span_size: options.span_size,
        span_layout: span_layout.map(str::to_owned),
        size,
    })?;
    let indexed = IndexedLayer {
        ztoc_digest: digest,
        ztoc_size: size,
        media_type: ztoc_type(kind),
        ztoc: Ztoc::open(built.ztoc.into()).ok(),
        xattrs_present: built.xattrs_present,
        existed: false,
    };
    Ok((indexed, fine))
}

/// Builds the fine index of a layer that gets no zTOC, because it is too small. `None`: it is of no use in parts, or has
/// directories that it does not describe. Unpacked, those get the attributes that they have in the layers below; served in
/// parts, a layer knows no others.
pub(super) fn build_fine_alone(
    layer: &Descriptor,
    kind: LayerKind,
    bytes: impl Read,
    options: &BuildOptions,
    store: &ContentStore,
) -> Result<Option<FineLayer>, LayerBuildError> {
    let built = match read(layer, kind, bytes, options) {
        Ok(built) => built,
        Err(error) => return error.skips().map(|_| None),
    };
    let describes_all = Ztoc::open(built.ztoc.into()).is_ok_and(|ztoc| describes_its_directories(&ztoc));
    let fine = built.fine.filter(|_| describes_all);
    Ok(fine.map(|fine| FineLayer::keep(fine, layer.digest, store)).transpose()?)
}

/// Reads a layer that has the digest and size the manifest gives.
fn read(
    layer: &Descriptor,
    kind: LayerKind,
    bytes: impl Read,
    options: &BuildOptions,
) -> Result<Built, LayerBuildError> {
    let built = match kind {
        LayerKind::Gzip => build_gzip(bytes, options)?,
        LayerKind::Zstd => build_zstd(bytes, options)?,
        _ => build_tar(bytes, options)?,
    };
    if built.layer_size != layer.size {
        return Err(LayerBuildError::Size { expected: layer.size, actual: built.layer_size });
    }
    if built.layer_digest != layer.digest {
        return Err(LayerBuildError::Digest { expected: layer.digest, actual: built.layer_digest });
    }
    Ok(built)
}

/// Whether each directory of the layer, but for its root, has an entry of its own before those of what is in it.
fn describes_its_directories(ztoc: &Ztoc) -> bool {
    let mut described = HashSet::from([Vec::new()]);
    ztoc.files().iter().all(|file| {
        let path = normalise(&file.name);
        let known = described.contains(split(&path).0);
        if file.kind == EntryKind::Dir {
            described.insert(path);
        }
        known
    })
}

fn ztoc_type(kind: LayerKind) -> &'static str {
    if kind == LayerKind::Zstd { media_type::ZTOC_ZSTD } else { media_type::ZTOC }
}

fn needs_xattrs(ztoc: &Ztoc) -> bool {
    ztoc.files()
        .iter()
        .any(|file| file.xattrs_schily().next().is_some() || file.name.ends_with(b".wh..wh..opq"))
}
