//! `soci` on images of a real containerd: what is created stays as long as its image and goes with it, converted images
//! are pushed and pulled by containerd and run lazily. Needs root, containerd, docker-registry and runc.

use std::fs;
use std::path::Path;

use harness::containerd::Containerd;
use harness::daemon::Daemon;
use harness::disk_image::{self, half_random};
use harness::docker_registry::DockerRegistry;
use harness::image::{TarWriter, gzip};
use harness::layout;
use harness::soci::Soci;
use serde_json::json;
use soci_core::digest::Digest;
use soci_core::media_type::OCI_LAYER_GZIP;
use tempfile::TempDir;
use tokio::runtime::Runtime;

struct Place {
    soci: Soci,
    containerd: Containerd,
    dir: TempDir,
}

/// Gives the layout `from` to containerd, whose names for it begin with `name`.
fn import(containerd: &Containerd, from: &Path, name: &str) {
    let tar = from.with_extension("tar");
    disk_image::pack(from, &tar);
    let words =
        ["images", "import", "--no-unpack", "--all-platforms", "--base-name", name, tar.to_str().unwrap()];
    containerd.ctr_ok(&words);
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let containerd = Containerd::plain(dir.path());
    for (name, seed) in [("app", 1), ("other", 2)] {
        let mut tar = TarWriter::default();
        tar.file("data", &half_random(3_000_000, seed)).file("small", b"text\n");
        let image = dir.path().join(name);
        disk_image::write(&image, "v1", &[(OCI_LAYER_GZIP, gzip(&tar.finish(), 6))]);
        import(&containerd, &image, &format!("registry.test/{name}"));
    }
    let soci = Soci::with_containerd(&containerd.socket());
    Place { soci, containerd, dir }
}

impl Place {
    fn run(&self, words: &[&str]) -> String {
        self.soci.run([&["-n", "k8s.io"], words].concat()).ok()
    }

    fn create(&self, name: &str) -> Vec<String> {
        let build = ["create", "--min-layer-size", "0", "--span-size", "262144", "--prefetch-file", "data"];
        self.run(&[&build[..], &[name]].concat());
        let mut made: Vec<String> = Vec::new();
        for list in [["index", "ls", "-q", "--ref", name], ["ztoc", "ls", "-q", "--image-ref", name]] {
            made.extend(self.run(&list).lines().map(str::to_owned));
        }
        let artifacts = self.run(&["prefetch", "ls", "--json"]);
        let artifacts: serde_json::Value = serde_json::from_str(&artifacts).unwrap();
        made.extend(artifacts.as_array().unwrap().iter().map(|a| a["Digest"].as_str().unwrap().to_owned()));
        made
    }

    fn in_containerd(&self) -> Vec<String> {
        self.containerd.ctr_ok(&["content", "ls", "-q"]).lines().map(str::to_owned).collect()
    }

    fn has_all(&self, digests: &[String]) -> bool {
        let here = self.in_containerd();
        digests.iter().all(|digest| here.contains(digest))
    }
}

#[test]
fn artifacts_live_and_go_with_their_image() {
    let place = place();
    let made = place.create("registry.test/app:v1");
    assert_eq!(made.len(), 3, "an index, a zTOC, a prefetch artifact: {made:?}");
    assert!(place.has_all(&made));
    let blobs = fs::read_dir(place.soci.dir().join("root/content/blobs/sha256")).unwrap();
    assert_eq!(blobs.count(), 0, "nothing is kept twice");
    place.containerd.ctr_ok(&["images", "rm", "--sync", "registry.test/other:v1"]);
    assert!(place.has_all(&made), "the collection of other images leaves them alone");
    assert_eq!(place.containerd.ctr_ok(&["leases", "ls", "-q"]), "", "no lease is left behind");

    let before = place.run(&["index", "ls", "-q"]);
    fs::remove_dir_all(place.soci.dir().join("root/artifacts")).unwrap();
    assert_eq!(place.run(&["index", "ls", "-q"]), "");
    place.run(&["rebuild-db"]);
    assert_eq!(place.run(&["index", "ls", "-q"]), before);
    let table = place.run(&["index", "ls"]);
    assert!(table.contains("registry.test/app:v1    linux/amd64 "), "{table}");
    let again =
        place.run(&["create", "--min-layer-size", "0", "--span-size", "262144", "registry.test/app:v1"]);
    assert!(again.contains("(already exists)"), "{again}");
    assert_eq!(place.run(&["ztoc", "get-file", &made[1], "small"]), "text\n\n");

    place.containerd.ctr_ok(&["images", "rm", "--sync", "registry.test/app:v1"]);
    let here = place.in_containerd();
    assert!(made.iter().all(|digest| !here.contains(digest)), "{here:?}");
    place.run(&["rebuild-db"]);
    assert_eq!(place.run(&["ztoc", "ls", "-q"]), "");
}

