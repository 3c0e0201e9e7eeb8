//! Fine indexes of whole images: which layers have one, what the companion lists, and that the SOCI index stays the same.

use soci_core::digest::Digest;
use soci_core::index::{CompanionKind, Settings, layer_of};
use soci_core::media_type::{FINE_TABLES, FINE_WINDOWS, LAYER_DIGEST, OCI_LAYER, OCI_LAYER_GZIP};
use soci_core::testing::{GzipShape, TarBuilder, TarEntry, TarFormat, gzip};
use soci_core::ztoc::Bundle;

use crate::indexed::{index_with, settings};

fn tar(name: &str, size: usize) -> Vec<u8> {
    let data: Vec<u8> = (0..size).flat_map(|n| (n * n / 7).to_le_bytes()).collect();
    TarBuilder::archive(TarFormat::Pax, &[TarEntry::file(name, data)])
}

#[test]
fn each_layer_has_a_table_and_those_with_windows_a_blob() {
    let (large, plain) = (gzip(&GzipShape::Flushed(60_000), &tar("large", 50_000)), tar("plain", 9000));
    let small = gzip(&GzipShape::Level(6), &tar("small", 10));
    let layers = [
        (OCI_LAYER_GZIP, large.clone()),
        (OCI_LAYER, plain.clone()),
        (OCI_LAYER_GZIP, small.clone()),
        (OCI_LAYER_GZIP, large.clone()),
    ];
    let mut settings = settings();
    settings.min_layer_size = 2000;
    let without = index_with(&layers, &settings).unwrap();
    assert!(without.report.fine.is_none());
    settings.fine = Some(32 << 10);
    let with = index_with(&layers, &settings).unwrap();
    assert_eq!(with.report.descriptor, without.report.descriptor);

    let fine = with.report.fine.as_ref().unwrap();
    assert_eq!(fine.kind, CompanionKind::FineIndex);
    assert_eq!(Some(fine.subject.digest), with.report.index.subject.as_ref().map(|subject| subject.digest));
    let types: Vec<_> = fine.layers.iter().map(|layer| layer.media_type.as_str()).collect();
    assert_eq!(types, [FINE_TABLES, FINE_WINDOWS]);
    let (large, plain, small) = (Digest::of(&large), Digest::of(&plain), Digest::of(&small));
    assert_eq!(fine.layers[1].annotation(LAYER_DIGEST), Some(large.to_string().as_str()));

    let bundle = Bundle::open(with.blob(&fine.layers[0].digest)).unwrap();
    // The small one, too, which has no zTOC.
    assert!(bundle.layers().eq([large, plain, small]));
    assert!(!with.report.index.ztocs().any(|ztoc| layer_of(ztoc) == Some(small)));
    let table = bundle.table(&large).unwrap().unwrap();
    let windows = table.windows().unwrap();
    assert_eq!((windows.digest(), windows.size()), (fine.layers[1].digest, fine.layers[1].size));
    assert_eq!(table.files(), with.ztoc(0).files());
    assert_eq!(table.coarse().len(), with.ztoc(0).spans().len() as usize);
    assert!(table.spans().len() > with.ztoc(0).spans().len());
    assert_eq!(with.records(), [(fine.descriptor().digest, fine.subject.digest)]);
    assert_eq!(Digest::of(&with.blob(&fine.descriptor().digest)), fine.descriptor().digest);
}

/// Without the attributes of the directories below it, which only unpacking gives it, such a layer would show others.
#[test]
fn a_small_layer_that_does_not_describe_its_directories_has_no_table() {
    let small =
        |entries: &[TarEntry]| gzip(&GzipShape::Level(6), &TarBuilder::archive(TarFormat::Pax, entries));
    let file = |name: &str| TarEntry::file(name, b"small".to_vec());
    let alone = [
        small(&[file("at-the-root")]),
        small(&[TarEntry::dir("d/"), TarEntry::dir("./d/e"), file("/d/e//f")]),
    ];
    let implied = [
        small(&[file("d/f")]),
        small(&[TarEntry::dir("d/"), file("d/e/f")]),
        small(&[file("d/.wh.f"), TarEntry::dir("d/")]),
    ];
    let large = gzip(&GzipShape::Flushed(60_000), &tar("d/large", 50_000));
    let layers: Vec<_> = [&large].into_iter().chain(&alone).chain(&implied).collect();
    let layers: Vec<_> = layers.into_iter().map(|layer| (OCI_LAYER_GZIP, layer.clone())).collect();
    let made =
        index_with(&layers, &Settings { min_layer_size: 2000, fine: Some(32 << 10), ..settings() }).unwrap();
    let bundle = Bundle::open(made.blob(&made.report.fine.as_ref().unwrap().layers[0].digest)).unwrap();
    // A layer with a zTOC has a table in any case: it is served in parts anyway.
    let wanted = [&large].into_iter().chain(&alone).map(|layer| Digest::of(layer));
    assert!(bundle.layers().eq(wanted));
}
