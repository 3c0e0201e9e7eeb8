//! Plain bytes of one span.
//!
//! [`SpanDecoder`] owns the state of one decompression. Invariant: it gives exactly the bytes that the span table
//! promises, or an error. It does not check the span's digest: that is its caller's first duty.

use std::io;

use ::zstd::stream::raw::{Decoder, Operation};

use super::{Algorithm, Window, Ztoc};
use crate::compression::gzip::{Checkpoint, Extractor, InflateError, Stop, WINDOW};
use crate::compression::zstd;
use crate::units::{ByteRange, SpanId};

/// Room for plain bytes of a zstd layer.
const BUFFER: usize = 128 << 10;

/// What lies before the first byte of a layer, for blobs that do not store it.
static NOTHING_BEFORE: [u8; WINDOW] = [0; WINDOW];

/// Why a span could not be decompressed.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// The zTOC has no such span.
    #[error("there is no span {0}")]
    UnknownSpan(SpanId),
    /// The span's window is not in the zTOC, and was not given.
    #[error("span {0} cannot be decompressed without its window")]
    NoWindow(SpanId),
    /// Not the bytes of the span: more or fewer than its compressed range.
    #[error("span has {expected} compressed bytes, got {actual}")]
    Length {
        /// Length of the compressed range.
        expected: u64,
        /// Bytes given; one more than expected stands for any larger number.
        actual: u64,
    },
    /// The compressed bytes are damaged, or do not belong to this zTOC.
    #[error("compressed bytes of the span are damaged")]
    Damaged(#[source] InflateError),
    /// The same for a zstd layer.
    #[error("compressed bytes of the span are damaged")]
    Zstd(#[source] io::Error),
    /// The compressed bytes hold less than the zTOC says.
    #[error("span ends {missing} plain bytes early")]
    Short {
        /// Plain bytes missing.
        missing: u64,
    },
    /// The receiver of plain bytes refused.
    #[error("plain bytes of the span could not be taken")]
    Sink(#[source] io::Error),
}

/// Decompresses one span while its bytes arrive.
#[derive(Debug)]
pub struct SpanDecoder {
    kind: Kind,
    compressed: ByteRange,
    taken: u64,
}

#[derive(Debug)]
enum Kind {
    Gzip(Extractor),
    Plain { wanted: u64 },
    Zstd { decoder: Frames, wanted: u64 },
}

/// The decompressor of a run of zstd frames, and room for its output.
struct Frames(Decoder<'static>, Box<[u8]>);

impl std::fmt::Debug for Frames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Frames")
    }
}

impl Frames {
    /// Takes compressed bytes and gives what they hold to `sink`, but no more than `wanted`.
    fn push(
        &mut self,
        mut compressed: &[u8],
        wanted: &mut u64,
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), ExtractError> {
        while *wanted > 0 {
            let status = self.0.run_on_buffers(compressed, &mut self.1).map_err(ExtractError::Zstd)?;
            if status.bytes_read == 0 && status.bytes_written == 0 {
                break;
            }
            compressed = &compressed[status.bytes_read..];
            let length = usize::try_from(*wanted).unwrap_or(usize::MAX).min(status.bytes_written);
            *wanted -= length as u64;
            if length > 0 {
                sink(&self.1[..length]).map_err(ExtractError::Sink)?;
            }
        }
        Ok(())
    }
}

impl SpanDecoder {
    /// A decoder at the start of `span`. `window` is needed if [`Ztoc::windows`] has one for the span, and not looked at
    /// otherwise.
    pub fn new(ztoc: &Ztoc, span: SpanId, window: Option<&Window>) -> Result<Self, ExtractError> {
        let table = ztoc.spans();
        let place = table.spans.get(span.0 as usize).ok_or(ExtractError::UnknownSpan(span))?;
        let wanted = table.uncompressed_range(span).len();
        let kind = match ztoc.algorithm() {
            Algorithm::Uncompressed => Kind::Plain { wanted },
            Algorithm::Zstd => {
                let decoder = zstd::decoder().map_err(ExtractError::Zstd)?;
                Kind::Zstd { decoder: Frames(decoder, vec![0; BUFFER].into()), wanted }
            }
            Algorithm::Gzip => {
                let detached = ztoc.windows().and_then(|windows| windows.of(span));
                let window = match (place.window_at, detached) {
                    (Some(at), _) => &table.blob[at..at + WINDOW],
                    (None, Some(_)) => window.ok_or(ExtractError::NoWindow(span))?.bytes(),
                    (None, None) => &NOTHING_BEFORE,
                };
                let input = place.compressed.start + u64::from(place.bits != 0);
                let checkpoint = Checkpoint { input, output: place.out, bits: place.bits, window };
                Kind::Gzip(Extractor::new(&checkpoint, wanted).map_err(ExtractError::Damaged)?)
            }
        };
        Ok(Self { kind, compressed: place.compressed, taken: 0 })
    }

    /// Takes the next compressed bytes of the span and gives the plain bytes they hold to `sink`, in order.
    pub fn push(
        &mut self,
        compressed: &[u8],
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), ExtractError> {
        self.taken += compressed.len() as u64;
        if self.taken > self.compressed.len() {
            return Err(self.wrong_length());
        }
        match &mut self.kind {
            Kind::Gzip(extractor) => extractor.push(compressed, sink).map_err(|stop| match stop {
                Stop::Damaged(error) => ExtractError::Damaged(error),
                Stop::Sink(error) => ExtractError::Sink(error),
            }),
            Kind::Zstd { decoder, wanted } => decoder.push(compressed, wanted, sink),
            Kind::Plain { wanted } => {
                let length = usize::try_from(*wanted).unwrap_or(usize::MAX).min(compressed.len());
                *wanted -= length as u64;
                if length > 0 { sink(&compressed[..length]).map_err(ExtractError::Sink) } else { Ok(()) }
            }
        }
    }

    /// Declares the end of the compressed bytes.
    pub fn finish(self) -> Result<(), ExtractError> {
        if self.taken != self.compressed.len() {
            return Err(self.wrong_length());
        }
        match match &self.kind {
            Kind::Gzip(extractor) => extractor.wanted(),
            Kind::Plain { wanted } | Kind::Zstd { wanted, .. } => *wanted,
        } {
            0 => Ok(()),
            missing => Err(ExtractError::Short { missing }),
        }
    }

    fn wrong_length(&self) -> ExtractError {
        ExtractError::Length { expected: self.compressed.len(), actual: self.taken }
    }
}

/// Decompresses one whole span.
///
/// `compressed` is exactly the bytes of [`SpanTable::compressed_range`](super::SpanTable::compressed_range), their
/// digest already checked, and `window` what [`SpanDecoder::new`] wants. `sink` gets consecutive plain chunks, in total exactly
/// [`SpanTable::uncompressed_range`](super::SpanTable::uncompressed_range) bytes when `Ok` is returned.
pub fn extract_span(
    ztoc: &Ztoc,
    span: SpanId,
    window: Option<&Window>,
    compressed: &[u8],
    sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), ExtractError> {
    let mut decoder = SpanDecoder::new(ztoc, span, window)?;
    decoder.push(compressed, sink)?;
    decoder.finish()
}
