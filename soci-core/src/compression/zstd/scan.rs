//! One pass over a zstd layer: plain bytes and ends of frames, in order.
//!
//! [`Scanner`] owns the decompressor and a buffer for its output. Invariant: `total_in` and `total_out` count over all
//! frames, those without content (skippable ones) too.

use zstd::stream::raw::{Decoder, Operation};

use super::{ZstdError, decoder};

const BUFFER: usize = 256 << 10;

/// What one step did.
#[derive(Debug)]
pub(crate) struct Progress<'a> {
    /// Compressed bytes taken.
    pub consumed: usize,
    /// What they gave.
    pub plain: &'a [u8],
    /// A frame ended with them.
    pub ended: bool,
}

/// A decompressor of a whole zstd file that tells where frames end.
pub(crate) struct Scanner {
    decoder: Decoder<'static>,
    buffer: Box<[u8]>,
    total_in: u64,
    total_out: u64,
    inside: bool,
}

impl std::fmt::Debug for Scanner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scanner").field("total_in", &self.total_in).finish_non_exhaustive()
    }
}

impl Scanner {
    pub(crate) fn new() -> Result<Self, ZstdError> {
        let decoder =
            decoder().map_err(|error| ZstdError::Damaged { offset: 0, reason: error.to_string() })?;
        let buffer = vec![0; BUFFER].into_boxed_slice();
        Ok(Self { decoder, buffer, total_in: 0, total_out: 0, inside: true })
    }

    /// Compressed bytes consumed.
    pub(crate) fn total_in(&self) -> u64 {
        self.total_in
    }

    /// Plain bytes produced.
    pub(crate) fn total_out(&self) -> u64 {
        self.total_out
    }

    /// Goes on with `input`, the bytes after those consumed so far; `None` when all of them were taken and gave all they
    /// hold.
    pub(crate) fn step(&mut self, input: &[u8]) -> Result<Option<Progress<'_>>, ZstdError> {
        if input.is_empty() && !self.inside {
            return Ok(None);
        }
        let damaged =
            |error: std::io::Error| ZstdError::Damaged { offset: self.total_in, reason: error.to_string() };
        let status = self.decoder.run_on_buffers(input, &mut self.buffer).map_err(damaged)?;
        if status.bytes_read == 0 && status.bytes_written == 0 {
            return Ok(None);
        }
        self.total_in += status.bytes_read as u64;
        self.total_out += status.bytes_written as u64;
        let ended = status.remaining == 0;
        self.inside = !ended;
        Ok(Some(Progress { consumed: status.bytes_read, plain: &self.buffer[..status.bytes_written], ended }))
    }

    /// Declares the end of the input.
    pub(crate) fn finish(&self) -> Result<(), ZstdError> {
        if self.inside { Err(ZstdError::Truncated { offset: self.total_in }) } else { Ok(()) }
    }
}
