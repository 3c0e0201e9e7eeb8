//! The local store over time: what `index rm`, `pack rm` and `store prune` give back, what `rebuild-db` brings back, and a
//! file system without locks.
//!
//! Needs the programs `strace` and `zstd`.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use harness::daemon::program;
use harness::disk_image::{self, half_random};
use harness::image::{TarWriter, gzip};
use harness::soci::Soci;
use serde_json::Value;
use soci_core::digest::Digest;
use soci_core::image::{Descriptor, ImageIndex};
use soci_core::index::{IndexVersion, SociIndex};
use soci_core::media_type::{OCI_LAYER_GZIP, OCI_LAYER_ZSTD, OCI_MANIFEST, ZTOC};
use soci_core::store::LayoutStore;

fn tar(seed: u64) -> Vec<u8> {
    TarWriter::default().file("data", &half_random(700_000, seed)).finish()
}

/// One zstd frame.
fn zstd(plain: &[u8]) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), plain).unwrap();
    let output = Command::new("zstd").arg("-qc").arg(file.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// An image of a gzip layer and a zstd layer of several frames.
fn place() -> Soci {
    let soci = Soci::new();
    let frames: Vec<u8> = tar(2).chunks(100_000).flat_map(zstd).collect();
    let layers = [(OCI_LAYER_GZIP, gzip(&tar(1), 6)), (OCI_LAYER_ZSTD, frames)];
    disk_image::write(&soci.dir().join("image"), "v1", &layers);
    soci
}

fn create(soci: &Soci, span_size: &str) -> String {
    let words = ["create", "-q", "--min-layer-size", "0", "--span-size", span_size, "oci:image"];
    soci.run(words).ok().trim_end().to_owned()
}

/// Bytes of all blobs.
fn held(soci: &Soci) -> u64 {
    let blobs = fs::read_dir(soci.dir().join("root/content/blobs/sha256")).unwrap();
    blobs.map(|blob| blob.unwrap().metadata().unwrap().len()).sum()
}

fn lines(soci: &Soci, words: &str) -> BTreeSet<String> {
    soci.run(words.split(' ')).ok().lines().map(str::to_owned).collect()
}

#[test]
fn pruning_gives_back_what_it_says() {
    let soci = place();
    let (old, new) = (create(&soci, "65536"), create(&soci, "131072"));
    let before = held(&soci);
    assert_eq!(soci.run(["store", "prune"]).ok(), "removed 0 artifacts, 0 blobs, 0 bytes\n");
    let dry = soci.run(["store", "prune", "--keep", "1", "--dry-run", "--json"]).ok();
    let dry: Value = serde_json::from_str(&dry).unwrap();
    assert_eq!((held(&soci), dry["dry_run"].as_bool()), (before, Some(true)));
    let going: Vec<_> =
        dry["artifacts"].as_array().unwrap().iter().map(|row| row["digest"].as_str()).collect();
    assert!(going.contains(&Some(old.as_str())) && !going.contains(&Some(new.as_str())), "{dry}");
    soci.run(["store", "prune", "--keep", "1"]).ok();
    assert_eq!(held(&soci), before - dry["bytes"].as_u64().unwrap());
    assert_eq!(lines(&soci, "index ls -q"), [new.clone()].into());
    assert_eq!(lines(&soci, "ztoc ls -q").len(), 2);
    soci.run(["store", "prune", "--older-than", "1h"]).ok();
    assert_eq!(lines(&soci, "index ls -q"), [new].into(), "it is younger");
    assert!(soci.run(["store", "prune", "--older-than", "soon"]).stderr.contains("not a duration"));
}

#[test]
fn a_removed_index_is_kept_for_rebuild_db_until_the_store_is_pruned() {
    let soci = place();
    let index = create(&soci, "65536");
    let listed = soci.run(["index", "ls"]).ok();
    soci.run(["index", "rm", &index]).ok();
    assert_eq!(lines(&soci, "index ls -q"), BTreeSet::new());
    soci.run(["rebuild-db"]).ok();
    assert_eq!(soci.run(["index", "ls"]).ok(), listed, "with its name, platform and age");
    soci.run(["index", "rm", &index]).ok();
    soci.run(["store", "prune"]).ok();
    assert_eq!(held(&soci), 0);
    let again = create(&soci, "65536");
    soci.run(["index", "rm", "--purge", &again]).ok();
    assert_eq!((again == index, held(&soci)), (true, 0));
    soci.run(["rebuild-db"]).ok();
    assert!(lines(&soci, "index ls -q").is_empty() && lines(&soci, "ztoc ls -q").is_empty());
}

#[test]
fn lost_records_come_back_whole() {
    let soci = place();
    create(&soci, "65536");
    let words = ["index ls", "ztoc ls", "prefetch ls"];
    let without_age = |text: String| -> String {
        text.lines()
            .map(|line| line.rsplit_once("    ").map_or(line, |(row, _)| row).to_owned() + "\n")
            .collect()
    };
    let all = || words.map(|words| without_age(soci.run(words.split(' ')).ok()));
    let before = all();
    assert!(before[0].contains("oci:image") && before[0].contains("linux/amd64"), "{}", before[0]);
    assert_eq!(before[1].lines().count(), 3, "both zTOCs: {}", before[1]);
    fs::remove_dir_all(soci.dir().join("root/artifacts")).unwrap();
    // What only looks like an index, and is named by nothing: a layer of some image, say.
    let store = LayoutStore::existing(&soci.dir().join("root/content")).unwrap();
    let subject = Descriptor::new(OCI_MANIFEST, Digest::of(b"somebody's image"), 7);
    let ztoc = Descriptor::new(ZTOC, Digest::of(b"z"), 1);
    store.put(&SociIndex::new(IndexVersion::V1, vec![ztoc], Some(subject)).encode()).unwrap();
    soci.run(["rebuild-db"]).ok();
    assert_eq!(all(), before);
}

#[test]
fn a_file_system_without_locks_is_no_endless_loop() {
    let soci = place();
    for error in ["ENOLCK", "ENOSYS", "EBADF"] {
        let root = soci.dir().join(format!("root-{error}"));
        let output = Command::new("timeout")
            .args(["120", "strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=flock", "-e"])
            .arg(format!("inject=flock:error={error}"))
            .arg(program("soci"))
            .arg("--root")
            .arg(&root)
            .args(["-a", "/nonexistent.sock", "create", "-q", "--min-layer-size", "0", "oci:image"])
            .current_dir(soci.dir())
            .output()
            .unwrap();
        assert!(output.status.success(), "{error}: {}", String::from_utf8_lossy(&output.stderr));
        for place in ["content/ingest", "artifacts/ingest"] {
            assert_eq!(fs::read_dir(root.join(place)).unwrap().count(), 0, "{error}: {place}");
        }
    }
}

#[test]
fn converting_into_a_layout_leaves_its_other_images_alone() {
    let soci = place();
    let convert = |from: &str, to: &str| {
        let words =
            ["convert", "--standalone", "--min-layer-size", "0", "-q", "--format", "oci-dir", from, to];
        soci.run(words).ok()
    };
    // A layout with an image of another name, and one of the same.
    let out = soci.dir().join("out");
    disk_image::write(&out, "other", &[(OCI_LAYER_GZIP, gzip(&tar(9), 6))]);
    let store = LayoutStore::open(&out).unwrap();
    let other = store.index().unwrap();
    convert("image", "out");
    convert("image", "out");
    let listed = store.index().unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[0], other[0]);
    let [fresh] = &{
        convert("image", "alone");
        LayoutStore::existing(&soci.dir().join("alone")).unwrap().index().unwrap()
    }[..] else {
        panic!("one image")
    };
    assert_eq!(listed[1], *fresh);
    for (blob, _) in store.blobs().unwrap() {
        store.read(&blob).unwrap();
    }
    assert!(!out.join("ingest").exists());
    // A damaged layer of the original is found, also where it would be linked; nothing of the destination changes.
    let image = LayoutStore::existing(&soci.dir().join("image")).unwrap();
    let config = image.blobs().unwrap().into_iter().min_by_key(|(_, size)| *size).unwrap().0;
    let before = fs::read(out.join("index.json")).unwrap();
    ImageIndex::parse(before.clone().into(), "").unwrap();
    for (blob, size) in image.blobs().unwrap() {
        if size > 100_000 && blob != config {
            let path = image.blob_path(&blob);
            let mut bytes = fs::read(&path).unwrap();
            fs::remove_file(&path).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            fs::write(&path, bytes).unwrap();
        }
    }
    let words = ["convert", "--standalone", "--min-layer-size", "0", "--format", "oci-dir", "image", "out"];
    assert_ne!(soci.run(words).code, 0);
    assert_eq!(fs::read(out.join("index.json")).unwrap(), before);
}
