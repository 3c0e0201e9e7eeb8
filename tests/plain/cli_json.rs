//! `--json`: with every command that has results, standard output is one JSON document and nothing else, and its keys are
//! those of docs/compatibility.md.

use harness::disk_image::{self, half_random};
use harness::image::{TarWriter, gzip};
use harness::registry::TestRegistry;
use harness::soci::Soci;
use serde_json::Value;
use soci_core::media_type::{OCI_LAYER, OCI_LAYER_GZIP};

struct Place {
    soci: Soci,
}

impl Place {
    /// An image of two layers, the second too small for a zTOC, with a trace of it.
    fn new() -> Self {
        let soci = Soci::new();
        let big = TarWriter::default().file("a", &half_random(900_000, 1)).finish();
        let small = TarWriter::default().file("b", b"b\n").finish();
        disk_image::write(
            &soci.dir().join("image"),
            "v1",
            &[(OCI_LAYER_GZIP, gzip(&big, 6)), (OCI_LAYER, small)],
        );
        std::fs::write(soci.dir().join("list"), "/a\n/b\n/none\n").unwrap();
        let place = Self { soci };
        let made = place.json("trace import --json -f paths --image oci:image -o own.trace list");
        assert_eq!((&made["trace"], &made["accesses"]), (&"own.trace".into(), &2.into()));
        place
    }

    #[track_caller]
    fn json(&self, words: &str) -> Value {
        let outcome = self.soci.run(words.split(' '));
        assert!(outcome.code == 0 || words.starts_with("doctor"), "{words}: {}", outcome.stderr);
        serde_json::from_str(&outcome.stdout)
            .unwrap_or_else(|error| panic!("{words}: {error}: {}", outcome.stdout))
    }
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn is_digest(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.starts_with("sha256:") && text.len() == 71)
}

