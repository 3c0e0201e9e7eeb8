//! What goes and what stays when artifacts are removed from a layout: a small store of two images, and crashes of a sort.

use std::{
    fs::{self, File},
    time::{Duration, SystemTime},
};

use jiff::Timestamp;

use super::*;
use crate::{
    image::Descriptor,
    index::{EMPTY_CONFIG, IndexVersion, SociIndex},
    media_type,
};

struct Lab {
    dir: tempfile::TempDir,
    layout: LayoutStore,
    artifacts: Artifacts,
    store: ContentStore,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let layout = LayoutStore::open(&dir.path().join("content")).unwrap();
        let artifacts = Artifacts::open(dir.path()).unwrap();
        let store = ContentStore::Layout(layout.clone());
        Self { dir, layout, artifacts, store }
    }

    /// An index of an image with these zTOCs, made so many hours ago.
    fn index(&self, image: &str, ztocs: &[&str], hours: i64) -> Digest {
        let made = Timestamp::now().checked_sub(jiff::SignedDuration::from_hours(hours)).unwrap();
        let put = |artifact: Artifact| {
            self.artifacts.put(&Artifact { created_at: made, image_ref: Some(image.to_owned()), ..artifact })
        };
        let layers: Vec<_> = ztocs
            .iter()
            .map(|text| {
                let digest = self.layout.put(text.as_bytes()).unwrap();
                let blob = Descriptor::new(media_type::ZTOC, digest, text.len() as u64);
                let layer = Digest::of(format!("layer of {text}").as_bytes());
                put(Artifact::new(ArtifactKind::SociLayer, &blob, layer, &self.store)).unwrap();
                blob
            })
            .collect();
        self.layout.put(EMPTY_CONFIG).unwrap();
        let manifest = Digest::of(image.as_bytes());
        let subject = Descriptor::new(media_type::OCI_MANIFEST, manifest, 9);
        let raw = SociIndex::new(IndexVersion::V1, layers, Some(subject)).encode();
        let mut blob =
            Descriptor::new(media_type::OCI_MANIFEST, self.layout.put(&raw).unwrap(), raw.len() as u64);
        blob.artifact_type = Some(media_type::SOCI_INDEX_V1.to_owned());
        self.layout.add_manifest(blob.clone()).unwrap();
        put(Artifact::new(ArtifactKind::SociIndex, &blob, manifest, &self.store)).unwrap();
        blob.digest
    }

    fn has(&self, text: &str) -> bool {
        self.layout.has(&Digest::of(text.as_bytes()))
    }

    fn kinds(&self, kind: ArtifactKind) -> usize {
        self.artifacts.list().unwrap().iter().filter(|record| record.kind == kind).count()
    }
}

#[test]
fn removing_an_index_gives_back_what_only_it_kept() {
    let lab = Lab::new();
    let one = lab.index("a", &["shared", "own of a"], 0);
    let two = lab.index("b", &["shared", "own of b"], 0);
    let removed = remove(&lab.store, &lab.artifacts, &one).unwrap();
    assert_eq!((removed.blobs.len(), removed.records.len()), (2, 2));
    assert!(!lab.layout.has(&one) && !lab.has("own of a"));
    assert!(lab.layout.has(&two) && lab.has("shared") && lab.has("own of b") && lab.has("{}"));
    assert_eq!(lab.layout.index().unwrap().iter().map(|entry| entry.digest).collect::<Vec<_>>(), [two]);
    assert_eq!((lab.kinds(ArtifactKind::SociIndex), lab.kinds(ArtifactKind::SociLayer)), (1, 2));
    remove(&lab.store, &lab.artifacts, &two).unwrap();
    assert_eq!((lab.layout.blobs().unwrap().len(), lab.artifacts.list().unwrap().len()), (0, 0));
}

#[test]
fn what_a_named_image_lists_stays() {
    let lab = Lab::new();
    let index = lab.index("a", &["z"], 0);
    let entry =
        Descriptor::new(media_type::OCI_MANIFEST, index, lab.layout.read(&index).unwrap().len() as u64);
    let list = crate::image::ImageIndex::encode(&[entry]);
    let mut image = Descriptor::new(media_type::OCI_INDEX, lab.layout.put(&list).unwrap(), list.len() as u64);
    image.annotations.insert(media_type::REF_NAME.to_owned(), "v1".to_owned());
    lab.layout.add_manifest(image.clone()).unwrap();
    let removed = remove(&lab.store, &lab.artifacts, &index).unwrap();
    assert_eq!((removed.blobs.len(), removed.records.len()), (0, 1));
    assert!(lab.layout.has(&index) && lab.has("z"));
    // The tag moves on; what only the old image kept goes.
    let other = crate::image::ImageIndex::encode(&[]);
    let mut next =
        Descriptor::new(media_type::OCI_INDEX, lab.layout.put(&other).unwrap(), other.len() as u64);
    next.annotations = image.annotations.clone();
    replace(&lab.layout, next.clone()).unwrap();
    assert!(!lab.layout.has(&image.digest) && !lab.layout.has(&index) && !lab.has("z"));
    assert_eq!(lab.layout.index().unwrap(), [next]);
}

