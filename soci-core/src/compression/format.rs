//! What a layer's blob is: a tar, a gzip file or zstd frames.
//!
//! Holds no state. The one rule of every command and of the daemon: the media type says whether a blob is a layer that
//! can be read here at all ([`layer_format`]), its first bytes say how it is compressed ([`LayerFormat::of`]), as in
//! containerd. Media types lie, and some of Docker's do not tell.

use std::io::{self, Cursor, Read};

use crate::media_type::{LayerKind, layer_compression};

/// Bytes that tell what a blob is.
pub const SNIFF: usize = 4;

/// Compression of a layer blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerFormat {
    /// A plain tar.
    Tar,
    /// One or more gzip members, and perhaps zeros behind them.
    Gzip,
    /// zstd frames.
    Zstd,
}

impl LayerFormat {
    /// The format of a blob that starts with these bytes, [`SNIFF`] of them unless it is shorter. What is not compressed in
    /// a way that is known here is a tar, if it is a layer at all.
    pub fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::Tar,
        }
    }

    /// The format of a blob, and a reader of all of its bytes.
    ///
    /// # Errors
    /// When its first bytes cannot be read.
    pub fn sniff<R: Read>(mut blob: R) -> io::Result<(Self, impl Read + use<R>)> {
        let mut start = Vec::with_capacity(SNIFF);
        blob.by_ref().take(SNIFF as u64).read_to_end(&mut start)?;
        Ok((Self::of(&start), Cursor::new(start).chain(blob)))
    }

    /// The compression's name, as a user knows it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tar => "tar",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// Whether a blob of this media type is a layer that can be read here; its bytes tell how.
pub fn is_readable_layer(media_type: &str) -> bool {
    matches!(
        layer_compression(media_type),
        LayerKind::Gzip | LayerKind::Tar | LayerKind::Unknown | LayerKind::Zstd
    )
}

/// The format of a layer, and a reader of all of its bytes; `None` when its media type is of something that cannot be read
/// here: encrypted, foreign, a file system image.
pub(crate) fn layer_format<R: Read>(
    media_type: &str,
    blob: R,
) -> io::Result<Option<(LayerFormat, impl Read + use<R>)>> {
    if is_readable_layer(media_type) { LayerFormat::sniff(blob).map(Some) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media_type::{OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD};

    #[test]
    fn bytes_decide_and_none_is_lost() {
        for (bytes, format) in [
            (&b"\x1f\x8b\x08\x00more"[..], LayerFormat::Gzip),
            (b"\x28\xb5\x2f\xfd", LayerFormat::Zstd),
            (b"\x5e\x2a\x4d\x18\0\0\0\0", LayerFormat::Zstd),
            (b"name\0", LayerFormat::Tar),
            (b"\x28\xb5", LayerFormat::Tar),
            (b"", LayerFormat::Tar),
        ] {
            for media_type in [OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD] {
                let (found, mut all) = layer_format(media_type, bytes).unwrap().unwrap();
                let mut read = Vec::new();
                all.read_to_end(&mut read).unwrap();
                assert_eq!((found, read.as_slice()), (format, bytes), "{media_type}");
            }
        }
        for other in ["application/vnd.erofs.layer.v1", "application/vnd.oci.image.layer.v1.tar+encrypted"] {
            assert!(layer_format(other, &b"\x1f\x8b\x08"[..]).unwrap().is_none(), "{other}");
        }
    }
}
