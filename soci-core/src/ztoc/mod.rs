//! zTOC: the table of contents of one layer, with the checkpoints that let any span be decompressed alone.
//!
//! [`Ztoc`] owns the verified bytes and the tables read from them. Invariant: nothing in a `Ztoc` is read from
//! the bytes again without a check; offsets, sizes and counts were checked once when it was opened.

mod build_error;
mod builder;
mod encode;
mod entry;
mod error;
mod extract;
mod fine;
mod mod_time;
mod place;
mod read;
mod spans;
#[cfg(test)]
mod tests;
mod verify;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::budget::Budget;
use crate::digest::Digest;

/// Limit: memory for what a zTOC or a fine table says, by the length of its bytes.
const MEMORY: &str = "ztoc-memory";

pub use crate::compression::gzip::{GzipError, InflateError};
pub use crate::compression::zstd::{MAX_FRAME, ZstdError};
pub use build_error::BuildError;
pub use builder::{
    BuildOptions, Built, DEFAULT_BUILD_TOOL, DEFAULT_SPAN_SIZE, build_gzip, build_tar, build_zstd,
};
pub use entry::FileEntry;
pub use error::ZtocError;
pub use extract::{ExtractError, SpanDecoder, extract_span};
pub use fine::{
    BuiltFine, Bundle, BundleError, DEFAULT_FINE_SPAN_SIZE, FineOptions, MAX_BUNDLE, Window, WindowError,
    WindowPlace, Windows,
};
pub use place::Checkpointing;
pub use spans::SpanTable;

/// Bytes of a zTOC at most, for its writer (which estimates) and its readers: 16 000 spans' windows and half a million
/// files. The format could hold 2 GiB.
pub const MAX_ZTOC: u64 = 1 << 30;

/// How the layer's bytes are compressed, as far as a zTOC can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// One or more gzip members.
    Gzip,
    /// A plain tar.
    Uncompressed,
    /// Several zstd frames. Ours: upstream's tools refuse such a zTOC.
    Zstd,
}

impl Algorithm {
    /// Its number in a zTOC.
    fn number(self) -> i8 {
        match self {
            Self::Gzip => 1,
            Self::Uncompressed => 2,
            Self::Zstd => 3,
        }
    }

    fn of(number: i8) -> Option<Self> {
        [Self::Gzip, Self::Uncompressed, Self::Zstd].into_iter().find(|known| known.number() == number)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Gzip => "gzip",
            Self::Uncompressed => "uncompressed",
            Self::Zstd => "zstd",
        })
    }
}

/// A verified zTOC, or the table of a fine index, which says the same of a layer but has its windows elsewhere. Cloning it
/// is cheap: clones share the bytes and the tables.
#[derive(Clone)]
pub struct Ztoc(Arc<Inner>);

struct Inner {
    bytes: Bytes,
    memory: u64,
    digest: Digest,
    version: Bytes,
    build_tool: Bytes,
    compressed_size: u64,
    uncompressed_size: u64,
    algorithm: Algorithm,
    files: Vec<FileEntry>,
    spans: SpanTable,
    /// Of a fine table: its layer.
    layer: Option<Digest>,
    windows: Option<Windows>,
    coarse: Vec<u64>,
}

impl Ztoc {
    /// Reads and verifies a zTOC. Any bytes at all may be given; those that cannot describe a layer are refused.
    ///
    /// The bytes may be a mapped file: the windows, nearly all of a zTOC, are not touched here but for the digest.
    pub fn open(bytes: Bytes) -> Result<Self, ZtocError> {
        let mut memory = Budget::memory(MEMORY, bytes.len() as u64);
        let raw = read::read(&bytes, &mut memory)?;
        let spans = verify::spans(&raw)?;
        let files = verify::files(raw.files, raw.uncompressed_size)?;
        Ok(Self(Arc::new(Inner {
            digest: Digest::of(&bytes),
            memory: memory.spent() + bytes.len() as u64,
            bytes,
            version: raw.version,
            build_tool: raw.build_tool,
            compressed_size: raw.compressed_size,
            uncompressed_size: raw.uncompressed_size,
            algorithm: raw.algorithm,
            files,
            spans,
            layer: None,
            windows: None,
            coarse: Vec::new(),
        })))
    }

    /// Reads and verifies the table of a fine index, as [`Ztoc::open`] does a zTOC. [`Ztoc::digest`], [`Ztoc::size`] and
    /// [`Ztoc::bytes`] are those of the table.
    pub fn open_table(bytes: Bytes) -> Result<Self, ZtocError> {
        let opened = fine::open(&bytes)?;
        Ok(Self(Arc::new(Inner {
            digest: Digest::of(&bytes),
            memory: opened.memory + bytes.len() as u64,
            bytes,
            version: opened.version,
            build_tool: opened.build_tool,
            compressed_size: opened.compressed_size,
            uncompressed_size: opened.uncompressed_size,
            algorithm: opened.algorithm,
            files: opened.files,
            spans: opened.spans,
            layer: Some(opened.layer),
            windows: opened.windows,
            coarse: opened.coarse,
        })))
    }

    /// Digest of the zTOC's own bytes.
    pub fn digest(&self) -> Digest {
        self.0.digest
    }

    /// Length of the zTOC in bytes.
    pub fn size(&self) -> u64 {
        self.0.bytes.len() as u64
    }

    /// Bytes of memory that it takes, about: its own bytes, and what was made of them.
    pub fn memory(&self) -> u64 {
        self.0.memory
    }

    /// The zTOC as stored.
    pub fn bytes(&self) -> &Bytes {
        &self.0.bytes
    }

    /// Version text, `0.9` for everything known.
    pub fn version(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.0.version)
    }

    /// Name of the tool that wrote it.
    pub fn build_tool(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.0.build_tool)
    }

    /// Length of the layer blob in bytes.
    pub fn compressed_size(&self) -> u64 {
        self.0.compressed_size
    }

    /// Length of the tar in bytes, up to its end mark: padding after it is not counted.
    pub fn uncompressed_size(&self) -> u64 {
        self.0.uncompressed_size
    }

    /// How the layer is compressed.
    pub fn algorithm(&self) -> Algorithm {
        self.0.algorithm
    }

    /// The entries in tar order.
    pub fn files(&self) -> &[FileEntry] {
        &self.0.files
    }

    /// The spans.
    pub fn spans(&self) -> &SpanTable {
        &self.0.spans
    }

    /// The layer that a fine table says it is of; `None` for an upstream zTOC, which does not say.
    pub fn layer(&self) -> Option<Digest> {
        self.0.layer
    }

    /// Where the windows of the spans lie; `None` when they are inside (an upstream zTOC) or no span needs one.
    pub fn windows(&self) -> Option<&Windows> {
        self.0.windows.as_ref()
    }

    /// Where the spans of the zTOC start that a fine table lies beside, in plain bytes and ascending, so that artifacts that
    /// name spans of that zTOC can be understood. Empty for an upstream zTOC.
    pub fn coarse(&self) -> &[u64] {
        &self.0.coarse
    }
}

impl fmt::Debug for Ztoc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ztoc")
            .field("digest", &self.0.digest)
            .field("algorithm", &self.0.algorithm)
            .field("files", &self.0.files.len())
            .field("spans", &self.0.spans.len())
            .finish_non_exhaustive()
    }
}
