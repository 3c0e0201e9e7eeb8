//! The compressed bytes of one layer as a blocking stream, wherever they come from.
//!
//! Owns the file, or the answer of the registry or of containerd. What must always hold: it ends after the layer's bytes; whoever reads it
//! to the end checks the digest.

use std::{
    fs::File,
    io::{self, Read, Take},
};

use bytes::{Buf, Bytes};
use tokio::runtime::Handle;

use crate::{containerd::BlobStream, registry::RangeBody};

/// A layer being read.
#[derive(Debug)]
pub struct LayerReader(From);

enum From {
    File(Take<File>),
    Stream { body: Body, chunk: Bytes, runtime: Handle },
}

enum Body {
    Registry(Box<RangeBody>),
    Containerd(Box<BlobStream>),
}

impl Body {
    async fn chunk(&mut self) -> io::Result<Option<Bytes>> {
        match self {
            Self::Registry(body) => body.chunk().await.map_err(io::Error::other),
            Self::Containerd(stream) => stream.chunk().await.map_err(io::Error::other),
        }
    }
}

impl std::fmt::Debug for From {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::File(_) => "File",
            Self::Stream { .. } => "Stream",
        })
    }
}

impl LayerReader {
    pub(super) fn file(file: Take<File>) -> Self {
        Self(From::File(file))
    }

    /// Must be called on a tokio runtime; its other threads drive the transfer.
    pub(super) fn registry(body: RangeBody) -> Self {
        Self::stream(Body::Registry(Box::new(body)))
    }

    /// Must be called on a tokio runtime.
    pub(super) fn containerd(stream: BlobStream) -> Self {
        Self::stream(Body::Containerd(Box::new(stream)))
    }

    fn stream(body: Body) -> Self {
        Self(From::Stream { body, chunk: Bytes::new(), runtime: Handle::current() })
    }
}

/// Blocks until bytes come. From a registry or containerd: not to be called on a thread that runs async tasks.
impl Read for LayerReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            From::File(file) => file.read(buffer),
            From::Stream { body, chunk, runtime } => {
                while chunk.is_empty() {
                    match runtime.block_on(body.chunk())? {
                        Some(next) => *chunk = next,
                        None => return Ok(0),
                    }
                }
                let n = chunk.len().min(buffer.len());
                buffer[..n].copy_from_slice(&chunk[..n]);
                chunk.advance(n);
                Ok(n)
            }
        }
    }
}
