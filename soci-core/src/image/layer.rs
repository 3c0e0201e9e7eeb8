//! The compressed bytes of one layer as a blocking stream, wherever they come from.
//!
//! Owns the file or the registry's answer. What must always hold: it ends after the layer's bytes; whoever reads it
//! to the end checks the digest.

use std::{
    fs::File,
    io::{self, Read, Take},
};

use bytes::{Buf, Bytes};
use tokio::runtime::Handle;

use crate::registry::RangeBody;

/// A layer being read.
#[derive(Debug)]
pub struct LayerReader(From);

enum From {
    File(Take<File>),
    Registry { body: Box<RangeBody>, chunk: Bytes, runtime: Handle },
}

impl std::fmt::Debug for From {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::File(_) => "File",
            Self::Registry { .. } => "Registry",
        })
    }
}

impl LayerReader {
    pub(super) fn file(file: Take<File>) -> Self {
        Self(From::File(file))
    }

    /// Must be called on a tokio runtime; its other threads drive the transfer.
    pub(super) fn registry(body: RangeBody) -> Self {
        Self(From::Registry { body: Box::new(body), chunk: Bytes::new(), runtime: Handle::current() })
    }
}

/// Blocks until bytes come. From a registry: not to be called on a thread that runs async tasks.
impl Read for LayerReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            From::File(file) => file.read(buffer),
            From::Registry { body, chunk, runtime } => {
                while chunk.is_empty() {
                    match runtime.block_on(body.chunk()).map_err(io::Error::other)? {
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
