//! zstd layers: indexed where frames can be read alone, left out with a reason where not, and invisible to readers that do
//! not know them.
//!
//! Needs the program `zstd`.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use crate::indexed::{index, index_with, settings};
use bytes::Bytes;
use proptest::prelude::*;
use soci_core::digest::Digest;
use soci_core::media_type::{OCI_LAYER_GZIP, OCI_LAYER_ZSTD, ZTOC, ZTOC_ZSTD};
use soci_core::testing::{GzipShape, TarBuilder, TarEntry, TarFormat, gzip};
use soci_core::units::SpanId;
use soci_core::unpack::{ApplyOptions, LayerFormat, unpack_layer};
use soci_core::ztoc::{Algorithm, BuildOptions, Ztoc, build_zstd, extract_span};

/// What the zstd program makes of `plain`.
fn zstd(plain: &[u8], arguments: &[&str]) -> Vec<u8> {
    let mut child = Command::new("zstd")
        .args(["--quiet", "--stdout", "-"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let plain = plain.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&plain).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    output.stdout
}

/// A frame for each so many bytes.
pub(crate) fn frames(plain: &[u8], every: usize) -> Vec<u8> {
    plain.chunks(every).flat_map(|part| zstd(part, &["-3"])).collect()
}

/// A frame that decompressors skip.
fn skippable(length: u32) -> Vec<u8> {
    [&0x184d_2a50_u32.to_le_bytes()[..], &length.to_le_bytes(), &vec![9; length as usize]].concat()
}

fn entries() -> Vec<TarEntry> {
    (0..40_u64)
        .map(|n| {
            let data: Vec<u8> = (0..n * 700).map(|i| (i.wrapping_mul(i + n) >> 5) as u8 & 0x3f).collect();
            TarEntry::file(format!("dir/{n}"), data).mode(0o640)
        })
        .collect()
}

fn plain() -> Vec<u8> {
    TarBuilder::archive(TarFormat::Pax, &entries())
}

/// Every span gives its part of `plain`, has the digest of its bytes, and the parts are all there is.
fn check(ztoc: &Ztoc, layer: &[u8], plain: &[u8]) {
    let (spans, mut at, mut read) = (ztoc.spans(), 0, 0);
    for span in (0..spans.len()).map(SpanId) {
        let (from, to) = (spans.compressed_range(span), spans.uncompressed_range(span));
        assert_eq!((from.start, to.start), (read, at));
        (read, at) = (from.end, to.end);
        let bytes = &layer[from.start as usize..from.end as usize];
        assert_eq!(spans.digest(span), Some(Digest::of(bytes)));
        let mut out = Vec::new();
        extract_span(ztoc, span, None, bytes, &mut |chunk| {
            out.extend_from_slice(chunk);
            Ok(())
        })
        .unwrap();
        assert_eq!(out, plain[to.start as usize..to.end as usize]);
    }
    assert_eq!((read, at), (layer.len() as u64, ztoc.uncompressed_size()));
}

#[test]
pub(crate) fn frames_become_spans_in_an_entry_of_our_own() {
    let plain = plain();
    let layer = frames(&plain, 100_000);
    let other = gzip(&GzipShape::Level(6), &plain);
    let mut settings = settings();
    settings.prefetch_files = vec!["dir/39".to_owned()];
    let built = index_with(&[(OCI_LAYER_GZIP, other), (OCI_LAYER_ZSTD, layer.clone())], &settings).unwrap();
    assert!(built.skipped.is_empty());
    let kinds: Vec<&str> = built.report.index.layers.iter().map(|entry| entry.media_type.as_str()).collect();
    assert_eq!(kinds[..2], [ZTOC, ZTOC_ZSTD]);
    let ztoc = built.ztoc(1);
    assert_eq!(
        (ztoc.algorithm(), ztoc.spans().len()),
        (Algorithm::Zstd, plain.len().div_ceil(100_000) as u32)
    );
    check(&ztoc, &layer, &plain);
    for (file, entry) in ztoc.files().iter().zip(entries()) {
        let range = file.content_range();
        assert_eq!(plain[range.start as usize..range.end as usize], entry.data);
    }
    // The file is in the zstd layer, the upper one; so are its spans.
    let artifact = built.artifact(1).unwrap();
    assert_eq!(artifact.prefetch_spans.last().unwrap().end_span, ztoc.spans().len() - 1);
    assert!(built.artifact(0).is_none());
}

#[test]
fn spans_hold_as_many_frames_as_their_size_asks_for() {
    let plain = plain();
    let layer = [skippable(5), frames(&plain, 20_000), skippable(700)].concat();
    for (span_size, spans) in [(0, plain.len().div_ceil(20_000)), (59_999, plain.len().div_ceil(60_000))] {
        let options = BuildOptions { span_size, diff_id: true, ..BuildOptions::default() };
        let built = build_zstd(layer.as_slice(), &options).unwrap();
        assert_eq!((built.layer_digest, built.diff_id), (Digest::of(&layer), Some(Digest::of(&plain))));
        let ztoc = Ztoc::open(Bytes::from(built.ztoc)).unwrap();
        check(&ztoc, &layer, &plain);
        // The frame without content at the end may be a span of its own.
        assert!((spans..=spans + 1).contains(&(ztoc.spans().len() as usize)), "{span_size}");
    }
}

#[test]
fn layers_that_can_only_be_read_whole_are_left_out_with_the_reason() {
    let plain = plain();
    let whole = zstd(&plain, &["-19"]);
    let large =
        zstd(&TarBuilder::archive(TarFormat::Pax, &[TarEntry::file("f", vec![0; 65 << 20])]), &["-1"]);
    let two = frames(&plain, 100_000);
    let other = gzip(&GzipShape::Level(6), &plain);
    for (layer, reason) in [
        (whole.clone(), "it is one zstd frame, which can only be read as a whole"),
        (
            [skippable(3), whole.clone(), skippable(3)].concat(),
            "it is one zstd frame, which can only be read as a whole",
        ),
        (
            [large, whole].concat(),
            "a zstd frame holds more than 67108864 bytes, which can only be read as a whole",
        ),
        (two[..two.len() - 1].to_vec(), "zstd data ends early"),
        ([&two[..], b"x".repeat(20).as_slice()].concat(), "zstd data cannot be decompressed"),
    ] {
        let built = index(&[(OCI_LAYER_GZIP, other.clone()), (OCI_LAYER_ZSTD, layer)]).unwrap();
        assert_eq!(built.report.index.ztocs().count(), 1);
        let upstream =
            "is compressed in an unsupported format. expect: [tar, gzip, unknown] but got \"zstd\": ";
        assert_eq!(built.skipped.len(), 1);
        let told = built.skipped[0].strip_prefix(upstream).unwrap();
        assert!(told.starts_with(reason), "{told}");
    }
}

#[test]
fn a_zstd_layer_unpacks_as_its_tar_does() {
    let plain = plain();
    let trees = [(LayerFormat::Tar, plain.clone()), (LayerFormat::Zstd, frames(&plain, 100_000))].map(
        |(format, layer)| {
            let dir = tempfile::tempdir().unwrap();
            let expected = Some(Digest::of(&plain));
            let options = ApplyOptions::default();
            unpack_layer(layer.as_slice(), format, dir.path(), options, expected).unwrap();
            std::fs::read_dir(dir.path().join("dir"))
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .map(|path| (path.file_name().unwrap().to_owned(), std::fs::read(&path).unwrap()))
                .collect::<BTreeMap<_, _>>()
        },
    );
    assert_eq!(trees[0].len(), 40);
    assert_eq!(trees[0], trees[1]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damage_is_seen_and_harmless(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in proptest::option::of(any::<prop::sample::Index>()),
        in_ztoc in any::<bool>(),
    ) {
        let plain = TarBuilder::archive(TarFormat::Pax, &[TarEntry::file("f", vec![7; 9000])]);
        let part = zstd_in_process(&plain[..5000]);
        let layer = [part, zstd_in_process(&plain[5000..])].concat();
        let options = BuildOptions { span_size: 1000, ..BuildOptions::default() };
        let mut ztoc = build_zstd(layer.as_slice(), &options).unwrap().ztoc;
        let mut damaged = layer.clone();
        let struck = if in_ztoc { &mut ztoc } else { &mut damaged };
        for (at, byte) in damage {
            let at = at.index(struck.len());
            struck[at] = byte;
        }
        if let Some(cut) = cut {
            struck.truncate(cut.index(struck.len()));
        }
        let _ = build_zstd(damaged.as_slice(), &options);
        let Ok(ztoc) = Ztoc::open(Bytes::from(ztoc)) else { return Ok(()) };
        for span in (0..ztoc.spans().len()).map(SpanId) {
            let range = ztoc.spans().compressed_range(span);
            let end = damaged.len().min(range.end as usize);
            let bytes = &damaged[end.min(range.start as usize)..end];
            let mut out = 0;
            let extracted = extract_span(&ztoc, span, None, bytes, &mut |chunk| { out += chunk.len() as u64; Ok(()) });
            prop_assert!(extracted.is_err() || out == ztoc.spans().uncompressed_range(span).len());
        }
    }
}

/// A frame without a process, for many of them.
fn zstd_in_process(plain: &[u8]) -> Vec<u8> {
    ::zstd::encode_all(plain, 3).unwrap()
}
