//! Fine indexes: every span with its window gives the right bytes, a table says what the zTOC says, and damage is seen.

use std::io;

use bytes::Bytes;
use proptest::prelude::*;
use soci_core::digest::Digest;
use soci_core::testing::{GzipShape, TarBuilder, TarEntry, TarFormat, gzip};
use soci_core::units::{ByteRange, SpanId};
use soci_core::ztoc::{
    BuildError, BuildOptions, Built, BuiltFine, Bundle, BundleError, Checkpointing, ExtractError,
    FineOptions, Window, Ztoc, ZtocError, build_gzip, build_tar, build_zstd, extract_span,
};

/// Bytes that compress about as well as programs do, a little differently for each seed.
fn content(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + 48);
    while bytes.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let word = (state >> 33) as usize;
        match word % 4 {
            0 => bytes.extend_from_slice(&state.to_le_bytes()),
            1 if bytes.len() > 30_000 => {
                let from = bytes.len() - 1 - word % 30_000;
                bytes.extend_from_within(from..(from + 40).min(bytes.len()));
            }
            _ => bytes.extend_from_slice(&b"the quick brown fox jumps over"[word % 20..]),
        }
    }
    bytes.truncate(length);
    bytes
}

fn tree() -> impl Strategy<Value = Vec<TarEntry>> {
    let file = (any::<u64>(), prop_oneof![3 => 0_usize..3000, 1 => 0_usize..300_000])
        .prop_map(|(seed, length)| TarEntry::file("", content(seed, length)));
    let entry = prop_oneof![
        5 => file,
        1 => Just(TarEntry::dir("")),
        1 => Just(TarEntry::symlink("", "target")),
        1 => Just(TarEntry::file("", *b"x").xattr("security.capability", b"\x01\0\xff").mtime(5, 20)),
    ];
    proptest::collection::vec(entry, 1..12).prop_map(|mut entries| {
        for (number, entry) in entries.iter_mut().enumerate() {
            entry.name = format!("dir/file-{number}").into_bytes();
        }
        entries
    })
}

fn shape() -> impl Strategy<Value = GzipShape> {
    prop_oneof![
        (0_u32..10).prop_map(GzipShape::Level),
        (1000_usize..200_000).prop_map(GzipShape::Members),
        (1000_usize..200_000).prop_map(GzipShape::Flushed),
        Just(GzipShape::EmptyMembers),
        Just(GzipShape::EveryField),
        (1_usize..1000).prop_map(GzipShape::ZerosBehind),
    ]
}

fn options(span_size: u64, fine: u64) -> BuildOptions {
    BuildOptions { span_size, fine: Some(FineOptions { span_size: fine }), ..BuildOptions::default() }
}

fn slice(bytes: &[u8], range: ByteRange) -> &[u8] {
    &bytes[range.start as usize..range.end as usize]
}

fn extract(
    ztoc: &Ztoc,
    span: SpanId,
    window: Option<&Window>,
    compressed: &[u8],
) -> Result<Vec<u8>, ExtractError> {
    let mut plain = Vec::new();
    extract_span(ztoc, span, window, compressed, &mut |chunk| {
        plain.extend_from_slice(chunk);
        Ok(())
    })?;
    Ok(plain)
}