#[test]
fn removed_indexes_are_collected() {
    let place = place();
    let made = place.create("registry.test/app:v1");
    place.run(&["index", "rm", &made[0]]);
    place.containerd.ctr_ok(&["images", "rm", "--sync", "registry.test/other:v1"]);
    let here = place.in_containerd();
    assert!(made.iter().all(|digest| !here.contains(digest)), "{here:?}");
}

#[test]
fn the_store_that_was_chosen_is_used() {
    let place = place();
    let here = place.in_containerd();
    let words = ["--content-store", "soci", "create", "--min-layer-size", "0", "registry.test/app:v1"];
    place.run(&words);
    assert!(place.in_containerd().iter().all(|blob| here.contains(blob)), "nothing new is there");
    let digest = place.run(&["index", "ls", "-q", "--ref", "registry.test/app:v1"]);
    place.run(&["index", "info", digest.trim()]);
    let chosen = ["-n", "k8s.io", "--content-store", "containerd", "index", "info", digest.trim()];
    assert_eq!(place.soci.run(chosen).failed(), format!("soci: {} not found", digest.trim()));

    let layout = format!("oci:{}", place.dir.path().join("app").display());
    let store = format!("oci:{}", place.dir.path().join("kept").display());
    place.run(&["--content-store", &store, "create", "--min-layer-size", "0", &layout]);
    assert!(place.dir.path().join("kept/blobs/sha256").join(&digest.trim()["sha256:".len()..]).exists());
    let refused = ["-n", "k8s.io", "--content-store", "containerd", "create", &layout];
    assert!(place.soci.run(refused).failed().contains("is not in containerd, which would collect"));
}

#[test]
fn names_that_are_nowhere_and_destinations_that_cannot_be() {
    let place = place();
    let failed = |words: &[&str]| place.soci.run([&["-n", "k8s.io"], words].concat()).failed();
    assert_eq!(
        failed(&["create", "containerd://registry.test/none:v1"]),
        "soci: image \"registry.test/none:v1\": not found"
    );
    assert_eq!(
        failed(&["convert", "registry.test/none:v1", "registry.test/x:v1"]),
        "soci: image \"registry.test/none:v1\": not found"
    );
    for (name, why) in [
        ("registry.test/x", "reference must be tagged"),
        ("x:v1", "could not parse reference: the registry is missing"),
        (&format!("registry.test/x:v1@{}", Digest::of(b"")), "reference must not contain a digest"),
    ] {
        let start =
            "soci: the destination image must be a tagged ref of the form \"registry/repository:tag\"";
        assert_eq!(failed(&["convert", "registry.test/app:v1", name]), format!("{start}: {why}"));
    }
}

