//! Images by description: layers from tars, indexed by the product's own builder and put into a test registry.
//!
//! Owns nothing after [`publish`]. The tar writer makes plain ustar archives with any name, good or hostile; richer ones
//! (extended attributes, long names) are made by GNU tar in the tests that need them.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use serde_json::json;
use soci_core::digest::Digest;
use soci_core::media_type;
use soci_core::ztoc::{BuildOptions, build_gzip, build_zstd};

use crate::registry::TestRegistry;

/// Writes ustar entries one after the other.
#[derive(Debug, Default)]
pub struct TarWriter(Vec<u8>);

impl TarWriter {
    /// Adds an entry of type `kind` (`b'0'` regular, `b'1'` hard link, `b'2'` symbolic link, `b'5'` directory).
    pub fn entry(&mut self, name: &str, kind: u8, link: &str, content: &[u8]) -> &mut Self {
        self.entry_with(name, kind, link, content, b"0000644\0")
    }

    /// Adds a regular file that everybody may run.
    pub fn program(&mut self, name: &str, content: &[u8]) -> &mut Self {
        self.entry_with(name, b'0', "", content, b"0000755\0")
    }

    fn entry_with(&mut self, name: &str, kind: u8, link: &str, content: &[u8], mode: &[u8]) -> &mut Self {
        assert!(name.len() <= 100 && link.len() <= 100, "ustar's short names only");
        let mut header = [0u8; 512];
        let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
        put(0, name.as_bytes());
        put(100, mode);
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        put(124, format!("{:011o}\0", content.len()).as_bytes());
        put(136, b"00000000017\0");
        put(148, b"        ");
        put(156, &[kind]);
        put(157, link.as_bytes());
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&header);
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// Adds a regular file.
    pub fn file(&mut self, name: &str, content: &[u8]) -> &mut Self {
        self.entry(name, b'0', "", content)
    }

    /// The archive with its end mark.
    pub fn finish(&mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        std::mem::take(&mut self.0)
    }
}

/// gzip of `plain` at a level from 0 to 9.
pub fn gzip(plain: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
    encoder.write_all(plain).expect("writing to memory");
    encoder.finish().expect("writing to memory")
}

/// One layer to publish.
#[derive(Debug, Clone, Default)]
pub struct LayerSource {
    /// The gzip tar, or a zstd one (told by its first bytes).
    pub gzip: Vec<u8>,
    /// Digest of the plain tar.
    pub diff_id: Option<Digest>,
    /// Bytes of its prefetch artifact, if it has one.
    pub artifact: Option<Vec<u8>>,
    /// Whether it stays out of the index.
    pub unindexed: bool,
    /// Another zTOC than the right one.
    pub ztoc: Option<Vec<u8>>,
    /// Another size than the right one, for the manifest.
    pub size: Option<u64>,
}

impl LayerSource {
    /// A layer of this tar.
    pub fn of_tar(tar: &[u8]) -> Self {
        Self { gzip: gzip(tar, 6), diff_id: Some(Digest::of(tar)), ..Self::default() }
    }

    /// A zstd layer of this tar with a frame for each so many bytes.
    pub fn of_frames(tar: &[u8], frame: usize) -> Self {
        let frames = tar.chunks(frame).map(|part| zstd::encode_all(part, 3).expect("writing to memory"));
        Self { gzip: frames.flatten().collect(), diff_id: Some(Digest::of(tar)), ..Self::default() }
    }
}

/// A published image.
#[derive(Debug, Clone)]
pub struct Published {
    /// `host/repository:latest`.
    pub reference: String,
    /// Digest of the image manifest.
    pub manifest: Digest,
    /// Digest of the SOCI index.
    pub index: Digest,
    /// Digests of the layers.
    pub layers: Vec<Digest>,
    /// zTOCs of the layers; of a layer out of the index too.
    pub ztocs: Vec<Vec<u8>>,
}

/// Builds zTOCs and index of an image and puts all of it into the registry. The image manifest names the index by the
/// annotation of SOCI v2.
pub fn publish(
    registry: &TestRegistry,
    repository: &str,
    layers: &[LayerSource],
    span_size: u64,
) -> Published {
    let mut indexed = Vec::new();
    let mut artifacts = Vec::new();
    let (mut digests, mut ztocs, mut descriptors) = (Vec::new(), Vec::new(), Vec::new());
    for layer in layers {
        let options = BuildOptions { span_size, ..BuildOptions::default() };
        let (build, media_types) = if layer.gzip.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            (build_zstd(layer.gzip.as_slice(), &options), [media_type::OCI_LAYER_ZSTD, media_type::ZTOC_ZSTD])
        } else {
            (build_gzip(layer.gzip.as_slice(), &options), [media_type::OCI_LAYER_GZIP, media_type::ZTOC])
        };
        let right = build.expect("the layer can be read in parts").ztoc;
        let ztoc = layer.ztoc.clone().unwrap_or(right);
        let digest = registry.put_blob(layer.gzip.clone());
        let of_layer = json!({ media_type::LAYER_DIGEST: digest.to_string() });
        descriptors.push(json!({
            "mediaType": media_types[0], "digest": digest.to_string(),
            "size": layer.size.unwrap_or(layer.gzip.len() as u64),
        }));
        if !layer.unindexed {
            let blob = registry.put_blob(ztoc.clone());
            indexed.push(json!({
                "mediaType": media_types[1], "digest": blob.to_string(), "size": ztoc.len(), "annotations": of_layer,
            }));
        }
        if let Some(artifact) = &layer.artifact {
            let blob = registry.put_blob(artifact.clone());
            artifacts.push(json!({
                "mediaType": media_type::PREFETCH, "digest": blob.to_string(), "size": artifact.len(),
                "annotations": of_layer,
            }));
        }
        digests.push(digest);
        ztocs.push(ztoc);
    }
    indexed.extend(artifacts);
    let empty = registry.put_blob(&b"{}"[..]);
    let index = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
        "config": { "mediaType": media_type::SOCI_INDEX_V2, "digest": empty.to_string(), "size": 2 },
        "layers": indexed,
    });
    let index = registry.put_manifest(repository, None, media_type::OCI_MANIFEST, index.to_string());
    let diff_ids: Vec<_> =
        layers.iter().map(|layer| layer.diff_id.map(|digest| digest.to_string())).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {}, "rootfs": { "type": "layers", "diff_ids": diff_ids },
    })
    .to_string();
    let size = config.len();
    let config = registry.put_blob(config);
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
        "config": { "mediaType": media_type::OCI_CONFIG, "digest": config.to_string(), "size": size },
        "layers": descriptors,
        "annotations": { media_type::INDEX_DIGEST: index.to_string() },
    });
    let manifest =
        registry.put_manifest(repository, Some("latest"), media_type::OCI_MANIFEST, manifest.to_string());
    Published {
        reference: format!("{}:latest", registry.image(repository)),
        manifest,
        index,
        layers: digests,
        ztocs,
    }
}