#[test]
fn a_forgotten_index_comes_back_until_the_store_is_pruned() {
    let lab = Lab::new();
    let index = lab.index("a", &["z"], 0);
    let record = lab.artifacts.get(&index).unwrap();
    lab.artifacts.forget(&index).unwrap();
    assert!(matches!(lab.artifacts.get(&index), Err(StoreError::NotFound(_))));
    assert_eq!(lab.kinds(ArtifactKind::SociLayer), 1);
    assert!(lab.artifacts.recall(&index).unwrap() && lab.artifacts.get(&index).unwrap() == record);
    lab.artifacts.forget(&index).unwrap();
    let would = prune(&lab.layout, &lab.artifacts, Prune { dry_run: true, ..Prune::default() }).unwrap();
    assert!(lab.layout.has(&index) && would.blobs.len() == 3);
    let removed = prune(&lab.layout, &lab.artifacts, Prune::default()).unwrap();
    assert_eq!(removed.blobs, would.blobs);
    assert!(!lab.artifacts.recall(&index).unwrap() && lab.layout.blobs().unwrap().is_empty());
}

#[test]
fn pruning_keeps_the_newest_and_the_young() {
    let lab = Lab::new();
    let of_a: Vec<_> = (0..4).map(|n| lab.index("a", &["base", &format!("a{n}")], 100 * (n + 1))).collect();
    let of_b = lab.index("b", &["base"], 1000);
    let now = || prune(&lab.layout, &lab.artifacts, Prune::default()).unwrap();
    assert_eq!((now().records.len(), now().bytes()), (0, 0), "nothing goes that nobody asked for");
    let before = Timestamp::now().checked_sub(jiff::SignedDuration::from_hours(250)).unwrap();
    prune(&lab.layout, &lab.artifacts, Prune { keep: Some(1), before: Some(before), ..Prune::default() })
        .unwrap();
    let left = |digests: &[Digest]| digests.iter().map(|it| lab.layout.has(it)).collect::<Vec<_>>();
    assert_eq!(left(&of_a), [true, true, false, false]);
    assert!(lab.layout.has(&of_b) && lab.has("base") && lab.has("a1") && !lab.has("a2"));
    prune(&lab.layout, &lab.artifacts, Prune { keep: Some(1), ..Prune::default() }).unwrap();
    assert_eq!(left(&of_a), [true, false, false, false]);
    prune(&lab.layout, &lab.artifacts, Prune { before: Some(before), ..Prune::default() }).unwrap();
    assert!(!lab.layout.has(&of_b) && lab.layout.has(&of_a[0]));
}

#[test]
fn lost_records_are_no_reason_to_remove() {
    let lab = Lab::new();
    let index = lab.index("a", &["z"], 1000);
    for record in lab.artifacts.list().unwrap() {
        lab.artifacts.remove(&record.digest).unwrap();
    }
    lab.layout.put(b"of a snapshotter").unwrap();
    prune(&lab.layout, &lab.artifacts, Prune { keep: Some(0), ..Prune::default() }).unwrap();
    assert!(lab.layout.has(&index) && lab.has("z"));
    prune(&lab.layout, &lab.artifacts, Prune { unrecorded: true, ..Prune::default() }).unwrap();
    assert!(!lab.layout.has(&index) && !lab.has("z"));
    assert!(lab.has("of a snapshotter"), "what came just now may be part of something");
    let file = File::open(lab.layout.blob_path(&Digest::of(b"of a snapshotter"))).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(200_000)).unwrap();
    prune(&lab.layout, &lab.artifacts, Prune { unrecorded: true, ..Prune::default() }).unwrap();
    assert!(!lab.has("of a snapshotter"));
}

