//! What files contain comes out of the pass that builds an index: no layer is read for it alone.

use std::sync::{Arc, Mutex};

use soci_core::digest::Digest;
use soci_core::index::{FileDigest, PlanSource, Settings, TraceSettings};
use soci_core::media_type::{OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD};
use soci_core::prefetch::{Plan, PlanItem};
use soci_core::testing::{GzipShape, TarBuilder, TarEntry, TarFormat, content, gzip};
use soci_core::units::ByteRange;

use crate::indexed::{index_with, settings};

fn tar(entries: &[TarEntry]) -> Vec<u8> {
    TarBuilder::archive(TarFormat::Pax, entries)
}

/// gzip, zstd and a plain tar; one file is replaced, one is removed, one has two names, and one is empty.
fn layers() -> Vec<(&'static str, Vec<u8>)> {
    let low = tar(&[
        TarEntry::file("a", content(1, 200_000)),
        TarEntry::file("b", content(2, 100_000)),
        TarEntry::file("gone", "x"),
    ]);
    let middle = tar(&[
        TarEntry::file("b", content(3, 70_000)),
        TarEntry::hard_link("b2", "b"),
        TarEntry::whiteout("gone"),
    ]);
    let frames: Vec<u8> =
        middle.chunks(20_000).flat_map(|chunk| zstd::bulk::compress(chunk, 1).unwrap()).collect();
    let top = tar(&[TarEntry::file("c", "plain"), TarEntry::file("empty", ""), TarEntry::symlink("d", "c")]);
    vec![
        (OCI_LAYER_GZIP, gzip(&GzipShape::Flushed(10_000), &low)),
        (OCI_LAYER_ZSTD, frames),
        (OCI_LAYER, top),
    ]
}

/// The files that the plan is made of, and how many stored bytes the build reads.
fn seen(with: impl FnOnce(Settings) -> Settings) -> (Vec<(String, u64, Digest)>, u64) {
    let seen: Arc<Mutex<Vec<FileDigest>>> = Arc::default();
    let of = Arc::clone(&seen);
    let plan = PlanSource::OfFiles(Arc::new(move |files: Vec<FileDigest>| {
        of.lock().unwrap().extend(files);
        let item = PlanItem { path: Arc::from(&b"a"[..]), range: ByteRange::new(0, 4096), first_need_ns: 0 };
        Plan { items: vec![item], asked: 1, must_have: 1 }
    }));
    let trace = Some(TraceSettings { plan, span_gap: None, budget: None });
    let indexed = index_with(&layers(), &with(Settings { trace, ..settings() })).unwrap();
    assert_eq!(indexed.report.plan.as_ref().unwrap().must_have, 1);
    assert_eq!(indexed.artifact(0).unwrap().prefetch_spans[0].ranges, [[512, 512 + 4096]]);
    let mut files: Vec<_> = std::mem::take(&mut *seen.lock().unwrap())
        .into_iter()
        .map(|file| (String::from_utf8(file.path).unwrap(), file.size, file.digest))
        .collect();
    files.sort();
    (files, indexed.read)
}

#[test]
fn the_build_reads_each_layer_once_and_knows_what_its_files_contain() {
    let file = |path: &str, content: &[u8]| (path.to_owned(), content.len() as u64, Digest::of(content));
    let expected = [
        file("a", &content(1, 200_000)),
        file("b", &content(3, 70_000)),
        file("b2", &content(3, 70_000)),
        file("c", b"plain"),
        file("empty", b""),
    ];
    let stored: u64 = layers().iter().map(|(_, blob)| blob.len() as u64).sum();
    assert_eq!(seen(|settings| settings), (expected.to_vec(), stored));
    assert_eq!(seen(|settings| Settings { fine: Some(50_000), ..settings }), (expected.to_vec(), stored));
    // A layer that gets no zTOC is read for its names anyway.
    let (files, read) = seen(|settings| Settings { min_layer_size: 20_000, ..settings });
    assert_eq!((files, read), (expected.to_vec(), stored));
    // Spans that hug the needs want a look before, as they do without a profile.
    let hugging = |settings: Settings| {
        let trace = settings.trace.clone().map(|trace| TraceSettings { span_gap: Some(0), ..trace });
        Settings { trace, ..settings }
    };
    assert_eq!(seen(hugging), (expected.to_vec(), 2 * stored));
}
