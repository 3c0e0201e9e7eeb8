//! `soci convert --standalone` on layouts and tars: what is changed, what stays, and that the bytes are the same each time.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use harness::disk_image::{half_random, pack};
use harness::docker_registry::DockerRegistry;
use harness::image::{TarWriter, gzip};
use harness::soci::Soci;
use serde_json::{Value, json};
use soci_core::digest::Digest;
use soci_core::image::{Archive, Descriptor};
use soci_core::index::SociIndex;
use soci_core::media_type::{
    DOCKER_CONFIG, DOCKER_LAYER_GZIP, DOCKER_MANIFEST, FINE_INDEX, IMAGE_MANIFEST_DIGEST, INDEX_DIGEST,
    OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST, SOCI_INDEX_V2,
};
use soci_core::store::LayoutStore;

const BUILD: [&str; 4] = ["--min-layer-size", "0", "--span-size", "65536"];

/// An image for two platforms, one of them in Docker's terms, with an attestation, annotations and fields that nobody
/// knows.
struct Image {
    soci: Soci,
    attestation: Digest,
}

fn put(store: &LayoutStore, media_type: &str, bytes: &[u8]) -> Value {
    let digest = store.put(bytes).unwrap();
    serde_json::to_value(Descriptor::new(media_type, digest, bytes.len() as u64)).unwrap()
}

fn image() -> Image {
    let soci = Soci::new();
    let store = LayoutStore::open(&soci.dir().join("image")).unwrap();
    let layer = |kind: &str, seed| {
        let tar = TarWriter::default().file("data", &half_random(300_000, seed)).finish();
        put(&store, kind, &gzip(&tar, 6))
    };
    let config = |kind: &str, architecture: &str| {
        let text = json!({"architecture": architecture, "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}});
        put(&store, kind, text.to_string().as_bytes())
    };
    let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "x.unknown": {"kept": [1, 2.5]},
        "config": config(OCI_CONFIG, "amd64"), "layers": [layer(OCI_LAYER_GZIP, 1)], "annotations": {"title": "a<b"}});
    let mut amd64 = put(&store, OCI_MANIFEST, serde_json::to_string_pretty(&manifest).unwrap().as_bytes());
    amd64["platform"] = json!({"architecture": "amd64", "os": "linux"});
    amd64["annotations"] = json!({"entry": "own"});
    let manifest = json!({"schemaVersion": 2, "mediaType": DOCKER_MANIFEST,
        "config": config(DOCKER_CONFIG, "arm64"), "layers": [layer(DOCKER_LAYER_GZIP, 2)]});
    let mut arm64 = put(&store, DOCKER_MANIFEST, manifest.to_string().as_bytes());
    arm64["platform"] = json!({"architecture": "arm64", "os": "linux", "variant": "v8"});
    let statement = put(&store, "application/vnd.in-toto+json", b"{\"_type\":\"statement\"}");
    let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": config("application/vnd.example.config+json", "unknown"), "layers": [statement]});
    let mut attestation = put(&store, OCI_MANIFEST, format!("{manifest} ").as_bytes());
    attestation["platform"] = json!({"architecture": "unknown", "os": "unknown"});
    attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    let digest = attestation["digest"].as_str().unwrap().parse().unwrap();
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [amd64, arm64, attestation], "x.more": true});
    let raw = index.to_string();
    let mut entry = Descriptor::new(OCI_INDEX, store.put(raw.as_bytes()).unwrap(), raw.len() as u64);
    entry.annotations.insert("org.opencontainers.image.ref.name".into(), "v1".into());
    store.add_manifest(entry).unwrap();
    Image { soci, attestation: digest }
}

impl Image {
    fn convert(&self, more: &[&str], from: &str, to: &str) -> String {
        let words = [&["convert", "--standalone"], &BUILD[..], more, &[from, to]].concat();
        self.soci.run(words).ok()
    }

    fn layout(&self, name: &str) -> LayoutStore {
        LayoutStore::existing(&self.soci.dir().join(name)).unwrap()
    }

    fn file(&self, name: &str) -> Vec<u8> {
        fs::read(self.soci.dir().join(name)).unwrap()
    }
}

/// The image index that a layout lists.
fn index_of(store: &LayoutStore) -> Value {
    let listed = store.index().unwrap();
    assert_eq!(listed.len(), 1);
    serde_json::from_slice(&store.read(&listed[0].digest).unwrap()).unwrap()
}

