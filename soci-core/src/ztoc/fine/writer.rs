//! Makes the fine index of a layer while its zTOC is built.
//!
//! [`FineWriter`] owns the state of one build. Invariant: memory grows with the compressed windows only, which are made as
//! they come.

use super::table::{Contents, encode};
use super::window::Press;
use crate::compression::gzip::{Checkpoint, Scanner};
use crate::digest::{Digest, Hasher};
use crate::ztoc::Algorithm;
use crate::ztoc::BuildError;
use crate::ztoc::place::{Checkpointing, Placement};
use crate::ztoc::verify::Start;

/// Span size of a fine index when none is asked for: half of it is the most that a read fetches in vain on average, and
/// smaller ones cost more digests and windows than that saves.
pub const DEFAULT_FINE_SPAN_SIZE: u64 = 256 << 10;

/// What fine index to build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FineOptions {
    /// Wanted uncompressed bytes per span; not 0.
    pub span_size: u64,
}

impl Default for FineOptions {
    fn default() -> Self {
        Self { span_size: DEFAULT_FINE_SPAN_SIZE }
    }
}

/// A fine index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltFine {
    /// The table's bytes.
    pub table: Vec<u8>,
    /// The blob of windows; empty when no span needs one.
    pub windows: Vec<u8>,
}

/// What the table says of the layer as a whole.
pub(in crate::ztoc) struct Layer<'a> {
    pub digest: Digest,
    pub compressed_size: u64,
    pub uncompressed_size: u64,
    pub algorithm: Algorithm,
    /// Plain offsets of the zTOC's spans.
    pub coarse: &'a [u64],
    /// A zTOC without spans.
    pub files: &'a [u8],
}

/// The spans so far.
pub(in crate::ztoc) struct FineWriter {
    span_size: u64,
    placement: Placement,
    starts: Vec<Start>,
    digests: Vec<Digest>,
    /// Hashes the present span; `None` before the first one.
    span: Option<Hasher>,
    press: Press,
    places: Vec<Option<(u32, Digest)>>,
    windows: Vec<u8>,
}

impl FineWriter {
    pub(in crate::ztoc) fn new(options: FineOptions) -> Result<Self, BuildError> {
        let span_size = options.span_size;
        if span_size == 0 || i64::try_from(span_size).is_err() {
            return Err(BuildError::SpanSize(span_size));
        }
        Ok(Self {
            span_size,
            placement: Placement::new(span_size, &Checkpointing::EverySpanSize),
            starts: Vec::new(),
            digests: Vec::new(),
            span: None,
            press: Press::new().map_err(BuildError::Press)?,
            places: Vec::new(),
            windows: Vec::new(),
        })
    }

    /// See [`Placement::free`].
    pub(in crate::ztoc) fn free(&self, output: u64) -> u64 {
        self.placement.free(output)
    }

    /// Whether a span begins at an end of a block or frame after `output` plain bytes.
    pub(in crate::ztoc) fn due(&mut self, output: u64) -> bool {
        self.placement.place(output)
    }

    /// Adds bytes of the layer to the present span.
    pub(in crate::ztoc) fn bytes(&mut self, bytes: &[u8]) {
        if let Some(span) = &mut self.span {
            span.update(bytes);
        }
    }

    /// Adds bytes of a plain tar, at `offset` in it.
    pub(in crate::ztoc) fn plain(&mut self, mut offset: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let behind = offset % self.span_size;
            if behind == 0 {
                self.start(offset, offset);
            }
            let left = usize::try_from(self.span_size - behind).unwrap_or(usize::MAX);
            let (now, rest) = bytes.split_at(left.min(bytes.len()));
            self.bytes(now);
            offset += now.len() as u64;
            bytes = rest;
        }
    }

    /// Begins a span that needs nothing from before it.
    pub(in crate::ztoc) fn start(&mut self, input: u64, output: u64) {
        self.next(Checkpoint { input, output, bits: 0, window: None });
        self.places.push(None);
    }

    /// Begins a span between two blocks of gzip. `last_byte` is the one that was consumed last.
    pub(in crate::ztoc) fn checkpoint(
        &mut self,
        scanner: &Scanner,
        bits: u8,
        last_byte: u8,
    ) -> Result<(), BuildError> {
        self.next(Checkpoint { input: scanner.total_in(), output: scanner.total_out(), bits, window: None });
        if bits != 0 {
            self.bytes(&[last_byte]);
        }
        let place = match scanner.reach() {
            0 => None,
            reach => {
                let bytes = self.press.press(scanner.window(), reach).map_err(BuildError::Press)?;
                self.windows.extend_from_slice(&bytes);
                Some((bytes.len() as u32, Digest::of(&bytes)))
            }
        };
        self.places.push(place);
        Ok(())
    }

    fn next(&mut self, start: Start) {
        if let Some(span) = self.span.replace(Hasher::new()) {
            self.digests.push(span.finish());
        }
        self.starts.push(start);
    }

    /// `None` when the table would be larger than readers take.
    pub(in crate::ztoc) fn finish(mut self, layer: &Layer<'_>) -> Result<Option<BuiltFine>, BuildError> {
        self.digests.extend(self.span.take().map(Hasher::finish));
        let none = self.windows.is_empty();
        let table = encode(&Contents {
            layer: layer.digest,
            compressed_size: layer.compressed_size,
            uncompressed_size: layer.uncompressed_size,
            algorithm: layer.algorithm,
            span_size: self.span_size,
            coarse: layer.coarse,
            starts: &self.starts,
            digests: &self.digests,
            windows: if none { &[] } else { &self.places },
            windows_digest: if none { Digest::from_bytes([0; 32]) } else { Digest::of(&self.windows) },
            windows_size: self.windows.len() as u64,
            files: layer.files,
        });
        let table = table.map_err(BuildError::Press)?;
        Ok(table.map(|table| BuiltFine { table, windows: self.windows }))
    }
}
