//! The spans of a layer: which compressed bytes give which plain bytes, with the digest of each.
//!
//! Owns the checkpoint blob (a slice of the zTOC's bytes, never copied). Invariant (established by `verify`):
//! at least one span unless the layer is empty; spans are ordered by both offsets, lie in the layer and cover
//! `[0, uncompressed_size)` without gap.

use bytes::Bytes;

use crate::digest::Digest;
use crate::units::{ByteRange, SpanId, UncompressedOffset};

/// Spans of one layer.
#[derive(Debug, Clone)]
pub struct SpanTable {
    pub(super) span_size: u64,
    pub(super) uncompressed_size: u64,
    pub(super) spans: Vec<Span>,
    /// The windows' bytes: the zinfo blob, or empty for an uncompressed layer.
    pub(super) blob: Bytes,
}

/// One span.
#[derive(Debug, Clone)]
pub(super) struct Span {
    pub compressed: ByteRange,
    /// Where the plain bytes start; not yet cut to the archive's size.
    pub out: u64,
    /// Bits of the first compressed byte that belong to this span; 0 means that it starts at a byte.
    pub bits: u8,
    /// Where the window lies in the blob; `None` means 32 KiB of zeros.
    pub window_at: Option<usize>,
    pub digest: Option<Digest>,
}

impl SpanTable {
    /// Number of spans.
    pub fn len(&self) -> u32 {
        self.spans.len() as u32
    }

    /// True for an empty layer.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Compressed bytes of the longest span: what has to be fetched, and kept until it is checked, for one byte.
    pub fn longest(&self) -> u64 {
        self.spans.iter().map(|span| span.compressed.len()).max().unwrap_or_default()
    }

    /// Requested uncompressed bytes per span, as recorded; real spans of a gzip layer differ from it.
    pub fn span_size(&self) -> u64 {
        self.span_size
    }

    /// The span that holds the uncompressed `offset`; offsets past the end give the last span.
    pub fn span_of(&self, offset: UncompressedOffset) -> SpanId {
        let after = self.spans.partition_point(|span| span.out <= offset.0);
        SpanId(after.saturating_sub(1) as u32)
    }

    /// Bytes of the layer blob that the span needs; neighbours may share one byte. Empty for an unknown span.
    pub fn compressed_range(&self, span: SpanId) -> ByteRange {
        self.spans.get(span.0 as usize).map_or_else(ByteRange::default, |span| span.compressed)
    }

    /// Plain bytes that the span gives. Empty for an unknown span.
    pub fn uncompressed_range(&self, span: SpanId) -> ByteRange {
        let Some(this) = self.spans.get(span.0 as usize) else { return ByteRange::default() };
        let end = self.spans.get(span.0 as usize + 1).map_or(self.uncompressed_size, |next| next.out);
        ByteRange::new(this.out.min(self.uncompressed_size), end.min(self.uncompressed_size))
    }

    /// Digest of the bytes of [`SpanTable::compressed_range`]; `None` when the zTOC has no usable one, in which
    /// case the span's bytes must not be served.
    pub fn digest(&self, span: SpanId) -> Option<Digest> {
        self.spans.get(span.0 as usize)?.digest
    }

    /// Numbers of the spans that hold the uncompressed bytes of `range`, as half-open range; an empty `range`
    /// needs none.
    pub fn spans_covering(&self, range: ByteRange) -> std::ops::Range<u32> {
        let end = range.end.min(self.uncompressed_size);
        if range.start >= end {
            return 0..0;
        }
        let first = self.span_of(UncompressedOffset(range.start)).0;
        first..self.span_of(UncompressedOffset(end - 1)).0 + 1
    }
}
