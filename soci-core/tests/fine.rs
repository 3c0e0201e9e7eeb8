//! Fine indexes: every span with its window gives the right bytes, a table says what the zTOC says, and damage is seen.

use std::path::Path;

use bytes::Bytes;
use proptest::prelude::*;
use soci_core::digest::Digest;
use soci_core::testing::{GzipShape, TarBuilder, TarEntry, TarFormat, content, gunzip, gzip};
use soci_core::units::{ByteRange, SpanId};
use soci_core::ztoc::{
    BuildError, BuildOptions, Built, BuiltFine, Bundle, BundleError, Checkpointing, ExtractError,
    FineOptions, Window, Ztoc, ZtocError, build_gzip, build_tar, build_zstd, extract_span,
};

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

/// A table and its blob of windows, of a layer of some spans.
fn small() -> (Built, Vec<u8>) {
    let files = [
        TarEntry::file("a", content(1, 150_000)).xattr("user.x", b"y").mtime(1_700_000_000, 0),
        TarEntry::symlink("b", "a"),
        TarEntry::file("c", content(2, 60_000)),
    ];
    let plain = TarBuilder::archive(TarFormat::Pax, &files);
    let members = plain.chunks(90_000).map(|member| gzip(&GzipShape::Flushed(20_000), member));
    let layer = members.collect::<Vec<_>>().concat();
    let built = build_gzip(layer.as_slice(), &options(100_000, 15_000)).unwrap();
    check(&built, &layer, &plain);
    (built, layer)
}

fn open(table: &[u8]) -> Result<Ztoc, ZtocError> {
    Ztoc::open_table(Bytes::copy_from_slice(table))
}

#[test]
fn cut_tables_are_refused() {
    let table = small().0.fine.unwrap().table;
    for cut in 0..table.len() {
        assert!(open(&table[..cut]).is_err(), "{cut}");
    }
    assert!(open(&[&table[..], b"x"].concat()).is_err());
    assert!(Ztoc::open(table.into()).is_err(), "a table is no zTOC");
}

#[test]
fn flipped_bits_are_refused_or_stay_within_the_layer() {
    let table = small().0.fine.unwrap().table;
    let sound = open(&table).unwrap();
    let mut refused = 0;
    for bit in 0..table.len() * 8 {
        let mut wrong = table.clone();
        wrong[bit / 8] ^= 1 << (bit % 8);
        let Ok(read) = open(&wrong) else {
            refused += 1;
            continue;
        };
        assert_ne!(read.digest(), sound.digest());
        let mut at = 0;
        for span in (0..read.spans().len()).map(SpanId) {
            assert!(read.spans().compressed_range(span).end <= read.compressed_size());
            assert_eq!(read.spans().uncompressed_range(span).start, at);
            at = read.spans().uncompressed_range(span).end;
            let place = read.windows().and_then(|windows| windows.of(span));
            assert!(place.is_none_or(|place| place.range.end <= read.windows().unwrap().size()));
        }
        assert_eq!(at, read.uncompressed_size());
    }
    // Nothing says that a digest, or a byte of a name, is another one than was meant; all else is seen.
    assert!(refused > table.len(), "{refused} of {}", table.len() * 8);
}

#[test]
fn numbers_that_cannot_be_are_refused() {
    let table = small().0.fine.unwrap().table;
    let with = |at: usize, bytes: &[u8]| {
        let mut table = table.clone();
        table[at..at + bytes.len()].copy_from_slice(bytes);
        open(&table)
    };
    for (at, bytes, what) in [
        (0, &b"SOCIFINF"[..], "magic"),
        (8, &[2], "version"),
        (12, &[1], "flags"),
        (48, &[0xff; 8], "negative compressed size"),
        (56, &[0; 8], "no plain bytes, but files"),
        (64, &[0xff; 8], "negative span size"),
        (104, &[0; 8], "windows outside of their blob"),
        (104, &[0xff; 8], "windows that do not fill their blob"),
        (112, &[2], "plain tar"),
        (112, &[3], "zstd"),
        (112, &[9], "an algorithm that is not known"),
        (116, &[0xff; 4], "spans"),
        (116, &[0; 4], "no spans"),
        (120, &[0xff; 4], "windows"),
        (124, &[0xff; 4], "coarse starts"),
        (128, &[0xff; 4], "places: a bomb"),
        (132, &[0xff; 4], "files: a bomb"),
        (132, &[0, 0, 0, 16], "files: a smaller bomb"),
    ] {
        assert!(with(at, bytes).is_err(), "{what}");
    }
}

#[test]
fn a_wrong_window_is_refused_and_so_is_none() {
    let (built, _) = small();
    let fine = built.fine.unwrap();
    let table = open(&fine.table).unwrap();
    let windows = table.windows().unwrap();
    let spans = table.spans().len();
    let with: Vec<_> = (0..spans).filter_map(|span| windows.of(SpanId(span))).collect();
    // The first span needs none, nor does the one of the two other members that a span begins with.
    assert!(windows.of(SpanId(0)).is_none());
    assert_eq!((spans as usize - with.len(), with.len()), (2, 9));
    assert!(windows.of(SpanId(spans)).is_none());
    let [first, second] = [with[0], with[1]];
    assert!(Window::open(&first, slice(&fine.windows, second.range)).is_err());
    assert!(Window::open(&first, &[]).is_err());
    let whole = slice(&fine.windows, first.range);
    assert!(Window::open(&first, &whole[..whole.len() - 1]).is_err());
    assert!(Window::open(&first, whole).is_ok());
}