fn blob(store: &LayoutStore, entry: &Value) -> Value {
    serde_json::from_slice(&store.read(&digest(entry)).unwrap()).unwrap()
}

fn digest(entry: &Value) -> Digest {
    entry["digest"].as_str().unwrap().parse().unwrap()
}

#[test]
fn only_what_gets_an_index_is_changed_and_nothing_is_lost() {
    let image = image();
    let said = image.convert(&["--format", "oci-dir", "--all-platforms"], "image", "out");
    assert_eq!(said.matches(" -> ztoc ").count(), 2, "{said}");
    let (store, before) = (image.layout("out"), index_of(&image.layout("image")));
    let index = index_of(&store);
    assert_eq!(store.index().unwrap()[0].annotation("org.opencontainers.image.ref.name"), Some("v1"));
    assert_eq!(index["x.more"], true);
    let [amd64, arm64, attestation, soci_amd64, soci_arm64] =
        index["manifests"].as_array().unwrap().as_slice()
    else {
        panic!("{index}")
    };
    assert_eq!(*attestation, before["manifests"][2]);
    assert_eq!(digest(attestation), image.attestation);
    for (at, (entry, soci)) in [(amd64, soci_amd64), (arm64, soci_arm64)].into_iter().enumerate() {
        let old = blob(&image.layout("image"), &before["manifests"][at]);
        let manifest = blob(&store, entry);
        assert_eq!(entry["annotations"][INDEX_DIGEST], soci["digest"]);
        assert_eq!(manifest["annotations"][INDEX_DIGEST], soci["digest"]);
        assert_eq!(soci["annotations"][IMAGE_MANIFEST_DIGEST], entry["digest"]);
        assert_eq!(soci["artifactType"], SOCI_INDEX_V2);
        assert_eq!([&entry["mediaType"], &manifest["mediaType"]], [OCI_MANIFEST; 2]);
        assert_eq!(manifest["config"]["mediaType"], OCI_CONFIG);
        assert_eq!(manifest["config"]["digest"], old["config"]["digest"]);
        assert_eq!(manifest["layers"], old["layers"]);
        assert_eq!(manifest["x.unknown"], old["x.unknown"]);
        assert_eq!(soci["platform"], entry["platform"]);
        let parsed = SociIndex::parse(store.read(&digest(soci)).unwrap()).unwrap();
        assert!(parsed.ztocs().all(|ztoc| store.has(&ztoc.digest)));
    }
    assert_eq!(amd64["annotations"]["entry"], "own");
    assert_eq!(amd64["annotations"]["title"], "a<b");
}

#[test]
fn converting_again_and_in_parts_comes_to_the_same() {
    let image = image();
    image.convert(&["--format", "oci-dir", "--all-platforms"], "image", "all");
    image.convert(&["--format", "oci-dir", "--all-platforms"], "all", "again");
    let whole = index_of(&image.layout("all"));
    assert_eq!(index_of(&image.layout("again")), whole);
    image.convert(&["--format", "oci-dir", "-p", "linux/amd64"], "image", "part");
    assert_eq!(index_of(&image.layout("part"))["manifests"].as_array().unwrap().len(), 4);
    image.convert(&["--format", "oci-dir", "-p", "linux/arm64"], "part", "parts");
    let parts = index_of(&image.layout("parts"));
    let digests = |index: &Value| -> Vec<Digest> {
        index["manifests"].as_array().unwrap().iter().map(digest).collect()
    };
    assert_eq!(digests(&parts), digests(&whole));
    // In the place of the source, whose old manifests go.
    let other =
        ["convert", "--standalone", "--min-layer-size", "0", "--span-size", "131072", "--format", "oci-dir"];
    image.soci.run([&other[..], &["-p", "linux/amd64", "parts", "parts"]].concat()).ok();
    let other = index_of(&image.layout("parts"));
    assert_eq!(digests(&other)[1..3], digests(&whole)[1..3]);
    assert_ne!(digests(&other)[0], digests(&whole)[0]);
    assert_eq!(digests(&other).len(), 5);
}

