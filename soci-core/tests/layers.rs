//! Properties of zTOCs over random layers: every span gives the right bytes, whatever the shape of the gzip stream,
//! the span size and the chunking; damage is always seen and never panics.

use std::io::{self, Read};

use bytes::Bytes;
use proptest::prelude::*;
use soci_core::digest::Digest;
use soci_core::tar::EntryKind;
use soci_core::testing::{GzipShape, TarBuilder, TarEntry, TarFormat, content, gzip};
use soci_core::units::{ByteRange, SpanId};
use soci_core::ztoc::{
    BuildOptions, Built, Checkpointing, ExtractError, SpanDecoder, Ztoc, build_gzip, build_tar, extract_span,
};

/// Gives its bytes in pieces of changing size.
struct Pieces<'a> {
    rest: &'a [u8],
    sizes: std::iter::Cycle<std::slice::Iter<'a, usize>>,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let size = self.sizes.next().copied().unwrap_or(1).min(buffer.len()).min(self.rest.len());
        let (now, rest) = self.rest.split_at(size);
        buffer[..size].copy_from_slice(now);
        self.rest = rest;
        Ok(size)
    }
}

fn tree() -> impl Strategy<Value = Vec<TarEntry>> {
    let file = (any::<u64>(), prop_oneof![3 => 0_usize..3000, 1 => 0_usize..400_000])
        .prop_map(|(seed, length)| TarEntry::file("", content(seed, length)));
    let entry = prop_oneof![
        5 => file,
        1 => Just(TarEntry::dir("")),
        1 => Just(TarEntry::symlink("", "target")),
        1 => Just(TarEntry::file("", *b"x").xattr("security.capability", b"\x01\0\xff").mtime(5, 20)),
    ];
    proptest::collection::vec(entry, 0..10).prop_map(|mut entries| {
        for (number, entry) in entries.iter_mut().enumerate() {
            let slash = if entry.kind == EntryKind::Dir { "/" } else { "" };
            entry.name = format!("dir/{number}{slash}").into_bytes();
        }
        entries
    })
}

fn shape() -> impl Strategy<Value = GzipShape> {
    prop_oneof![
        3 => (0_u32..=9).prop_map(GzipShape::Level),
        1 => Just(GzipShape::Named),
        1 => (20_000_usize..200_000).prop_map(GzipShape::Members),
        1 => (20_000_usize..200_000).prop_map(GzipShape::Flushed),
        1 => Just(GzipShape::EmptyMembers),
        1 => Just(GzipShape::EveryField),
        1 => (1_usize..2000).prop_map(GzipShape::ZerosBehind),
    ]
}

fn options(span_size: u64) -> BuildOptions {
    BuildOptions { span_size, diff_id: true, ..BuildOptions::default() }
}

fn slice(bytes: &[u8], range: ByteRange) -> &[u8] {
    &bytes[range.start as usize..range.end as usize]
}

fn extract(ztoc: &Ztoc, span: SpanId, compressed: &[u8]) -> Result<Vec<u8>, ExtractError> {
    let mut plain = Vec::new();
    extract_span(ztoc, span, None, compressed, &mut |chunk| {
        plain.extend_from_slice(chunk);
        Ok(())
    })?;
    Ok(plain)
}

