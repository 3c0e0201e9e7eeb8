//! zTOCs of small layers against those that upstream's own builder made of them.
//!
//! The inputs lie in `tests/golden/vectors` of the repository; of most expected zTOCs only the digest is kept.
//! Made by upstream at commit 77fb4266 with span size 65536 and `TZ=UTC`.

use std::path::PathBuf;

use bytes::Bytes;
use soci_core::digest::Digest;
use soci_core::tar::EntryKind;
use soci_core::testing::gunzip;
use soci_core::units::{ByteRange, SpanId, UncompressedOffset};
use soci_core::ztoc::{
    Algorithm, BuildError, BuildOptions, Checkpointing, GzipError, Ztoc, build_gzip, build_tar, extract_span,
};

fn vector(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/vectors").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn options(span_size: u64) -> BuildOptions {
    BuildOptions { span_size, diff_id: true, ..BuildOptions::default() }
}

/// pax.tar in stored deflate blocks, as zlib's level 0 cuts them.
fn stored() -> Vec<u8> {
    let tar = gunzip(&vector("pax.tar.gz"));
    let mut layer = b"\x1f\x8b\x08\0\0\0\0\0\0\xff".to_vec();
    let sizes = [65531_usize, 32773, 65535, 65535, 65535, 65509, 65531, 65535, 30756];
    let mut rest = tar.as_slice();
    for (index, size) in sizes.into_iter().enumerate() {
        let (block, after) = rest.split_at(size);
        rest = after;
        layer.push(u8::from(index == sizes.len() - 1));
        layer.extend((size as u16).to_le_bytes());
        layer.extend((!(size as u16)).to_le_bytes());
        layer.extend_from_slice(block);
    }
    let mut crc = flate2::Crc::new();
    crc.update(&tar);
    layer.extend(crc.sum().to_le_bytes());
    layer.extend((tar.len() as u32).to_le_bytes());
    layer
}

/// Decompresses every span alone and compares it with the archive.
fn check_spans(ztoc: &Ztoc, layer: &[u8], plain: &[u8]) {
    let spans = ztoc.spans();
    let mut at = 0;
    for span in (0..spans.len()).map(SpanId) {
        let (compressed, range) = (spans.compressed_range(span), spans.uncompressed_range(span));
        let bytes = &layer[compressed.start as usize..compressed.end as usize];
        assert_eq!(spans.digest(span), Some(Digest::of(bytes)));
        let mut out = Vec::new();
        extract_span(ztoc, span, None, bytes, &mut |chunk| {
            out.extend_from_slice(chunk);
            Ok(())
        })
        .unwrap();
        assert_eq!(range.start, at);
        assert_eq!(out, plain[range.start as usize..range.end as usize]);
        at = range.end;
    }
    assert_eq!(at, ztoc.uncompressed_size());
}

#[test]
fn same_bytes_as_upstream() {
    for (name, layer, expected) in [
        ("pax", vector("pax.tar.gz"), "4cfd1a977686ec1d4f87afd80a0f988d1ab18fd11287c8c1aba2532e900543bd"),
        ("gnu", vector("gnu.tar.gz"), "8567464da2854e7377fd794b96b0bbdae0a7299ebd840fd9fe04b57c071a2b96"),
        ("stored", stored(), "f6fde7bbf2a55c76d1fc40e4d0ec333c35c0ac1b550f2d1c2b1f4a98818e4a80"),
        (
            "named",
            vector("pax-named.tar.gz"),
            "223a9c9dee8a6bea31b8a5beeb5d3fc5a5f20631942ff1877f362424e64f1d6b",
        ),
        (
            "multi",
            vector("pax-multi.tar.gz"),
            "7bf4a0ecd2b36d38a9a99adaf369d6eeb225d9cff01a17c6f0f4f21c8563d3b5",
        ),
        (
            "flush",
            vector("pax-flush.tar.gz"),
            "89205957f2e1e66e8e620050270c7b5be4502838d572503e578a8b72fb99c1e9",
        ),
    ] {
        let built = build_gzip(layer.as_slice(), &options(65_536)).unwrap();
        if name == "pax" {
            assert_eq!(built.ztoc, vector("pax.ztoc"));
        }
        assert_eq!(built.ztoc_digest.hex(), expected, "{name}");
        let plain = gunzip(&layer);
        assert_eq!(built.layer_digest, Digest::of(&layer));
        assert_eq!(built.layer_size, layer.len() as u64);
        assert_eq!(built.diff_id, Some(Digest::of(&plain)));
        assert!(built.xattrs_present);
        let ztoc = Ztoc::open(built.ztoc.into()).unwrap();
        assert_eq!((ztoc.algorithm(), ztoc.digest()), (Algorithm::Gzip, built.ztoc_digest));
        check_spans(&ztoc, &layer, &plain);
    }
}

#[test]
fn same_bytes_as_upstream_for_a_plain_tar() {
    let layer = gunzip(&vector("pax.tar.gz"));
    let built = build_tar(layer.as_slice(), &options(65_536)).unwrap();
    assert_eq!(built.ztoc_digest.hex(), "6bc948a02d2e9a8357132c8957d6288f91187efa67315cfe151b12d5f0dc3bec");
    assert_eq!(built.diff_id, Some(built.layer_digest));
    let ztoc = Ztoc::open(built.ztoc.into()).unwrap();
    assert_eq!((ztoc.algorithm(), ztoc.spans().len()), (Algorithm::Uncompressed, 8));
    assert_eq!((ztoc.uncompressed_size(), ztoc.compressed_size()), (513_024, 522_240));
    check_spans(&ztoc, &layer, &layer);
}