/// Upstream keeps only the index of the last platform.
#[test]
fn every_platform_of_an_image_keeps_its_index() {
    let place = place();
    let layer = |seed| {
        let tar = TarWriter::default().file("data", &half_random(1_000_000, seed)).finish();
        [(OCI_LAYER_GZIP, gzip(&tar, 6))]
    };
    let image = place.dir.path().join("many");
    disk_image::write_for(
        &image,
        "v1",
        &[("amd64", &layer(11)), ("arm64", &layer(12)), ("riscv64", &layer(13))],
    );
    import(&place.containerd, &image, "registry.test/many");
    let name = "registry.test/many:v1";

    let build = ["--min-layer-size", "0", "--span-size", "262144", "--all-platforms"];
    let made = place.run(&[&["create", "-q"], &build[..], &[name]].concat());
    let made: Vec<String> = made.lines().map(str::to_owned).collect();
    assert_eq!(made.len(), 3, "{made:?}");
    let listed = place.containerd.ctr_ok(&["images", "ls", &format!("name=={name}")]);
    let key = "containerd.io/gc.ref.content.soci-index";
    for index in &made {
        assert!(listed.contains(&format!("={index}")), "{index}: {listed}");
    }
    assert!(listed.contains(&format!("{key}={}", made[2])), "{listed}");
    let table = place.run(&["index", "ls", "--ref", name]);
    for architecture in ["amd64", "arm64", "riscv64"] {
        assert_eq!(table.matches(&format!(" linux/{architecture} ")).count(), 1, "{table}");
    }
    let ztocs = place.run(&["ztoc", "ls", "-q", "--image-ref", name]);
    let ztocs: Vec<String> = ztocs.lines().map(str::to_owned).collect();
    assert_eq!(ztocs.len(), 3);
    place.containerd.ctr_ok(&["images", "rm", "--sync", "registry.test/other:v1"]);
    assert!(place.has_all(&made) && place.has_all(&ztocs), "garbage collection leaves all of them");

    let converted = "registry.test/many:v2";
    let target = place.run(&[&["convert", "-q"], &build[..], &[name, converted]].concat());
    let raw = place.containerd.ctr_ok(&["content", "get", target.trim_end()]);
    let index: serde_json::Value = serde_json::from_str(&raw).unwrap();
    let entries = index["manifests"].as_array().unwrap();
    let of = |key: &str| -> Vec<&str> {
        let own = entries.iter().filter(|entry| entry["artifactType"].is_string() == (key == "soci"));
        own.map(|entry| entry["platform"]["architecture"].as_str().unwrap()).collect()
    };
    assert_eq!(
        (of("image"), of("soci")),
        (vec!["amd64", "arm64", "riscv64"], vec!["amd64", "arm64", "riscv64"])
    );
    // The converted image is enough to keep everything, and takes it along.
    place.containerd.ctr_ok(&["images", "rm", "--sync", name]);
    let indexes: Vec<String> =
        place.run(&["index", "ls", "-q", "--ref", converted]).lines().map(str::to_owned).collect();
    assert_eq!(indexes.len(), 3, "{indexes:?}");
    assert!(place.has_all(&indexes) && place.has_all(&ztocs));
    assert!(
        made.iter().all(|index| !place.in_containerd().contains(index)),
        "those of version 1 went with their image"
    );
    place.containerd.ctr_ok(&["images", "rm", "--sync", converted]);
    let here = place.in_containerd();
    assert!(indexes.iter().chain(&ztocs).all(|blob| !here.contains(blob)), "{here:?}");
}

/// Converted in containerd, pushed by it to a registry, pulled by a node that knows our snapshotter.
#[test]
fn a_converted_image_is_pushed_pulled_and_run() {
    let registry = DockerRegistry::new();
    let place = place();
    let files = tempfile::tempdir().unwrap();
    layout::compile_workload(&files.path().join("do"));
    fs::write(files.path().join("data"), half_random(2_000_000, 3)).unwrap();
    for directory in ["proc", "sys", "dev", "run", "tmp"] {
        fs::create_dir(files.path().join(directory)).unwrap();
    }
    let image = place.dir.path().join("work");
    layout::write(&image, &[files.path().to_owned()], &json!({}));
    let name = format!("{}/work", registry.host());
    let tar = image.with_extension("tar");
    disk_image::pack(&image, &tar);
    let import =
        ["images", "import", "--no-unpack", "--index-name", &format!("{name}:v1"), tar.to_str().unwrap()];
    place.containerd.ctr_ok(&import);
    let converted = format!("{name}:v2");
    place.run(&[
        "convert",
        "--min-layer-size",
        "0",
        "--span-size",
        "65536",
        &format!("{name}:v1"),
        &converted,
    ]);
    place.containerd.ctr_ok(&["images", "rm", "--sync", &format!("{name}:v1")]);
    let table = place.run(&["index", "ls", "--ref", &converted]);
    assert!(table.contains(" v2 ") && table.contains(&converted), "{table}");
    place.containerd.ctr_ok(&["images", "push", "--plain-http", &converted]);
    assert!(place.run(&["index", "ls", "--remote", &converted]).contains(" v2 "));

    let node = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(node.path(), "");
    let containerd = Containerd::start(node.path(), &daemon);
    let runtime = Runtime::new().unwrap();
    runtime.block_on(containerd.cri_pull(&converted)).unwrap();
    assert_eq!(daemon.metric("soci_layers_total{way=\"lazy\"}"), 1);
    let words =
        ["run", "--rm", "--snapshotter", "soci", &converted, "a", "/do", "read", "/data", "0", "2000000"];
    containerd.ctr_ok(&words);
    containerd.ctr_ok(&["images", "ls", "-q"]).lines().for_each(|name| {
        containerd.ctr_ok(&["images", "rm", "--sync", name]);
    });
}