/// Everything that a fine index promises about its layer.
fn check(built: &Built, layer: &[u8], plain: &[u8]) -> Ztoc {
    let BuiltFine { table, windows: blob } = built.fine.as_ref().expect("it was asked for");
    let ztoc = Ztoc::open(built.ztoc.clone().into()).unwrap();
    let fine = Ztoc::open_table(table.clone().into()).unwrap();
    assert_eq!((fine.digest(), fine.size()), (Digest::of(table), table.len() as u64));
    assert_eq!((fine.layer(), ztoc.layer()), (Some(built.layer_digest), None));
    assert_eq!(fine.files(), ztoc.files());
    assert_eq!(fine.algorithm(), ztoc.algorithm());
    assert_eq!(fine.compressed_size(), ztoc.compressed_size());
    assert_eq!(fine.uncompressed_size(), ztoc.uncompressed_size());
    assert_eq!((fine.build_tool(), fine.version()), (ztoc.build_tool(), ztoc.version()));
    let starts = (0..ztoc.spans().len()).map(|span| ztoc.spans().uncompressed_range(SpanId(span)).start);
    assert!(starts.eq(fine.coarse().iter().copied()));
    assert!(ztoc.coarse().is_empty() && ztoc.windows().is_none());

    let (spans, mut at, mut window_at) = (fine.spans(), 0, 0);
    for span in (0..spans.len()).map(SpanId) {
        let (compressed, range) = (spans.compressed_range(span), spans.uncompressed_range(span));
        let bytes = slice(layer, compressed);
        assert_eq!(spans.digest(span), Some(Digest::of(bytes)));
        assert_eq!(range.start, at);
        at = range.end;
        let wanted = slice(plain, range);
        let Some(place) = fine.windows().and_then(|windows| windows.of(span)) else {
            assert_eq!(extract(&fine, span, None, bytes).unwrap(), wanted);
            continue;
        };
        assert_eq!(place.range.start, window_at);
        window_at = place.range.end;
        let stored = Window::open(&place, slice(blob, place.range)).unwrap();
        assert_eq!(extract(&fine, span, Some(&stored), bytes).unwrap(), wanted);
        let before = Window::from_plain(&plain[..range.start as usize]);
        assert_eq!(extract(&fine, span, Some(&before), bytes).unwrap(), wanted);
        assert!(matches!(extract(&fine, span, None, bytes), Err(ExtractError::NoWindow(_))));
    }
    assert_eq!(at, fine.uncompressed_size());
    assert_eq!(window_at, blob.len() as u64);
    match fine.windows() {
        Some(windows) => assert_eq!((windows.size(), windows.digest()), (window_at, Digest::of(blob))),
        None => assert!(blob.is_empty()),
    }
    fine
}

/// zstd frames of so many plain bytes each.
fn frames(plain: &[u8], size: usize) -> Vec<u8> {
    plain.chunks(size).flat_map(|chunk| zstd::bulk::compress(chunk, 1).unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_span_gives_the_right_bytes(
        entries in tree(),
        shape in shape(),
        fine in 1_u64..100_000,
        span_size in 1000_u64..400_000,
        padding in 0_usize..40,
        wanted in proptest::collection::vec(0_u64..600_000, 0..6),
    ) {
        let mut plain = TarBuilder::archive(TarFormat::Pax, &entries);
        plain.resize(plain.len() + padding * 512, 0);
        let layer = gzip(&shape, &plain);
        for checkpointing in [Checkpointing::EverySpanSize, Checkpointing::Boundaries(wanted)] {
            let with = BuildOptions { checkpointing, ..options(span_size, fine) };
            let built = build_gzip(layer.as_slice(), &with).unwrap();
            check(&built, &layer, &plain);
            let alone = build_gzip(layer.as_slice(), &BuildOptions { fine: None, ..with.clone() }).unwrap();
            prop_assert_eq!(&alone.ztoc, &built.ztoc, "the zTOC is the same without a fine index");
            let even = build_gzip(layer.as_slice(), &options(span_size, fine)).unwrap();
            prop_assert_eq!(
                even.fine.unwrap().windows, built.fine.unwrap().windows,
                "fine spans do not follow the zTOC's"
            );
        }

        let built = build_tar(plain.as_slice(), &options(span_size, fine)).unwrap();
        check(&built, &plain, &plain);
        prop_assert_eq!(
            build_tar(plain.as_slice(), &BuildOptions { fine: None, ..options(span_size, fine) }).unwrap().ztoc,
            built.ztoc
        );

        let layer = frames(&plain, plain.len().div_ceil(7));
        let built = build_zstd(layer.as_slice(), &options(span_size, fine)).unwrap();
        check(&built, &layer, &plain);
        prop_assert_eq!(
            build_zstd(layer.as_slice(), &BuildOptions { fine: None, ..options(span_size, fine) }).unwrap().ztoc,
            built.ztoc
        );
    }
}