#[test]
fn span_arithmetic() {
    let ztoc = Ztoc::open(vector("pax.ztoc").into()).unwrap();
    let spans = ztoc.spans();
    // Checkpoints (in, out, bits): (10,0,0) (31730,93399,6) (65606,194948,6) (99516,295928,3) ...
    assert_eq!(spans.compressed_range(SpanId(0)), ByteRange::new(10, 31_730));
    assert_eq!(spans.compressed_range(SpanId(1)), ByteRange::new(31_729, 65_606));
    assert_eq!(spans.compressed_range(SpanId(5)), ByteRange::new(165_851, 169_962));
    assert_eq!(spans.uncompressed_range(SpanId(1)), ByteRange::new(93_399, 194_948));
    assert_eq!(spans.uncompressed_range(SpanId(5)), ByteRange::new(494_243, 513_024));
    assert_eq!(spans.span_of(UncompressedOffset(93_398)), SpanId(0));
    assert_eq!(spans.span_of(UncompressedOffset(93_399)), SpanId(1));
    assert_eq!(spans.span_of(UncompressedOffset(u64::MAX)), SpanId(5));
    assert_eq!(spans.spans_covering(ByteRange::new(93_398, 194_948)), 0..2);
    assert_eq!(spans.spans_covering(ByteRange::new(194_948, 194_949)), 2..3);
    assert!(spans.spans_covering(ByteRange::new(7, 7)).is_empty());
    assert_eq!(spans.compressed_range(SpanId(6)), ByteRange::default());
    assert_eq!(spans.digest(SpanId(6)), None);
}

#[test]
fn entries_are_read_back() {
    let ztoc = Ztoc::open(vector("pax.ztoc").into()).unwrap();
    let names: Vec<_> = ztoc.files().iter().map(|file| String::from_utf8_lossy(&file.name)).collect();
    assert_eq!(names[..4], ["etc/", "etc/hello", "etc/link", "etc/hard"]);
    let by_name = |name: &[u8]| ztoc.files().iter().find(|file| file.name == name).unwrap();
    let hello = by_name(b"etc/hello");
    assert_eq!(
        (hello.kind, hello.size, hello.header_offset, hello.content_offset),
        (EntryKind::Reg, 6, 512, 1024)
    );
    assert_eq!(by_name(b"etc/hard").link_name.as_ref(), b"etc/hello");
    assert_eq!(by_name(b"empty").mode, 0o4755);
    let big = by_name(b"big/b.txt");
    assert_eq!((big.mtime.secs, big.mtime.nanos), (1_700_000_000, 123_456_000));
    let xattrs: Vec<_> = big.xattrs_schily().collect();
    assert_eq!(xattrs, [(&b"security.capability"[..], &b"\x01\0\0\x02"[..]), (b"user.foo", b"bar")]);
    assert!(big.xattrs.iter().any(|(key, _)| key == "comment"));
    assert_eq!((by_name(b"dev/sda").dev_major, by_name(b"dev/sda").kind), (8, EntryKind::Block));
}

#[test]
fn times_of_another_zone_are_the_same_instants() {
    let utc = Ztoc::open(vector("pax.ztoc").into()).unwrap();
    let paris = Ztoc::open(vector("pax-paris.ztoc").into()).unwrap();
    assert_ne!(utc.digest(), paris.digest());
    assert_eq!(utc.files(), paris.files());
}

#[test]
fn bytes_behind_the_last_member_are_named() {
    let mut layer = vector("pax.tar.gz");
    let length = layer.len() as u64;
    // Zeros alone (upstream refuses them too) belong to the last span.
    layer.extend([0; 512]);
    let padded = build_gzip(layer.as_slice(), &options(65_536)).unwrap();
    check_spans(&Ztoc::open(Bytes::from(padded.ztoc)).unwrap(), &layer, &gunzip(&vector("pax.tar.gz")));
    layer.push(1);
    let error = build_gzip(layer.as_slice(), &options(65_536)).unwrap_err();
    assert!(
        matches!(error, BuildError::Gzip(GzipError::TrailingBytes { offset }) if offset == length),
        "{error:?}"
    );
}

#[test]
fn wanted_boundaries_get_checkpoints() {
    let layer = vector("pax.tar.gz");
    let checkpointing = Checkpointing::Boundaries(vec![1, 20_000, 300_000]);
    let built = build_gzip(layer.as_slice(), &BuildOptions { checkpointing, ..options(1 << 22) }).unwrap();
    let ztoc = Ztoc::open(Bytes::from(built.ztoc)).unwrap();
    // 1 and 20000 share the first block boundary behind them.
    assert_eq!(ztoc.spans().len(), 3);
    assert!(ztoc.spans().uncompressed_range(SpanId(2)).start >= 300_000);
    check_spans(&ztoc, &layer, &gunzip(&layer));
}