#[test]
fn fine_indexes_are_listed_and_belong_to_the_new_manifests() {
    let image = image();
    let fine = ["--format", "oci-dir", "--all-platforms", "--fine"];
    let said = image.convert(&fine, "image", "out");
    assert_eq!(said.matches("fine index -> ").count(), 2, "{said}");
    image.convert(&["--format", "oci-dir", "--all-platforms"], "image", "without");
    let (index, without) = (index_of(&image.layout("out")), index_of(&image.layout("without")));
    let (entries, plain) = (index["manifests"].as_array().unwrap(), without["manifests"].as_array().unwrap());
    // amd64, arm64, attestation; then for each platform the SOCI index and what lies beside the image.
    assert_eq!((entries.len(), plain.len()), (7, 5));
    assert_eq!([&entries[..4], &entries[5..6]].concat(), plain[..]);
    let store = image.layout("out");
    for (manifest, listed) in [(&entries[0], &entries[4]), (&entries[1], &entries[6])] {
        assert_eq!(listed["artifactType"], FINE_INDEX);
        // Else containerd 2 would download it with the image.
        assert_eq!(listed["platform"], json!({"architecture": "unknown", "os": "unknown"}));
        assert_eq!(listed["annotations"][IMAGE_MANIFEST_DIGEST], manifest["digest"]);
        let companion = blob(&store, listed);
        assert_eq!(companion["subject"]["digest"], manifest["digest"]);
        let layers = companion["layers"].as_array().unwrap();
        assert!(layers.iter().all(|layer| store.has(&digest(layer))) && !layers.is_empty());
    }
    image.convert(&fine, "out", "again");
    assert_eq!(index_of(&image.layout("again")), index);
    // Another index makes other manifests, and what is of the old ones goes with them.
    let other =
        ["convert", "--standalone", "--min-layer-size", "0", "--format", "oci-dir", "--all-platforms"];
    image.soci.run([&other[..], &["out", "other"]].concat()).ok();
    let other = index_of(&image.layout("other"));
    assert_eq!(other["manifests"].as_array().unwrap().len(), 5);
}

#[test]
fn a_tar_is_the_same_each_time_and_from_each_kind_of_source() {
    let image = image();
    image.convert(&[], "image", "one.tar");
    image.convert(&[], "image", "two.tar");
    assert_eq!(image.file("one.tar"), image.file("two.tar"));
    let dir = image.soci.dir();
    let listing = Command::new("tar").arg("-tvf").arg(dir.join("one.tar")).output().unwrap();
    let listing = String::from_utf8(listing.stdout).unwrap();
    let names: Vec<&str> = listing.lines().filter_map(|line| line.split(' ').next_back()).collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    assert_eq!(names, sorted, "{listing}");
    assert_eq!(names[names.len() - 2..], ["index.json", "oci-layout"]);
    pack(&dir.join("image"), &dir.join("in.tar"));
    image.convert(&[], "in.tar", "three.tar");
    assert_eq!(image.file("one.tar"), image.file("three.tar"));
    image.convert(&["--format", "oci-dir"], "oci-archive:in.tar:v1", "dir");
    let archive = Archive::open(&dir.join("one.tar")).unwrap();
    assert_eq!(archive.index().unwrap(), image.layout("dir").index().unwrap());
    assert_eq!(leftovers(dir), Vec::<String>::new());
}

fn leftovers(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(".soci")).collect()
}

#[test]
fn layers_are_not_copied() {
    let image = image();
    image.convert(&["--format", "oci-dir"], "image", "out");
    let [before, after] = ["image", "out"].map(|name| inodes(&image.layout(name)));
    let layers: Vec<_> = before.iter().filter(|(_, (size, _))| *size > 100_000).collect();
    assert_eq!(layers.len(), 2);
    for (name, place) in layers {
        assert_eq!(after.get(name), Some(place), "{name} is the same file");
    }
}

fn inodes(store: &LayoutStore) -> BTreeMap<String, (u64, u64)> {
    let entries = fs::read_dir(store.root().join("blobs/sha256")).unwrap().map(|entry| entry.unwrap());
    let place = |entry: &fs::DirEntry| entry.metadata().map(|data| (data.len(), data.ino())).unwrap();
    entries.map(|entry| (entry.file_name().into_string().unwrap(), place(&entry))).collect()
}