#[test]
fn layers_of_all_kinds_have_tables() {
    let many: Vec<TarEntry> = (0..3000).map(|n| TarEntry::file(format!("{n:05}"), *b"")).collect();
    for (entries, padding) in [(vec![], 0), (vec![TarEntry::file("f", content(3, 5000))], 1 << 20), (many, 0)]
    {
        let mut plain = TarBuilder::archive(TarFormat::Ustar, &entries);
        plain.resize(plain.len() + padding, 0);
        let layer = gzip(&GzipShape::Level(9), &plain);
        check(&build_gzip(layer.as_slice(), &options(1 << 20, 4096)).unwrap(), &layer, &plain);
        check(&build_tar(plain.as_slice(), &options(1 << 20, 4096)).unwrap(), &plain, &plain);
    }
    let empty = build_tar(&[][..], &options(1 << 20, 4096)).unwrap();
    assert!(check(&empty, &[], &[]).spans().is_empty());
    for span_size in [0, u64::MAX] {
        let built = build_tar(&[][..], &options(1 << 20, span_size));
        assert!(matches!(built, Err(BuildError::SpanSize(_))));
    }
}

/// The sources of this crate, as a tar.
fn sources() -> Vec<u8> {
    fn below(dir: &Path, entries: &mut Vec<TarEntry>) {
        let mut paths: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        for path in paths {
            if path.is_dir() {
                below(&path, entries);
            } else {
                entries.push(TarEntry::file(path.to_str().unwrap(), std::fs::read(&path).unwrap()));
            }
        }
    }
    let mut entries = Vec::new();
    below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut entries);
    TarBuilder::archive(TarFormat::Pax, &entries)
}

#[test]
fn a_fine_index_is_much_smaller_than_the_ztoc_with_the_same_spans() {
    let plain = sources();
    let layer = gzip(&GzipShape::Flushed(70 << 10), &plain);
    let built = build_gzip(layer.as_slice(), &options(64 << 10, 64 << 10)).unwrap();
    let fine = check(&built, &layer, &plain);
    assert!(fine.spans().len() > 10);
    let (table, windows) = (fine.size(), fine.windows().unwrap().size());
    assert!((table + windows) * 2 <= built.ztoc.len() as u64, "{table} + {windows}: {}", built.ztoc.len());
    assert!(table * 20 <= built.ztoc.len() as u64, "{table}: {}", built.ztoc.len());
}

#[test]
fn a_bundle_gives_the_tables_back() {
    let (one, two) = (small().0, build_tar(sources().as_slice(), &options(1 << 20, 65_536)).unwrap());
    let tables: Vec<(Digest, Bytes)> = [&one, &two]
        .map(|built| (built.layer_digest, Bytes::from(built.fine.as_ref().unwrap().table.clone())))
        .into();
    let bytes = Bundle::encode(&tables);
    let bundle = Bundle::open(bytes.clone().into()).unwrap();
    assert!(bundle.layers().eq([one.layer_digest, two.layer_digest]));
    for (layer, table) in &tables {
        assert_eq!(bundle.table(layer).unwrap().unwrap().bytes(), table);
    }
    assert!(bundle.table(&Digest::of(b"another")).is_none());
    assert_eq!(Bundle::open(Bundle::encode(&[]).into()).unwrap().layers().count(), 0);
    let twice = [tables[0].clone(), tables[1].clone(), tables[0].clone()];
    assert_eq!(Bundle::encode(&twice), bytes);

    let swapped = [(tables[0].0, tables[1].1.clone())];
    let swapped = Bundle::open(Bundle::encode(&swapped).into()).unwrap();
    assert!(swapped.table(&tables[0].0).unwrap().is_err(), "a table of another layer");
    for cut in 0..bytes.len() {
        assert!(Bundle::open(bytes[..cut].to_vec().into()).is_err(), "{cut}");
    }
    assert!(Bundle::open([&bytes[..], b"x"].concat().into()).is_err());
    let with = |at: usize, byte: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = byte;
        Bundle::open(bytes.into()).map(|_| ())
    };
    assert!(matches!(with(0, b'T'), Err(BundleError::Damaged(_))));
    assert_eq!(with(8, 2), Err(BundleError::Version { version: 2, flags: 0 }));
    assert_eq!(with(12, 1), Err(BundleError::Version { version: 1, flags: 1 }));
    assert!(matches!(with(19, 0xff), Err(BundleError::OverLimit(_))), "count");
    assert!(matches!(with(20 + 39, 0xff), Err(BundleError::Damaged(_))), "length");
    let mut two_of_one = bytes.clone();
    two_of_one.copy_within(20..52, 60);
    assert!(matches!(Bundle::open(two_of_one.into()), Err(BundleError::Damaged(_))));
}

#[test]
fn tables_written_once_are_written_and_read_for_good() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/vectors");
    let layer = std::fs::read(golden.join("pax.tar.gz")).unwrap();
    let built = build_gzip(layer.as_slice(), &options(1 << 20, 1 << 16)).unwrap();
    let fine = check(&built, &layer, &gunzip(&layer));
    let table = std::fs::read(golden.join("pax.fine-table")).unwrap();
    assert_eq!(fine.bytes(), &table);
    let windows = fine.windows().unwrap().digest().to_string();
    assert_eq!(windows, "sha256:56a3b08fb73f0d23f794eeec3dde5fd03a45d96259f2c568942d337b602877c1");
}