/// Everything that a zTOC promises about its layer.
fn check(built: &Built, layer: &[u8], plain: &[u8], entries: &[TarEntry]) -> Ztoc {
    assert_eq!((built.layer_digest, built.layer_size), (Digest::of(layer), layer.len() as u64));
    assert_eq!(built.diff_id, Some(Digest::of(plain)));
    let ztoc = Ztoc::open(Bytes::from(built.ztoc.clone())).unwrap();
    assert_eq!(ztoc.compressed_size(), layer.len() as u64);
    assert_eq!(ztoc.files().len(), entries.len());
    for (file, entry) in ztoc.files().iter().zip(entries) {
        assert_eq!((file.name.as_ref(), file.kind), (entry.name.as_slice(), entry.kind));
        assert_eq!(slice(plain, file.content_range()), entry.data);
        assert_eq!(file.mtime, entry.mtime);
        assert!(file.header_offset.is_multiple_of(512) && file.header_offset < file.content_offset);
        assert_eq!(file.xattrs_schily().count(), entry.pax.len());
    }
    let (spans, mut at) = (ztoc.spans(), 0);
    for span in (0..spans.len()).map(SpanId) {
        let (compressed, range) = (spans.compressed_range(span), spans.uncompressed_range(span));
        let bytes = slice(layer, compressed);
        assert_eq!(spans.digest(span), Some(Digest::of(bytes)));
        assert_eq!(range.start, at);
        assert_eq!(extract(&ztoc, span, bytes).unwrap(), slice(plain, range));
        if !range.is_empty() {
            assert_eq!(spans.spans_covering(range), span.0..span.0 + 1);
        }
        at = range.end;
    }
    assert_eq!(at, ztoc.uncompressed_size());
    ztoc
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_span_gives_the_right_bytes(
        entries in tree(),
        shape in shape(),
        span_size in prop_oneof![Just(0_u64), 1_u64..1 << 18, Just(1 << 22)],
        padding in 0_usize..40,
        sizes in proptest::collection::vec(1_usize..70_000, 1..5),
        wanted in proptest::collection::vec(0_u64..600_000, 0..6),
    ) {
        let mut plain = TarBuilder::archive(TarFormat::Pax, &entries);
        plain.resize(plain.len() + padding * 512, 0);
        let layer = gzip(&shape, &plain);
        let built = build_gzip(layer.as_slice(), &options(span_size)).unwrap();
        check(&built, &layer, &plain, &entries);
        let pieces = Pieces { rest: &layer, sizes: sizes.iter().cycle() };
        prop_assert_eq!(&build_gzip(pieces, &options(span_size)).unwrap(), &built);

        let checkpointing = Checkpointing::Boundaries(wanted);
        let built =
            build_gzip(layer.as_slice(), &BuildOptions { checkpointing, ..options(span_size) }).unwrap();
        check(&built, &layer, &plain, &entries);

        let span_size = span_size.max(1000);
        let built = build_tar(plain.as_slice(), &options(span_size)).unwrap();
        check(&built, &plain, &plain, &entries);
        let pieces = Pieces { rest: &plain, sizes: sizes.iter().cycle() };
        prop_assert_eq!(build_tar(pieces, &options(span_size)).unwrap(), built);
    }

    #[test]
    fn spans_decode_in_pieces(seed in any::<u64>(), shape in shape(), piece in 1_usize..5000) {
        let plain = TarBuilder::archive(TarFormat::Pax, &[TarEntry::file("f", content(seed, 300_000))]);
        let layer = gzip(&shape, &plain);
        let ztoc = Ztoc::open(build_gzip(layer.as_slice(), &options(50_000)).unwrap().ztoc.into()).unwrap();
        for span in (0..ztoc.spans().len()).map(SpanId) {
            let bytes = slice(&layer, ztoc.spans().compressed_range(span));
            let mut decoder = SpanDecoder::new(&ztoc, span, None).unwrap();
            let mut out = Vec::new();
            for piece in bytes.chunks(piece) {
                decoder.push(piece, &mut |chunk| { out.extend_from_slice(chunk); Ok(()) }).unwrap();
            }
            decoder.finish().unwrap();
            prop_assert_eq!(out, slice(&plain, ztoc.spans().uncompressed_range(span)));
        }
    }

    #[test]
    fn a_damaged_layer_is_refused_or_has_another_digest(
        seed in any::<u64>(),
        shape in shape(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), 1_u8..), 1..4),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let plain = TarBuilder::archive(TarFormat::Pax, &[TarEntry::file("f", content(seed, 200_000))]);
        let layer = gzip(&shape, &plain);
        let built = build_gzip(layer.as_slice(), &options(40_000)).unwrap();
        let ztoc = Ztoc::open(built.ztoc.into()).unwrap();
        let mut damaged = layer.clone();
        for (at, change) in damage {
            let at = at.index(damaged.len());
            damaged[at] ^= change;
        }
        for span in (0..ztoc.spans().len()).map(SpanId) {
            let range = ztoc.spans().compressed_range(span);
            let bytes = slice(&damaged, range);
            // Whatever comes out of damaged bytes, their digest gives them away first.
            if bytes == slice(&layer, range) {
                prop_assert_eq!(
                    extract(&ztoc, span, bytes).unwrap(),
                    slice(&plain, ztoc.spans().uncompressed_range(span))
                );
            } else {
                prop_assert_ne!(ztoc.spans().digest(span), Some(Digest::of(bytes)));
                let _ = extract(&ztoc, span, bytes);
            }
            let short = &bytes[..bytes.len() / 2];
            let wrong_length = matches!(extract(&ztoc, span, short), Err(ExtractError::Length { .. } | ExtractError::Damaged(_)));
            prop_assert!(wrong_length);
        }
        if let Some(cut) = cut {
            damaged.truncate(cut.index(damaged.len()));
        }
        match build_gzip(damaged.as_slice(), &options(40_000)) {
            Ok(other) => prop_assert!(damaged == layer || other.layer_digest != built.layer_digest),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn a_damaged_ztoc_never_panics_nor_leads_out_of_the_layer(
        tar in any::<bool>(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let entries = [
            TarEntry::dir("d/"),
            TarEntry::file("d/f", content(3, 90_000)).xattr("user.a", "b"),
            TarEntry::symlink("d/l", "f"),
        ];
        let plain = TarBuilder::archive(TarFormat::Pax, &entries);
        let (layer, built) = if tar {
            (plain.clone(), build_tar(plain.as_slice(), &options(30_000)).unwrap())
        } else {
            let layer = gzip(&GzipShape::Level(6), &plain);
            let built = build_gzip(layer.as_slice(), &options(30_000)).unwrap();
            (layer, built)
        };
        let mut bytes = built.ztoc;
        // Nearly all of a gzip zTOC is windows; strike outside of them.
        let outside: Vec<usize> = (0..bytes.len()).filter(|at| tar || *at < 400 || *at + 1200 > bytes.len()).collect();
        for (at, byte) in damage {
            bytes[outside[at.index(outside.len())]] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let Ok(ztoc) = Ztoc::open(bytes.into()) else { return Ok(()) };
        let archive = ByteRange::new(0, ztoc.uncompressed_size());
        for file in ztoc.files() {
            prop_assert!(archive.contains_range(&file.content_range()));
            prop_assert!(file.header_offset < file.content_offset);
        }
        for span in (0..ztoc.spans().len().min(100)).map(SpanId) {
            let range = ztoc.spans().compressed_range(span);
            prop_assert!(range.end <= ztoc.compressed_size());
            prop_assert!(archive.contains_range(&ztoc.spans().uncompressed_range(span)));
            if range.end <= layer.len() as u64
                && let Ok(plain) = extract(&ztoc, span, slice(&layer, range))
            {
                prop_assert_eq!(plain.len() as u64, ztoc.spans().uncompressed_range(span).len());
            }
        }
    }
}
