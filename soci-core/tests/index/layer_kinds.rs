//! Every kind of layer that images are made of, as a whole index is built of them: what is indexed, what is left out and
//! for which reason, and that spans give what GNU gzip gives.
//!
//! Needs the programs `gzip` and `tar`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;

use crate::indexed::{Indexed, index};
use soci_core::media_type::{DOCKER_LAYER, DOCKER_LAYER_GZIP, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD};
use soci_core::tar::EntryKind;
use soci_core::testing::{GzipShape, TarBuilder, TarEntry, TarFormat, gzip};
use soci_core::units::SpanId;
use soci_core::ztoc::{Ztoc, extract_span};

/// A tar whose parts compress, but not to nothing.
fn tar(files: usize) -> Vec<u8> {
    let entries: Vec<TarEntry> = (0..files)
        .map(|n| {
            let data: Vec<u8> = (0_u64..20_000)
                .map(|i| ((i * i * (n as u64 + 3)) >> 7) as u8 & if i % 3 == 0 { 0xff } else { 7 })
                .collect();
            TarEntry::file(format!("f{n}"), data)
        })
        .collect();
    TarBuilder::archive(TarFormat::Pax, &entries)
}

/// All spans of a layer behind each other.
fn through_spans(ztoc: &Ztoc, layer: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    for span in (0..ztoc.spans().len()).map(SpanId) {
        let range = ztoc.spans().compressed_range(span);
        extract_span(ztoc, span, None, &layer[range.start as usize..range.end as usize], &mut |chunk| {
            plain.extend_from_slice(chunk);
            Ok(())
        })
        .unwrap();
    }
    plain
}

#[test]
fn every_shape_of_gzip_gives_what_gnu_gzip_gives() {
    let plain = tar(12);
    let shapes = [
        GzipShape::Level(0),
        GzipShape::Level(1),
        GzipShape::Level(9),
        GzipShape::Named,
        GzipShape::EveryField,
        GzipShape::Members(50_000),
        GzipShape::EmptyMembers,
        GzipShape::Flushed(30_000),
        GzipShape::ZerosBehind(1),
        GzipShape::ZerosBehind(700_000),
    ];
    let layers: Vec<Vec<u8>> = shapes.iter().map(|shape| gzip(shape, &plain)).collect();
    let blobs: Vec<(&str, Vec<u8>)> = layers.iter().map(|layer| (OCI_LAYER_GZIP, layer.clone())).collect();
    let built = index(&blobs).unwrap();
    assert_eq!(built.skipped, Vec::<String>::new());
    for (number, (shape, layer)) in shapes.iter().zip(&layers).enumerate() {
        let ztoc = built.ztoc(number);
        assert!(ztoc.spans().len() > 1 || *shape == GzipShape::Level(0), "{shape:?}");
        let file = tempfile::Builder::new().suffix(".gz").tempfile().unwrap();
        file.as_file().write_all_at(layer, 0).unwrap();
        let output =
            Command::new("gzip").arg("-dc").stdin(File::open(file.path()).unwrap()).output().unwrap();
        assert!(output.status.success(), "{shape:?}: {}", String::from_utf8_lossy(&output.stderr));
        let ours = through_spans(&ztoc, layer);
        assert_eq!(ours[..], output.stdout[..ours.len()], "{shape:?}");
        // What is behind the archive's end mark is not of the layer.
        assert!(output.stdout[ours.len()..].iter().all(|&byte| byte == 0), "{shape:?}");
    }
}

#[test]
fn what_is_behind_the_last_member_is_zeros_or_no_layer() {
    let good = gzip(&GzipShape::Level(6), &tar(1));
    for behind in [&b"x"[..], b"\0\0x", b"\x1f\x8b"] {
        let layer = [good.as_slice(), behind].concat();
        let built = index(&[(OCI_LAYER_GZIP, layer), (OCI_LAYER_GZIP, good.clone())]).unwrap();
        assert_eq!((built.skipped.len(), built.report.index.ztocs().count()), (1, 1));
        let reason = &built.skipped[0];
        assert!(reason.contains("followed by bytes that are no gzip member"), "{reason}");
    }
}

#[test]
fn bytes_decide_where_a_media_type_lies() {
    let plain = tar(2);
    let (zipped, frames) = (gzip(&GzipShape::Level(6), &plain), crate::zstd_layers::frames(&plain, 10_000));
    let types = [OCI_LAYER, DOCKER_LAYER, OCI_LAYER_GZIP, DOCKER_LAYER_GZIP, OCI_LAYER_ZSTD];
    for blob in [plain, zipped, frames] {
        for media_type in types {
            let built = index(&[(media_type, blob.clone())]).unwrap();
            assert_eq!((built.skipped.len(), built.ztoc(0).files().len()), (0, 2), "{media_type}");
        }
    }
}

#[test]
fn media_types_decide_what_is_a_layer() {
    let plain = tar(2);
    let zipped = gzip(&GzipShape::Level(6), &plain);
    let built = index(&[
        (OCI_LAYER, plain.clone()),
        (DOCKER_LAYER, [plain.clone(), vec![0; 512]].concat()),
        (OCI_LAYER_GZIP, zipped.clone()),
        (DOCKER_LAYER_GZIP, [zipped.clone(), vec![0]].concat()),
        ("application/vnd.oci.image.layer.v1.tar+encrypted", vec![1; 100]),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar", vec![2; 100]),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", [zipped, vec![0; 2]].concat()),
    ])
    .unwrap();
    for number in [0, 1, 2, 3, 6] {
        assert_eq!(built.ztoc(number).files().len(), 2, "{number}");
    }
    assert_eq!(built.skipped.len(), 2);
    for reason in &built.skipped {
        assert_eq!(
            reason,
            "is compressed in an unsupported format. expect: [tar, gzip, unknown] but got \"\""
        );
    }
    for wrong in ["application/vnd.oci.image.layer.v2.tar", "application/vnd.erofs.layer.v1", "text/plain"] {
        let built = index(&[(wrong, plain.clone()), (OCI_LAYER, tar(3))]).unwrap();
        assert_eq!(built.skipped, [format!("has media type {wrong:?}, which is none of a tar")]);
        assert_eq!(built.report.index.ztocs().count(), 1);
    }
}

