//! Asks whether what a zTOC says can be true, and derives what it leaves out.
//!
//! Owns nothing. Invariants established here are those of [`SpanTable`] and [`FileEntry`]. More is accepted than
//! upstream's loader takes (two spans at offset 0 behind an empty first block; size fields on links and devices),
//! nothing less strict: a claim that leads out of the layer or the archive is refused.

use super::read::Raw;
use super::spans::Span;
use super::{Algorithm, FileEntry, SpanTable, ZtocError};
use crate::compression::gzip::{Checkpoint, Zinfo};
use crate::compression::uncompressed::TarZinfo;
use crate::compression::zstd::Frames;
use crate::tar::EntryKind;
use crate::units::ByteRange;

/// Bytes of a tar block.
const BLOCK: u64 = 512;

/// Deflate cannot give more plain bytes for one compressed byte than this.
const DEFLATE_RATIO: u64 = 1032;

/// The same for zstd: a block of 128 KiB takes at least 4 bytes.
const ZSTD_RATIO: u64 = 1 << 15;

/// Sorts the files by offset, derives their header offsets and checks that they lie in the archive.
///
/// The header region of an entry starts where the content before it, rounded up to a block, ends. Only regular
/// files have content, whatever the size field of other entries says.
pub(super) fn files(mut files: Vec<FileEntry>, archive_size: u64) -> Result<Vec<FileEntry>, ZtocError> {
    // Writers sort; of two files at one offset the second is refused below, so their order does not matter.
    if !files.is_sorted_by_key(|file| file.content_offset) {
        files.sort_unstable_by_key(|file| file.content_offset);
    }
    let mut header_offset = 0;
    for (index, file) in files.iter_mut().enumerate() {
        let wrong = |reason| Err(ZtocError::Entry { index, reason });
        let header_end = header_offset + BLOCK;
        if file.content_offset < header_end {
            return wrong("overlaps the entry before it");
        }
        let size = if file.kind == EntryKind::Reg { file.size } else { 0 };
        let Some(end) = file.content_offset.checked_add(size).filter(|&end| end <= archive_size) else {
            return wrong("content is outside of the archive");
        };
        if file.name.contains(&0) || file.link_name.contains(&0) {
            return wrong("a name contains NUL");
        }
        file.header_offset = header_offset;
        header_offset = end.next_multiple_of(BLOCK);
    }
    Ok(files)
}

/// Where a span begins. The window is an offset in the checkpoint blob; `None` when there is none in it.
pub(super) type Start = Checkpoint<Option<usize>>;

/// Makes the span table.
pub(super) fn spans(raw: &Raw) -> Result<SpanTable, ZtocError> {
    let (span_size, mut spans) = match raw.algorithm {
        Algorithm::Gzip => gzip(raw)?,
        Algorithm::Uncompressed => {
            let zinfo = TarZinfo::decode(&raw.checkpoints)?;
            let sizes = (raw.compressed_size, raw.uncompressed_size);
            plain(zinfo, sizes, raw.digests.len() as u64).map_err(|error| match error {
                ZtocError::SpanCount { spans, .. } => count(raw, spans),
                other => other,
            })?
        }
        Algorithm::Zstd => zstd(raw)?,
    };
    if spans.len() != raw.digests.len() || spans.len() as i64 - 1 != i64::from(raw.max_span_id) {
        return Err(count(raw, spans.len() as u64));
    }
    for (span, digest) in spans.iter_mut().zip(&raw.digests) {
        span.digest = *digest;
    }
    let blob = raw.checkpoints.clone();
    Ok(SpanTable { span_size, uncompressed_size: raw.uncompressed_size, spans, blob })
}

fn count(raw: &Raw, spans: u64) -> ZtocError {
    ZtocError::SpanCount { spans, digests: raw.digests.len() as u64, max_span_id: raw.max_span_id }
}

