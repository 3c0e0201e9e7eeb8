//! zTOCs that no honest tool would write, and those of older tools.

use super::encode::{Contents, encode};
use super::*;
use crate::compression::uncompressed::TarZinfo;
use crate::tar::{Entry, EntryKind};
use crate::testing::{GzipShape, TarBuilder, TarEntry, TarFormat, gzip};
use crate::units::SpanId;

/// Length of a checkpoint in the blob.
const RECORD: usize = 17 + (32 << 10);

fn entry(name: &str, content_offset: u64, size: u64) -> Entry {
    Entry {
        name: name.as_bytes().to_vec(),
        kind: EntryKind::Reg,
        content_offset,
        size,
        link_name: Vec::new(),
        mode: 0o644,
        uid: 0,
        gid: 0,
        uname: Vec::new(),
        gname: Vec::new(),
        mtime: crate::tar::Mtime::default(),
        dev_major: 0,
        dev_minor: 0,
        pax: std::collections::BTreeMap::new(),
    }
}

/// The zTOC of a plain tar of `size` bytes in one span, of which the archive is all.
fn plain(entries: &[Entry], size: u64, digests: usize) -> Result<Ztoc, ZtocError> {
    let checkpoints = TarZinfo { span_size: 1 << 20, size: size.cast_signed() }.encode();
    let contents = Contents {
        build_tool: "test",
        compressed_size: size,
        uncompressed_size: size,
        entries,
        algorithm: Algorithm::Uncompressed,
        checkpoints: &checkpoints,
        digests: &vec![Digest::of(b""); digests],
    };
    Ztoc::open(encode(&contents).into())
}

#[test]
fn entries_must_lie_in_the_archive_one_after_the_other() {
    assert!(plain(&[entry("a", 512, 600), entry("b", 2048, 0)], 4096, 1).is_ok());
    for (entries, why) in [
        (vec![entry("a", 0, 0)], "no room for a header"),
        (vec![entry("a", 512, 600), entry("b", 1536, 0)], "the header of b lies in a"),
        (vec![entry("a", 512, 600), entry("b", 512, 0)], "same place"),
        (vec![entry("a", 512, 3585)], "past the end"),
        (vec![entry("a", 512, i64::MAX as u64)], "far past the end"),
        (vec![entry("a\0b", 512, 0)], "NUL"),
    ] {
        assert!(matches!(plain(&entries, 4096, 1), Err(ZtocError::Entry { .. })), "{why}");
    }
}

#[test]
fn sizes_of_links_take_no_room() {
    let link = Entry { kind: EntryKind::HardLink, ..entry("l", 512, 5000) };
    let ztoc = plain(&[link, entry("f", 1024, 10)], 4096, 1).unwrap();
    assert!(ztoc.files()[0].content_range().is_empty());
    assert_eq!(ztoc.files()[1].header_offset, 512);
}

#[test]
fn digests_and_spans_must_agree() {
    assert!(plain(&[], 0, 0).unwrap().spans().is_empty());
    for (size, digests) in [(0, 1), (4096, 0), (4096, 2)] {
        assert!(matches!(plain(&[], size, digests), Err(ZtocError::SpanCount { .. })), "{size} {digests}");
    }
}

#[test]
fn elements_that_share_their_bytes_are_refused() {
    let mut builder = flatbuffers::FlatBufferBuilder::new();
    let table = builder.start_table();
    let file = builder.end_table(table);
    let files = builder.create_vector(&vec![file; 10_000]);
    let table = builder.start_table();
    builder.push_slot_always(crate::flat::slot(0), files);
    let toc = builder.end_table(table);
    let table = builder.start_table();
    let compression = builder.end_table(table);
    let table = builder.start_table();
    builder.push_slot_always(crate::flat::slot(4), toc);
    builder.push_slot_always(crate::flat::slot(5), compression);
    let root = builder.end_table(table);
    builder.finish_minimal(root);
    let opened = Ztoc::open(Bytes::copy_from_slice(builder.finished_data()));
    assert!(matches!(opened, Err(ZtocError::OverLimit(over)) if over.limit == "ztoc-objects"), "{opened:?}");
}

#[test]
fn an_old_blob_implies_its_first_checkpoint() {
    let data: Vec<u8> =
        (0..400_000_u32).flat_map(|number| (number.wrapping_mul(number) / 7).to_le_bytes()).collect();
    let tar = TarBuilder::archive(TarFormat::Ustar, &[TarEntry::file("f", data)]);
    let layer = gzip(&GzipShape::Level(6), &tar);
    let options = BuildOptions { span_size: 300_000, ..BuildOptions::default() };
    let new = Ztoc::open(build_gzip(layer.as_slice(), &options).unwrap().ztoc.into()).unwrap();
    let mut blob = new.spans().blob.to_vec();
    blob.drain(12..12 + RECORD);
    let digests: Vec<Digest> = new.spans().spans.iter().filter_map(|span| span.digest).collect();
    let contents = Contents {
        build_tool: "test",
        compressed_size: new.compressed_size(),
        uncompressed_size: new.uncompressed_size(),
        entries: &[],
        algorithm: Algorithm::Gzip,
        checkpoints: &blob,
        digests: &digests,
    };
    let old = Ztoc::open(encode(&contents).into()).unwrap();
    assert!(old.spans().len() > 2 && old.size() < new.size());
    for span in (0..old.spans().len()).map(SpanId) {
        let range = old.spans().compressed_range(span);
        assert_eq!(range, new.spans().compressed_range(span));
        let mut plain = Vec::new();
        extract_span(&old, span, None, &layer[range.start as usize..range.end as usize], &mut |chunk| {
            plain.extend_from_slice(chunk);
            Ok(())
        })
        .unwrap();
        let range = new.spans().uncompressed_range(span);
        assert_eq!(plain, tar[range.start as usize..range.end as usize]);
    }
}

#[test]
fn what_is_not_gzip_is_told_apart() {
    let tar = TarBuilder::archive(TarFormat::Ustar, &[TarEntry::file("f", vec![1; 5000])]);
    let layer = gzip(&GzipShape::Members(2000), &tar);
    let build = |layer: &[u8]| match build_gzip(layer, &BuildOptions::default()) {
        Err(BuildError::Gzip(error)) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(build(&[]), GzipError::Truncated { offset: 0 });
    assert!(matches!(build(&tar), GzipError::Damaged { .. }));
    assert!(matches!(build(&layer[..layer.len() - 1]), GzipError::Truncated { .. }));
    let length = layer.len() as u64;
    for behind in [&b"x"[..], b"\0\0x", b"\x1f\x8b\x09"] {
        assert_eq!(build(&[&layer, behind].concat()), GzipError::TrailingBytes { offset: length });
    }
    let mut wrong_sum = layer.clone();
    *wrong_sum.last_mut().unwrap() ^= 1;
    assert!(matches!(build(&wrong_sum), GzipError::Damaged { .. }));
    let no_tar = gzip(&GzipShape::Level(6), &[b'x'; 600]);
    assert!(matches!(build_gzip(no_tar.as_slice(), &BuildOptions::default()), Err(BuildError::Tar(_))));
    for span_size in [0, u64::MAX] {
        let options = BuildOptions { span_size, ..BuildOptions::default() };
        assert!(matches!(build_tar(tar.as_slice(), &options), Err(BuildError::SpanSize(_))));
    }
}