#[test]
fn empty_layers_have_a_ztoc_without_files() {
    let end = vec![0; 1024];
    let built = index(&[
        (OCI_LAYER, Vec::new()),
        (OCI_LAYER, end.clone()),
        (OCI_LAYER_GZIP, gzip(&GzipShape::Level(6), &[])),
        (OCI_LAYER_GZIP, gzip(&GzipShape::Level(6), &end)),
    ])
    .unwrap();
    for number in 0..4 {
        assert_eq!(built.ztoc(number).files().len(), 0, "{number}");
    }
    assert!(built.ztoc(0).spans().is_empty());
    // No bytes at all are an empty layer, whatever its type says, as in containerd.
    assert_eq!(index(&[(OCI_LAYER_GZIP, Vec::new())]).unwrap().ztoc(0).files().len(), 0);
}

#[test]
fn a_layer_that_occurs_twice_is_built_once_and_named_twice() {
    let (one, other) = (gzip(&GzipShape::Level(6), &tar(2)), gzip(&GzipShape::Level(6), &tar(3)));
    let layers = [(OCI_LAYER_GZIP, one.clone()), (OCI_LAYER_GZIP, other), (OCI_LAYER_GZIP, one)];
    let built = index(&layers).unwrap();
    let named: Vec<_> = built.report.index.ztocs().map(|ztoc| ztoc.digest).collect();
    assert_eq!((named.len(), named[0]), (3, named[2]));
    assert_eq!(built.built, 2);
}

/// Archives by GNU tar of a file that is mostly a hole.
fn sparse(format: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let file = File::create(dir.path().join("holes")).unwrap();
    file.set_len(3 << 20).unwrap();
    for at in (0..20).map(|n| n << 17) {
        file.write_all_at(b"data", at).unwrap();
    }
    let output = Command::new("tar")
        .args(format)
        .args(["--sparse", "--create", "--file", "-", "--directory"])
        .arg(dir.path())
        .arg("holes")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn sparse_files_leave_their_layer_out_and_no_other() {
    let formats: [&[&str]; 5] = [
        &["--format=gnu"],
        &["--format=oldgnu"],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ];
    for format in formats {
        let archive = sparse(format);
        assert!(archive.len() < 1 << 20, "GNU tar left the holes out");
        let whole = gzip(&GzipShape::Level(6), &tar(2));
        let layers = [(OCI_LAYER, archive.clone()), (OCI_LAYER_GZIP, whole)];
        let Indexed { report, skipped, .. } = index(&layers).unwrap();
        assert_eq!(report.index.ztocs().count(), 1, "{format:?}");
        let reason = "cannot be read in parts: sparse tar entry";
        assert!(skipped.len() == 1 && skipped[0].starts_with(reason), "{format:?}: {skipped:?}");
        assert!(skipped[0].contains("holes"), "{format:?}: {skipped:?}");
        let alone = index(&layers[..1]).unwrap_err();
        assert_eq!(alone, "no ztocs created, all layers either skipped or produced errors");
    }
}

#[test]
fn entries_that_ztocs_have_no_words_for_leave_their_layer_out() {
    let mut odd = TarBuilder::new(TarFormat::Pax);
    odd.extension(b'g', b"pax_global_header", b"13 comment=x\n").add(&TarEntry::file("f", *b"x"));
    let built = index(&[(OCI_LAYER, odd.finish()), (OCI_LAYER, tar(1))]).unwrap();
    assert_eq!(
        built.skipped,
        ["cannot be read in parts: unsupported input tar entry 'g' (pax_global_header)"]
    );
    assert_eq!(built.report.index.ztocs().count(), 1);
}

#[test]
fn names_and_attributes_are_bytes() {
    let entries = [
        TarEntry::dir(b"caf\xe9/"),
        TarEntry::file(b"caf\xe9/\xff\xfe", *b"x").xattr("security.capability", b"\x01\0\0\x02\xff"),
        TarEntry::symlink(b"l", b"caf\xe9/\xff\xfe"),
        TarEntry::file([b"\xe9".repeat(150), b"/x".to_vec()].concat(), *b"long").xattr("user.\u{e9}", b""),
    ];
    let plain = TarBuilder::archive(TarFormat::Pax, &entries);
    let built = index(&[(OCI_LAYER_GZIP, gzip(&GzipShape::Level(6), &plain))]).unwrap();
    let ztoc = built.ztoc(0);
    for (file, entry) in ztoc.files().iter().zip(&entries) {
        assert_eq!((file.name.as_ref(), file.link_name.as_ref()), (&entry.name[..], &entry.link_name[..]));
    }
    let attributes: Vec<_> = ztoc.files()[1].xattrs_schily().collect();
    assert_eq!(attributes, [(&b"security.capability"[..], &b"\x01\0\0\x02\xff"[..])]);
    assert_eq!(ztoc.files()[2].kind, EntryKind::Symlink);
    assert_eq!(ztoc.files()[3].xattrs_schily().next(), Some(("user.\u{e9}".as_bytes(), &b""[..])));
}