fn gzip(raw: &Raw) -> Result<(u64, Vec<Span>), ZtocError> {
    let zinfo = Zinfo::decode(&raw.checkpoints).map_err(ZtocError::Checkpoints)?;
    let span_size = u64::try_from(zinfo.span_size)
        .map_err(|_| ZtocError::Number { what: "span size", value: zinfo.span_size })?;
    let sizes = (raw.compressed_size, raw.uncompressed_size);
    Ok((span_size, ascending(&zinfo.checkpoints, sizes, Algorithm::Gzip)?))
}

fn zstd(raw: &Raw) -> Result<(u64, Vec<Span>), ZtocError> {
    let frames = Frames::decode(&raw.checkpoints).map_err(ZtocError::Checkpoints)?;
    let start = |&(input, output): &(u64, u64)| Start { input, output, bits: 0, window: None };
    let starts: Vec<Start> = frames.starts.iter().map(start).collect();
    let sizes = (raw.compressed_size, raw.uncompressed_size);
    Ok((frames.span_size, ascending(&starts, sizes, Algorithm::Zstd)?))
}

/// The spans that begin at `starts`. `sizes` are those of the layer and of the plain archive.
pub(super) fn ascending(
    starts: &[Start],
    (compressed_size, uncompressed_size): (u64, u64),
    algorithm: Algorithm,
) -> Result<Vec<Span>, ZtocError> {
    let (ratio, too_many) = match algorithm {
        Algorithm::Zstd => (ZSTD_RATIO, "a span claims more plain bytes than zstd can hold"),
        _ => (DEFLATE_RATIO, "a span claims more plain bytes than deflate can hold"),
    };
    let mut spans = Vec::with_capacity(starts.len());
    let mut following = starts.iter().skip(1);
    for start in starts {
        let next = following.next();
        let end = next.map_or(compressed_size, |next| next.input);
        let out_end = next.map_or(uncompressed_size.max(start.output), |next| next.output);
        if end <= start.input || end > compressed_size {
            return Err(ZtocError::Checkpoints("compressed offsets do not ascend within the layer"));
        }
        let length = end - start.start();
        match out_end.checked_sub(start.output) {
            None => return Err(ZtocError::Checkpoints("uncompressed offsets descend")),
            Some(plain) if plain / ratio > length => return Err(ZtocError::Checkpoints(too_many)),
            Some(_) => {}
        }
        spans.push(Span {
            compressed: ByteRange::new(start.start(), end),
            out: start.output,
            bits: start.bits,
            window_at: start.window,
            digest: None,
        });
    }
    if spans.first().is_none_or(|first| first.out != 0) {
        return Err(ZtocError::Checkpoints("the first span does not start at the archive's start"));
    }
    Ok(spans)
}

/// The spans of a plain tar, for which there are `digests` digests.
pub(super) fn plain(
    zinfo: TarZinfo,
    (compressed_size, uncompressed_size): (u64, u64),
    digests: u64,
) -> Result<(u64, Vec<Span>), ZtocError> {
    let number = |what, value: i64| u64::try_from(value).map_err(|_| ZtocError::Number { what, value });
    let (span_size, size) = (number("span size", zinfo.span_size)?, number("layer size", zinfo.size)?);
    if span_size == 0 {
        return Err(ZtocError::Number { what: "span size", value: 0 });
    }
    if size != compressed_size || uncompressed_size > size {
        return Err(ZtocError::Checkpoints("sizes of layer and archive disagree"));
    }
    let spans = size.div_ceil(span_size);
    if spans != digests {
        return Err(ZtocError::SpanCount { spans, digests, max_span_id: 0 });
    }
    let span = |number: u64| {
        let start = number * span_size;
        let compressed = ByteRange::new(start, start.saturating_add(span_size).min(size));
        Span { compressed, out: start, bits: 0, window_at: None, digest: None }
    };
    Ok((span_size, (0..spans).map(span).collect()))
}