#[test]
fn entries_whose_blobs_are_missing_are_left_out() {
    let image = image();
    let store = image.layout("image");
    let before = index_of(&store);
    for at in [0, 2] {
        fs::remove_file(store.blob_path(&digest(&before["manifests"][at]))).unwrap();
    }
    image.convert(&["--format", "oci-dir"], "image", "out");
    let index = index_of(&image.layout("out"));
    let platforms: Vec<_> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["platform"]["architecture"].clone())
        .collect();
    assert_eq!(platforms, ["arm64", "arm64"], "the only one left is the default");
    fs::remove_file(store.blob_path(&digest(&before["manifests"][1]))).unwrap();
    let failed = image.soci.run(["convert", "--standalone", "image", "none"]).failed();
    assert_eq!(failed, "soci: manifest list contains no entries with available blobs");
}

#[test]
fn wrong_words_and_places_are_refused() {
    let image = image();
    let run = |words: &[&str]| image.soci.run([&["convert", "--standalone"], words].concat()).failed();
    assert_eq!(run(&[]), "soci: source image needs to be specified");
    assert_eq!(run(&["image"]), "soci: destination needs to be specified");
    assert_eq!(
        run(&["nowhere", "out"]),
        "soci: failed to access input nowhere: stat nowhere: no such file or directory"
    );
    fs::create_dir(image.soci.dir().join("mine")).unwrap();
    fs::write(image.soci.dir().join("mine/letter"), "dear").unwrap();
    assert_eq!(
        run(&["--format", "oci-dir", "image", "mine"]),
        "soci: mine is there and is no OCI image layout"
    );
    assert!(run(&["mine", "out"]).starts_with("soci: failed to read index.json from mine: "));
    assert!(run(&["mine/letter", "out"]).starts_with("soci: failed to extract OCI tar mine/letter: "));
    assert_eq!(
        run(&["image", "out"]),
        "soci: no ztocs created, all layers either skipped or produced errors"
    );
    assert!(!image.soci.dir().join("out").exists());
    LayoutStore::open(&image.soci.dir().join("empty")).unwrap();
    assert_eq!(run(&["empty", "out"]), "soci: index.json contains no manifests");
    assert_eq!(leftovers(image.soci.dir()), Vec::<String>::new());
}

#[test]
fn the_result_goes_through_other_tools_and_registries_unchanged() {
    let image = image();
    image.convert(&["--all-platforms"], "image", "out.tar");
    image.convert(&["--all-platforms", "--format", "oci-dir"], "image", "out");
    let expected = image.layout("out").index().unwrap()[0].digest;
    let registry = DockerRegistry::new();
    let skopeo = |words: &[&str]| {
        let output = Command::new("skopeo").args(words).current_dir(image.soci.dir()).output();
        let output = output.expect("skopeo is installed");
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let there = format!("docker://{}/app:v2", registry.host());
    let copy = ["copy", "--all", "--insecure-policy", "--dest-tls-verify=false"];
    skopeo(&[&copy[..], &["oci-archive:out.tar:v1", &there]].concat());
    // Older versions drop the artifact types from the image index; its manifests stay what they are.
    let entries = |index: &Value| -> Vec<Digest> {
        index["manifests"].as_array().unwrap().iter().map(digest).collect()
    };
    let raw = skopeo(&["inspect", "--raw", "--tls-verify=false", &there]);
    let copied: Value = serde_json::from_slice(&raw).unwrap();
    assert_eq!(entries(&copied), entries(&index_of(&image.layout("out"))));
    let listed = image.soci.run(["index", "list", "--remote", &there["docker://".len()..], "-q"]).ok();
    assert_eq!(listed.lines().count(), 2);

    // Our own push, and a conversion that starts in the registry.
    let pushed = format!("{}/app:ours", registry.host());
    image.soci.run(["push", "--image", "oci:out:v1", &pushed]).ok();
    let listed = image.soci.run(["index", "list", "--remote", &pushed, "--quiet"]).ok();
    assert_eq!(listed.lines().count(), 2);
    let table = image.soci.run(["index", "list", "--remote", &pushed, "-p", "linux/arm64"]).ok();
    assert!(table.lines().count() == 2 && table.contains("linux/arm64") && table.contains(" v2 "), "{table}");
    let plain = format!("{}/app:plain", registry.host());
    let copy = ["copy", "--all", "--insecure-policy", "--dest-tls-verify=false", "oci:image:v1"];
    skopeo(&[&copy[..], &[&format!("docker://{plain}")]].concat());
    image.convert(&["--all-platforms"], &format!("docker://{plain}"), "pulled.tar");
    let archive = Archive::open(&image.soci.dir().join("pulled.tar")).unwrap();
    assert_eq!(archive.index().unwrap()[0].digest, expected);
}
