//! Fine indexes of whole images: which layers have one, what the companion lists, and that the SOCI index stays the same.

use soci_core::digest::Digest;
use soci_core::index::CompanionKind;
use soci_core::media_type::{FINE_TABLES, FINE_WINDOWS, LAYER_DIGEST, OCI_LAYER, OCI_LAYER_GZIP};
use soci_core::testing::{GzipShape, TarBuilder, TarEntry, TarFormat, gzip};
use soci_core::ztoc::Bundle;

use crate::indexed::{index_with, settings};

fn tar(name: &str, size: usize) -> Vec<u8> {
    let data: Vec<u8> = (0..size).flat_map(|n| (n * n / 7).to_le_bytes()).collect();
    TarBuilder::archive(TarFormat::Pax, &[TarEntry::file(name, data)])
}

#[test]
fn each_layer_with_a_ztoc_has_a_table_and_those_with_windows_a_blob() {
    let (large, plain) = (gzip(&GzipShape::Flushed(60_000), &tar("large", 50_000)), tar("plain", 9000));
    let small = gzip(&GzipShape::Level(6), &tar("small", 10));
    let layers = [
        (OCI_LAYER_GZIP, large.clone()),
        (OCI_LAYER, plain.clone()),
        (OCI_LAYER_GZIP, small),
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
    let (large, plain) = (Digest::of(&large), Digest::of(&plain));
    assert_eq!(fine.layers[1].annotation(LAYER_DIGEST), Some(large.to_string().as_str()));

    let bundle = Bundle::open(with.blob(&fine.layers[0].digest)).unwrap();
    assert!(bundle.layers().eq([large, plain]));
    let table = bundle.table(&large).unwrap().unwrap();
    let windows = table.windows().unwrap();
    assert_eq!((windows.digest(), windows.size()), (fine.layers[1].digest, fine.layers[1].size));
    assert_eq!(table.files(), with.ztoc(0).files());
    assert_eq!(table.coarse().len(), with.ztoc(0).spans().len() as usize);
    assert!(table.spans().len() > with.ztoc(0).spans().len());
    assert_eq!(with.records(), [(fine.descriptor().digest, fine.subject.digest)]);
    assert_eq!(Digest::of(&with.blob(&fine.descriptor().digest)), fine.descriptor().digest);
}