#[test]
fn what_builds_says_what_it_has_made() {
    let place = Place::new();
    let build = "--min-layer-size 10000 --span-size 64KiB --trace own.trace --fine --pack";
    let made = place.json(&format!("create --json {build} oci:image"));
    assert_eq!(keys(&made), ["dry_run", "image", "indexes"]);
    assert_eq!(made["image"], "oci:image");
    let index = &made["indexes"][0];
    assert_eq!(keys(index), ["digest", "fine_indexes", "layers", "manifest", "packs", "plans", "platform"]);
    let plan = &index["plans"][0];
    assert_eq!(
        keys(plan),
        ["bytes", "files", "image_size", "left_out", "manifest", "must_have_bytes", "prefetch"]
    );
    assert_eq!(keys(&plan["prefetch"]), ["bytes", "cut_bytes", "cut_spans", "spans"]);
    assert_eq!(keys(&plan["left_out"]), ["excluded", "rare"]);
    assert_eq!((&plan["manifest"], &plan["files"]), (&index["manifest"], &2.into()));
    let listed = place.json("index list --json");
    assert_eq!((&index["digest"], &index["platform"]), (&listed[0]["digest"], &listed[0]["platform"]));
    let layers = index["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 2);
    for layer in layers {
        assert_eq!(keys(layer), ["digest", "existed", "media_type", "prefetch", "size", "skipped", "ztoc"]);
    }
    let big = layers.iter().find(|layer| layer["media_type"] == OCI_LAYER_GZIP).unwrap();
    let small = layers.iter().find(|layer| layer["media_type"] == OCI_LAYER).unwrap();
    assert!(is_digest(&big["ztoc"]) && is_digest(&big["prefetch"]) && big["skipped"].is_null(), "{big}");
    assert!(small["ztoc"].is_null() && small["skipped"].as_str().unwrap().contains("10000"), "{small}");
    assert_eq!(index["fine_indexes"].as_array().unwrap().len(), 1);
    let pack = &index["packs"][0];
    assert_eq!(
        keys(pack),
        ["blocks", "cut", "cut_must_have", "digest", "must_have_blocks", "plain_size", "size"]
    );

    let converted =
        place.json(&format!("convert --json --standalone --format oci-dir {build} oci:image out"));
    assert_eq!(keys(&converted), ["digest", "dry_run", "fine_indexes", "image", "layers", "packs", "plans"]);
    assert_eq!((&converted["image"], converted["layers"].as_array().unwrap().len()), (&"out".into(), 2));
    let packs = place.json("pack create --json --trace own.trace --name other oci:image");
    assert_eq!(
        (keys(&packs), keys(&packs["packs"][0])),
        (vec!["dry_run", "image", "packs", "plans"], keys(pack))
    );

    let digest = pack["digest"].as_str().unwrap();
    let verified = place.json(&format!("pack verify --json {digest} oci:image"));
    assert_eq!((&verified["digest"], &verified["ok"]), (&pack["digest"], &true.into()));
    assert_eq!(verified["blocks"], pack["blocks"]);
    let records = place.json("rebuild-db --json");
    assert_eq!(
        keys(&records),
        ["fine_indexes", "indexes", "left_out", "packs", "prefetch_artifacts", "ztocs"]
    );
    assert_eq!((&records["indexes"], &records["packs"]), (&1.into(), &2.into()));
}

#[test]
fn what_lists_and_shows_is_json() {
    let place = Place::new();
    let made = place.json("create --json --min-layer-size 10000 --trace own.trace --fine --pack oci:image");
    let index = &made["indexes"][0];
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let layer = index["layers"].as_array().unwrap().iter().find(|layer| is_digest(&layer["ztoc"])).unwrap();
    let (ztoc, prefetch, pack) =
        (text(&layer["ztoc"]), text(&layer["prefetch"]), text(&index["packs"][0]["digest"]));
    for words in [
        "index list --json".to_owned(),
        format!("index info --json {}", text(&index["digest"])),
        "ztoc list --json".to_owned(),
        format!("ztoc info --json {ztoc}"),
        "prefetch list --json".to_owned(),
        format!("prefetch info --json {prefetch}"),
        "pack list --json".to_owned(),
        format!("pack info --json {pack}"),
        "trace info --json own.trace".to_owned(),
        "trace diff --json own.trace own.trace".to_owned(),
        "report --json own.trace".to_owned(),
        "doctor --json".to_owned(),
        "doctor --json oci:image".to_owned(),
    ] {
        place.json(&words);
    }
    let registry = TestRegistry::start();
    let image = registry.image("app:v1");
    let pushed = place.json(&format!("push --json --image oci:image {image}"));
    assert_eq!(keys(&pushed), ["image", "pushed"]);
    let kinds: Vec<String> =
        pushed["pushed"].as_array().unwrap().iter().map(|one| text(&one["kind"])).collect();
    assert_eq!(kinds, ["image manifest", "soci index", "fine index", "pack"]);
    assert_eq!(pushed["pushed"][1]["digest"], index["digest"]);
    place.json(&format!("index list --json --remote {image}"));
    let findings = place.json(&format!("doctor --json {image}"));
    let of =
        |check: &str| findings.as_array().unwrap().iter().find(|one| one["check"] == check).unwrap().clone();
    assert!(text(&of("index")["found"]).contains("version 1"), "{findings}");
    assert_eq!(of("companions")["found"], "1 fine indexes and 1 packs");
}

/// A converted image has its index within, and doctor finds it.
#[test]
fn doctor_knows_images_of_version_2_and_images_on_disk() {
    let place = Place::new();
    let converted =
        place.json("convert --json --standalone --format oci-dir --min-layer-size 10000 oci:image out");
    let registry = TestRegistry::start();
    let image = registry.image("app:v2");
    let pushed = place.json(&format!("push --json --image oci:out {image}"));
    assert!(pushed["pushed"].as_array().unwrap().iter().any(|one| one["kind"] == "image index"), "{pushed}");
    // Its index is a part of it, and nothing that could be pushed alone.
    let refused = place.soci.run(["push", "--quiet", &image]);
    assert_eq!((refused.code, refused.stdout.as_str()), (1, ""));
    assert!(
        refused.stderr.contains("hint: an index of version 2 is part of its image"),
        "{}",
        refused.stderr
    );
    assert!(is_digest(&converted["digest"]));
    for image in [image.as_str(), "oci:out"] {
        let findings = place.json(&format!("doctor --json {image}"));
        let index = findings.as_array().unwrap().iter().find(|one| one["check"] == "index").unwrap();
        assert_eq!(index["state"], "ok", "{index}");
        assert!(index["found"].as_str().unwrap().contains("(version 2) is part of the image"), "{index}");
    }
    let findings = place.json("doctor --json oci:nothing");
    let image = findings.as_array().unwrap().iter().find(|one| one["check"] == "image").unwrap();
    assert_eq!(image["state"], "failed", "{image}");
}

/// Several indexes of one image: which one nodes take is said, by push and by doctor.
#[test]
fn push_says_which_index_will_be_found_first() {
    let place = Place::new();
    let registry = TestRegistry::start();
    let image = registry.image("app:v1");
    for size in ["64K", "128K", "256K"] {
        let create = format!("create -q --force --min-layer-size 10000 --span-size {size} oci:image");
        let index = place.soci.run(create.split(' ')).ok();
        let pushed = place.soci.run(["push", "-q", "--image", "oci:image", &image]);
        assert_eq!((pushed.code, &pushed.stdout), (0, &index), "{}", pushed.stderr);
        let first = place.soci.run(["index", "list", "-q", "--remote", &image]).ok();
        let first = first.lines().next().unwrap();
        let other = format!("warning: the registry lists SOCI index {first} before {}", index.trim_end());
        assert_eq!(pushed.stderr.contains(&other), first != index.trim_end(), "{}", pushed.stderr);
        assert!(place.json(&format!("doctor --json {image}")).to_string().contains(first));
    }
}
