//! Media types and annotation keys, and what a layer's media type says about its compression.
//!
//! Sources: OCI image-spec 1.1 (`application/vnd.oci.*`), Docker's image manifest v2.2
//! (`application/vnd.docker.*`), SOCI (`*.amazon.soci.*`). Holds no state. Every constant is the exact text
//! found on the wire; nothing here parses content.

/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image index (a list of manifests).
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI image configuration.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// OCI layer: plain tar.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// OCI layer: gzip tar.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// OCI layer: zstd tar.
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// OCI layer that must not be distributed: plain tar.
pub const OCI_LAYER_FOREIGN: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";
/// Docker image manifest v2.2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker manifest list.
pub const DOCKER_MANIFEST_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker image configuration.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Docker layer: plain tar by name; upstream treats its compression as unknown.
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
/// Docker layer: gzip tar.
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// Docker layer: zstd tar.
pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";
/// Docker foreign layer: plain tar.
pub const DOCKER_LAYER_FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar";
/// Docker foreign layer: gzip tar.
pub const DOCKER_LAYER_FOREIGN_GZIP: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";

/// Config media type (and artifact type) of a SOCI index manifest, version 1: a referrer of its image.
pub const SOCI_INDEX_V1: &str = "application/vnd.amazon.soci.index.v1+json";
/// Config media type (and artifact type) of a SOCI index manifest, version 2: bound by annotations.
pub const SOCI_INDEX_V2: &str = "application/vnd.amazon.soci.index.v2+json";
/// A zTOC blob inside a SOCI index.
pub const ZTOC: &str = "application/octet-stream";
/// A zTOC of a zstd layer inside a SOCI index. Ours: readers that do not know it pass over the entry, and hence see an
/// index that leaves this layer out.
pub const ZTOC_ZSTD: &str = "application/vnd.soci.ztoc.zstd.v1";
/// A prefetch artifact inside a SOCI index.
pub const PREFETCH: &str = "application/vnd.amazon.soci.prefetch.v1+json";
/// Config of an artifact that needs none (OCI image specification 1.1).
pub const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// Artifact type of an image's fine indexes. Ours, as all that follow.
pub const FINE_INDEX: &str = "application/vnd.soci.fine-index.v1";
/// The tables of an image's fine indexes.
pub const FINE_TABLES: &str = "application/vnd.soci.fine-index.tables.v1";
/// The windows of one layer's fine index.
pub const FINE_WINDOWS: &str = "application/vnd.soci.fine-index.windows.v1";
/// Artifact type of a working-set pack.
pub const PACK: &str = "application/vnd.soci.pack.v1";
/// The blob of a working-set pack.
pub const PACK_BLOCKS: &str = "application/vnd.soci.pack.blocks.v1";
/// Artifact type of a profile, and the type of its document.
pub const PROFILE: &str = "application/vnd.soci.profile.v1+json";
/// A profile's document in one zstd frame.
pub const PROFILE_ZSTD: &str = "application/vnd.soci.profile.v1+json+zstd";
/// Annotation of a pack or profile: the name of the workload that it is for.
pub const PACK_WORKLOAD: &str = "soci.pack.workload";
/// Start of annotations of a pack; the rest is the name of an attribute that a node must have with the annotation's value.
pub const PACK_SELECTOR: &str = "soci.pack.selector.";
/// Annotation of a pack's blob: the digest of its head (header and block table).
pub const PACK_HEAD: &str = "soci.pack.head-digest";
/// Annotation of a pack's blob: the length of its head in bytes.
pub const PACK_HEAD_SIZE: &str = "soci.pack.head-size";

/// On a SOCI index manifest, and on a pack's: [`ADVICE_WHOLE`] when whoever made it found a full pull of the image to be faster than what
/// it describes. Any other value says nothing.
pub const START_ADVICE: &str = "soci.start.advice";
/// See [`START_ADVICE`].
pub const ADVICE_WHOLE: &str = "whole";

/// On a SOCI index manifest: the tool that built it.
pub const BUILD_TOOL: &str = "com.amazon.soci.build-tool-identifier";
/// On zTOC and prefetch descriptors: digest of the compressed layer.
pub const LAYER_DIGEST: &str = "com.amazon.soci.image-layer-digest";
/// On zTOC descriptors: the layer's media type in the image manifest.
pub const LAYER_MEDIA_TYPE: &str = "com.amazon.soci.image-layer-mediaType";
/// On zTOC descriptors: the span size asked for, decimal bytes.
pub const SPAN_SIZE: &str = "com.amazon.soci.span-size";
/// On zTOC descriptors: `true` when the layer has no extended attribute and no opaque directory.
pub const DISABLE_XATTRS: &str = "com.amazon.soci.disable-xattrs";
/// On an image manifest (version 2): digest of its SOCI index.
pub const INDEX_DIGEST: &str = "com.amazon.soci.index-digest";
/// On the SOCI index's descriptor in an OCI index (version 2): digest of the image manifest.
pub const IMAGE_MANIFEST_DIGEST: &str = "com.amazon.soci.image-manifest-digest";
/// The tag of a manifest in an OCI image layout's `index.json`.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// In a layout's `index.json`, on an artifact of ours: the image that it was made of, as the user named it.
pub const OF_IMAGE: &str = "soci.image.ref";
/// Likewise: the image's platform.
pub const OF_PLATFORM: &str = "soci.image.platform";
/// The full image name in a layout's `index.json` as containerd writes it.
pub const CONTAINERD_IMAGE_NAME: &str = "io.containerd.image.name";

