//! The store on a real directory: damage, concurrency, left-overs.

use std::{fs, io::Write};

use super::*;
use crate::{image::Descriptor, media_type};

fn store() -> (tempfile::TempDir, LayoutStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = LayoutStore::open(&dir.path().join("content")).unwrap();
    (dir, store)
}

fn tagged(name: &str, content: &[u8]) -> Descriptor {
    let mut d = Descriptor::new(media_type::OCI_MANIFEST, Digest::of(content), content.len() as u64);
    d.annotations.insert(media_type::REF_NAME.into(), name.into());
    d
}

#[test]
fn blobs_come_back_and_damage_is_seen_and_healed() {
    let (_dir, store) = store();
    let digest = store.put(b"hello").unwrap();
    assert!(store.has(&digest));
    assert_eq!(store.read(&digest).unwrap(), &b"hello"[..]);
    fs::write(store.root().join("blobs/sha256").join(digest.hex()), b"hellO").unwrap();
    assert!(matches!(store.read(&digest), Err(StoreError::Mismatch { expected, .. }) if expected == digest));
    store.put(b"hello").unwrap();
    assert_eq!(store.read(&digest).unwrap(), &b"hello"[..]);
    assert!(matches!(store.read(&Digest::of(b"x")), Err(StoreError::NotFound(_))));
    assert!(matches!(store.open_blob(&Digest::of(b"x")), Err(StoreError::NotFound(_))));
}

#[test]
fn a_writer_keeps_nothing_unless_committed_with_the_right_digest() {
    let (_dir, store) = store();
    let ingest = store.root().join("ingest");
    let mut writer = store.writer().unwrap();
    writer.write_all(b"abc").unwrap();
    assert_eq!(writer.size(), 3);
    assert!(matches!(writer.commit(Some(Digest::of(b"abd"))), Err(StoreError::Mismatch { .. })));
    drop(store.writer().unwrap());
    assert_eq!(fs::read_dir(&ingest).unwrap().count(), 0);
    let mut writer = store.writer().unwrap();
    writer.write_all(b"abc").unwrap();
    assert_eq!(writer.commit(Some(Digest::of(b"abc"))).unwrap(), Digest::of(b"abc"));
    assert!(store.has(&Digest::of(b"abc")));
}

#[test]
fn opening_again_sweeps_left_overs_but_not_open_writers() {
    let (_dir, store) = store();
    let ingest = store.root().join("ingest");
    fs::write(ingest.join("1.1"), b"left by a crash").unwrap();
    let mut writer = store.writer().unwrap();
    writer.write_all(b"abc").unwrap();
    LayoutStore::open(store.root()).unwrap();
    assert_eq!(fs::read_dir(&ingest).unwrap().count(), 1);
    writer.commit(None).unwrap();
}

#[test]
fn index_entries_are_replaced_by_tag_or_digest_also_from_many_threads() {
    let (_dir, store) = store();
    std::thread::scope(|scope| {
        for i in 0..8u8 {
            let store = &store;
            scope.spawn(move || store.add_manifest(tagged(&i.to_string(), &[i])).unwrap());
        }
    });
    assert_eq!(store.index().unwrap().len(), 8);
    store.add_manifest(tagged("3", b"new")).unwrap();
    let untagged = Descriptor::new(media_type::OCI_MANIFEST, Digest::of(b"u"), 1);
    store.add_manifest(untagged.clone()).unwrap();
    store.add_manifest(untagged).unwrap();
    let index = store.index().unwrap();
    assert_eq!(index.len(), 9);
    assert_eq!(index.iter().filter(|d| d.digest == Digest::of(b"new")).count(), 1);
    let raw = fs::read_to_string(store.root().join("index.json")).unwrap();
    assert!(raw.starts_with(
        r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":["#
    ));
}

#[test]
fn other_directories_are_not_layouts() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(LayoutStore::existing(dir.path()), Err(StoreError::NotALayout(_))));
    fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
    assert!(matches!(LayoutStore::existing(dir.path()), Err(StoreError::NotALayout(_))));
    assert!(matches!(LayoutStore::open(&dir.path().join("a/b")), Err(StoreError::Io { .. })));
}

#[test]
fn records_come_back_sorted_and_bad_ones_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let records = Artifacts::open(dir.path()).unwrap();
    let artifact = |content: &[u8]| Artifact {
        digest: Digest::of(content),
        kind: ArtifactKind::SociLayer,
        oci_digest: Digest::of(b"layer"),
        image_digest: None,
        image_ref: None,
        platform: None,
        media_type: media_type::ZTOC.into(),
        artifact_type: None,
        created_at: "2026-01-02T03:04:05.123456789Z".parse().unwrap(),
        span_size: 4 << 20,
        span_layout: None,
        size: 9,
        in_containerd: false,
    };
    let mut want: Vec<_> = [&b"a"[..], b"b", b"c"].into_iter().map(artifact).collect();
    for artifact in &want {
        records.put(artifact).unwrap();
    }
    want.sort_by_key(|a| a.digest);
    assert_eq!(records.list().unwrap(), want);
    assert_eq!(records.get(&want[0].digest).unwrap(), want[0]);
    records.remove(&want[0].digest).unwrap();
    assert!(matches!(records.remove(&want[0].digest), Err(StoreError::NotFound(_))));
    assert!(matches!(records.get(&want[0].digest), Err(StoreError::NotFound(_))));
    assert_eq!(records.list().unwrap().len(), 2);
    fs::write(dir.path().join("artifacts").join(format!("{}.json", want[1].digest.hex())), "{").unwrap();
    assert!(matches!(records.list(), Err(StoreError::Record { .. })));
}