#[test]
fn a_full_index_says_so_long_before_nobody_can_read_it() {
    let lab = Lab::new();
    let entry = |n: u32| Descriptor::new(media_type::OCI_MANIFEST, Digest::of(&n.to_le_bytes()), 1);
    let many: Vec<_> = (0..30_000).map(entry).collect();
    let raw = crate::image::ImageIndex::encode(&many);
    assert!(raw.len() > layout::MAX_LISTED && raw.len() < crate::image::MAX_MANIFEST);
    fs::write(lab.layout.root().join("index.json"), &raw).unwrap();
    let error = lab.layout.add_manifest(entry(40_000)).unwrap_err();
    assert!(matches!(error, StoreError::Full { entries: 30_001, .. }), "{error}");
    // What is listed already is no more, and there is a way out.
    lab.layout.add_manifest(entry(7)).unwrap();
    remove(&lab.store, &lab.artifacts, &entry(7).digest).unwrap();
    assert_eq!(lab.layout.index().unwrap().len(), 29_999);
}

#[test]
fn what_is_unknown_in_an_index_stays() {
    let lab = Lab::new();
    let foreign = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2,"x":[1]}],"annotations":{"a":"b"},"y":{}}"#;
    fs::write(lab.layout.root().join("index.json"), foreign).unwrap();
    let index = lab.index("a", &[], 0);
    remove(&lab.store, &lab.artifacts, &index).unwrap();
    assert_eq!(fs::read_to_string(lab.layout.root().join("index.json")).unwrap(), foreign);
}

#[test]
fn equal_prefetch_artifacts_of_two_layers_have_two_records() {
    let lab = Lab::new();
    let blob = Descriptor::new(media_type::PREFETCH, Digest::of(b"spans"), 5);
    let record =
        |layer: &[u8]| Artifact::new(ArtifactKind::SociPrefetch, &blob, Digest::of(layer), &lab.store);
    // As an earlier version wrote it.
    let old = serde_json::to_vec(&record(b"one")).unwrap();
    let plain = lab.dir.path().join("artifacts").join(format!("{}.json", blob.digest.hex()));
    fs::write(&plain, old).unwrap();
    for layer in [&b"one"[..], b"two", b"one"] {
        lab.artifacts.put(&record(layer)).unwrap();
    }
    let layers: std::collections::BTreeSet<_> =
        lab.artifacts.list().unwrap().into_iter().map(|record| record.oci_digest).collect();
    assert_eq!(layers, [Digest::of(b"one"), Digest::of(b"two")].into());
    assert_eq!(lab.artifacts.list().unwrap().len(), 2);
    assert!(lab.artifacts.get(&blob.digest).is_ok());
    lab.artifacts.remove(&blob.digest).unwrap();
    assert!(lab.artifacts.list().unwrap().is_empty());
}

#[test]
fn records_change_under_a_lock() {
    let lab = Lab::new();
    let index = lab.index("a", &[], 0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let artifacts = &lab.artifacts;
            scope.spawn(move || {
                (0..10).for_each(|_| artifacts.update(&index, |record| record.span_size += 1).unwrap());
            });
        }
    });
    assert_eq!(lab.artifacts.get(&index).unwrap().span_size, 80);
}

#[test]
fn what_a_node_has_fetched_goes_when_it_is_not_used_and_nothing_else() {
    let lab = Lab::new();
    let built = lab.index("built.test/a:1", &["built"], 0);
    let raw = lab.layout.read(&built).unwrap();
    let ours: Vec<Digest> = lab.layout.blobs().unwrap().into_iter().map(|(digest, _)| digest).collect();
    let fetched = |text: &str| {
        let ztoc =
            Descriptor::new(media_type::ZTOC, lab.layout.put(text.as_bytes()).unwrap(), text.len() as u64);
        let index = SociIndex::new(IndexVersion::V1, vec![ztoc.clone()], None).encode();
        (lab.layout.put(&index).unwrap(), ztoc.digest)
    };
    let (used, unused) = (fetched("used"), fetched("unused"));
    let reclaim = |unused: &[Digest], used: &[Digest]| {
        let (unused, used) = (unused.iter().copied(), used.iter().copied());
        let removed = reclaim(&lab.layout, &lab.artifacts, unused, used).unwrap();
        let mut gone: Vec<Digest> = removed.blobs.into_iter().map(|(digest, _)| digest).collect();
        gone.sort_unstable();
        gone
    };
    let in_a_build = lab.layout.put(b"nobody has named it yet").unwrap();
    let mut expected = vec![unused.0, unused.1];
    expected.sort_unstable();
    assert_eq!(reclaim(&[unused.0, built], &[used.0]), expected);
    assert!(lab.layout.has(&used.0) && lab.layout.has(&used.1));
    assert_eq!(reclaim(&[used.0], &[]).len(), 2);
    assert!(lab.layout.has(&in_a_build));
    assert!(ours.iter().all(|digest| lab.layout.has(digest)), "what was built here has records");
    assert_eq!(lab.layout.read(&built).unwrap(), raw);
}