/// What a layer's media type says about the bytes of its blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerKind {
    /// A gzip stream of a tar.
    Gzip,
    /// A plain tar.
    Tar,
    /// Docker's bare `.tar` types: read as a plain tar, whatever it is.
    Unknown,
    /// A zstd stream: has a zTOC only if it can be read in parts.
    Zstd,
    /// A layer whose compression has no name here (encrypted, foreign): has no zTOC.
    Unsupported,
    /// A SOCI prefetch artifact among the layers: not a layer, silently passed over.
    Prefetch,
    /// An `application/vnd.oci.image.layer.*` of unknown shape: an error for the whole image.
    Undetermined,
    /// Not a layer at all: an error for the whole image.
    NotALayer,
}

impl LayerKind {
    /// The compression's name as it appears in messages (`gzip`, `uncompressed`, ...; empty if it has none).
    pub fn algorithm(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Tar => "uncompressed",
            Self::Unknown => "unknown",
            Self::Zstd => "zstd",
            Self::Unsupported | Self::Prefetch | Self::Undetermined | Self::NotALayer => "",
        }
    }
}

/// The compression that upstream (containerd's `DiffCompression`) derives from a layer's media type.
pub fn layer_compression(media_type: &str) -> LayerKind {
    let (base, suffixes) = match media_type.split_once('+') {
        Some((base, rest)) => (base, rest.split('+').collect::<Vec<_>>()),
        None => (media_type, Vec::new()),
    };
    match base {
        DOCKER_LAYER | DOCKER_LAYER_FOREIGN if suffixes.is_empty() => LayerKind::Unknown,
        DOCKER_LAYER_GZIP | DOCKER_LAYER_FOREIGN_GZIP if suffixes.is_empty() => LayerKind::Gzip,
        DOCKER_LAYER_ZSTD if suffixes.is_empty() => LayerKind::Zstd,
        DOCKER_LAYER
        | DOCKER_LAYER_FOREIGN
        | DOCKER_LAYER_GZIP
        | DOCKER_LAYER_FOREIGN_GZIP
        | DOCKER_LAYER_ZSTD => LayerKind::Unsupported,
        OCI_LAYER | OCI_LAYER_FOREIGN => match suffixes.iter().max() {
            None if base == OCI_LAYER => LayerKind::Tar,
            Some(&"gzip") => LayerKind::Gzip,
            Some(&"zstd") => LayerKind::Zstd,
            _ => LayerKind::Unsupported,
        },
        _ if media_type == PREFETCH => LayerKind::Prefetch,
        _ if media_type.starts_with("application/vnd.oci.image.layer.") => LayerKind::Undetermined,
        _ => LayerKind::NotALayer,
    }
}

/// Whether this is a list of manifests (OCI index or Docker manifest list).
pub fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_MANIFEST_LIST)
}

/// Whether this is the artifact type of something that this program makes beside an image.
pub fn is_artifact(artifact_type: &str) -> bool {
    matches!(artifact_type, SOCI_INDEX_V1 | SOCI_INDEX_V2 | FINE_INDEX | PACK)
}

/// Whether this is an image manifest (OCI or Docker v2.2).
pub fn is_manifest(media_type: &str) -> bool {
    matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compression_follows_the_media_type_table() {
        for (media_type, kind) in [
            (DOCKER_LAYER, LayerKind::Unknown),
            (DOCKER_LAYER_FOREIGN, LayerKind::Unknown),
            (DOCKER_LAYER_GZIP, LayerKind::Gzip),
            (DOCKER_LAYER_FOREIGN_GZIP, LayerKind::Gzip),
            (DOCKER_LAYER_ZSTD, LayerKind::Zstd),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip+x", LayerKind::Unsupported),
            (OCI_LAYER, LayerKind::Tar),
            (OCI_LAYER_GZIP, LayerKind::Gzip),
            (OCI_LAYER_ZSTD, LayerKind::Zstd),
            (OCI_LAYER_FOREIGN, LayerKind::Unsupported),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", LayerKind::Gzip),
            ("application/vnd.oci.image.layer.v1.tar+encrypted", LayerKind::Unsupported),
            ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", LayerKind::Gzip),
            ("application/vnd.oci.image.layer.v2.tar", LayerKind::Undetermined),
            (PREFETCH, LayerKind::Prefetch),
            (OCI_CONFIG, LayerKind::NotALayer),
            ("", LayerKind::NotALayer),
        ] {
            assert_eq!(layer_compression(media_type), kind, "{media_type}");
        }
    }
}
