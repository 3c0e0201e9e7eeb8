//! What a registry has beside an image, from the command line: profiles, packs and indexes are listed, shown, fetched, checked and
//! removed there.

use std::fs;

use harness::disk_image::{self, half_random};
use harness::image::{TarWriter, gzip};
use harness::registry::{AuthMode, Habits, PASSWORD, Referrers, TestRegistry, USER};
use harness::soci::Soci;
use serde_json::Value;
use soci_core::media_type::{OCI_LAYER_GZIP, OCI_MANIFEST, PROFILE};

const LOG: &str = r#"7 1000000000.000000 execve("/bin/app", ["app"], 0x7ff /* 3 vars */) = 0 <0.000200>
7 1000000000.000300 openat(AT_FDCWD, "/data/FILE", O_RDONLY) = 3 <0.000010>
7 1000000000.000400 read(3, ""..., 100000) = 100000 <0.000020>
7 1000000000.000800 exit_group(0) = ?
7 1000000000.000900 +++ exited with 0 +++
"#;

/// A registry with an image that two workloads use, each with a profile and a pack.
struct Place {
    soci: Soci,
    registry: TestRegistry,
    image: String,
}

fn place(habits: Habits) -> Place {
    let soci = Soci::new();
    let tar = TarWriter::default()
        .file("bin/app", &half_random(300_000, 1))
        .file("data/web", &half_random(300_000, 2))
        .file("data/job", &half_random(300_000, 3))
        .finish();
    disk_image::write(&soci.dir().join("image"), "v1", &[(OCI_LAYER_GZIP, gzip(&tar, 6))]);
    soci.run(["create", "--min-layer-size", "0", "oci:image"]).ok();
    for name in ["web", "job"] {
        fs::write(soci.dir().join(format!("{name}.log")), LOG.replace("FILE", name)).unwrap();
        let (log, trace) = (format!("{name}.log"), format!("{name}.trace"));
        soci.run(["trace", "import", "--format", "strace", "--image", "oci:image", &log]).ok();
        let profile = format!("{name}.profile");
        let create = ["profile", "create", "--image", "oci:image", "--name", name, "--trace", &trace];
        soci.run([&create[..], &["-o", &profile]].concat()).ok();
        let pack = ["pack", "create", "--trace", &trace, "--name", name, "oci:image"];
        soci.run(pack).ok();
    }
    let registry = TestRegistry::with(habits);
    let image = registry.image("app:v1");
    let place = Place { soci, registry, image };
    place.ok(&["push", "--image", "oci:image", &place.image]);
    place
}

impl Place {
    fn ok(&self, words: &[&str]) -> String {
        let user = format!("{USER}:{PASSWORD}");
        self.soci.run([words, &["--user", &user]].concat()).ok()
    }

    fn list(&self, kind: &str) -> Vec<Value> {
        serde_json::from_str(&self.ok(&[kind, "list", "--json", "--remote", &self.image])).unwrap()
    }

    /// Digest of the first one for a workload.
    fn of(&self, kind: &str, workload: &str) -> String {
        let rows = self.list(kind);
        let row = rows.iter().find(|row| row["workload"] == workload);
        row.unwrap_or_else(|| panic!("no {kind} of {workload}: {rows:?}"))["digest"]
            .as_str()
            .unwrap()
            .to_owned()
    }
}

#[test]
fn what_is_beside_an_image_is_listed_fetched_and_removed() {
    for referrers in [Referrers::Api, Referrers::Status(404)] {
        let place = place(Habits { referrers, auth: AuthMode::Bearer, ..Habits::default() });
        for name in ["web", "job"] {
            place.ok(&["profile", "push", &format!("{name}.profile"), &place.image]);
        }
        assert_eq!(
            [place.list("profile").len(), place.list("pack").len(), place.list("index").len()],
            [2, 2, 1]
        );
        let file = |name: &str| fs::read(place.soci.dir().join(name)).unwrap();

        // Fetched by name and by digest: the same bytes.
        place.ok(&["profile", "pull", "--name", "job", &place.image, "-o", "fetched"]);
        assert_eq!(file("fetched"), file("job.profile"));
        let web = format!("{}@{}", place.image, place.of("profile", "web"));
        place.ok(&["profile", "pull", &web, "-o", "again"]);
        assert_eq!(file("again"), file("web.profile"));
        assert!(place.ok(&["profile", "info", &web]).contains("data/web"));
        let user = format!("{USER}:{PASSWORD}");
        let which = place.soci.run(["profile", "pull", &place.image, "-o", "x", "--user", &user]);
        assert!(which.stderr.contains("it has those of: job, web"), "{which:?}");
        which.failed();

        // Shown as it is shown here.
        let pack = place.of("pack", "web");
        let here: Value =
            serde_json::from_str(&place.soci.run(["pack", "info", "--json", &pack]).ok()).unwrap();
        let there = format!("{}@{pack}", place.image);
        let there: Value = serde_json::from_str(&place.ok(&["pack", "info", "--json", &there])).unwrap();
        for key in ["digest", "workload", "subject", "blob", "size", "blocks", "extents", "layers"] {
            assert_eq!(here[key], there[key], "{key}");
        }
        let index = place.list("index")[0]["digest"].as_str().unwrap().to_owned();
        let shown = place.ok(&["index", "info", &format!("{}@{index}", place.image)]);
        assert_eq!(shown, place.soci.run(["index", "info", &index]).ok());

        // Removed: only what was named, and only as what it is. A second time is no error.
        let refused = |words: &[&str]| place.soci.run([words, &["--user", &user]].concat()).failed();
        assert!(refused(&["profile", "rm", "--remote", &place.image, &pack]).contains("is not a profile"));
        for _ in 0..2 {
            place.ok(&["pack", "rm", "--remote", &place.image, &pack]);
        }
        place.ok(&["profile", "rm", "--remote", &place.image, &place.of("profile", "job")]);
        place.ok(&["index", "rm", "--remote", &place.image, &index]);
        assert_eq!(
            [place.list("profile").len(), place.list("pack").len(), place.list("index").len()],
            [1, 1, 0]
        );
        assert_eq!([place.of("profile", "web").len(), place.of("pack", "job").len()], [71, 71]);
        assert!(refused(&["pack", "info", &format!("{}@{pack}", place.image)]).contains("not found"));
    }
}

#[test]
fn a_registry_that_does_not_delete_lists_it_no_more_or_says_so() {
    for (referrers, unlisted) in [(Referrers::Status(404), true), (Referrers::Api, false)] {
        let place = place(Habits { referrers, deletes: false, ..Habits::default() });
        let pack = place.of("pack", "web");
        let said = place.soci.run(["pack", "rm", "--remote", &place.image, &pack]);
        if unlisted {
            assert!(said.stderr.contains("is listed no more"), "{said:?}");
            said.ok();
        } else {
            assert!(said.failed().contains("does not delete manifests"));
        }
        assert_eq!(place.list("pack").len(), if unlisted { 1 } else { 2 });
    }
}

#[test]
fn what_a_registry_says_is_checked() {
    let place = place(Habits::default());
    place.ok(&["profile", "push", "web.profile", &place.image]);
    // A profile of another build is not put beside this one.
    let tar = TarWriter::default().file("data/web", &half_random(300_000, 9)).finish();
    disk_image::write(&place.soci.dir().join("other"), "v1", &[(OCI_LAYER_GZIP, gzip(&tar, 6))]);
    let other = place.registry.image("other:v1");
    place.ok(&["create", "--min-layer-size", "0", "oci:other"]);
    place.ok(&["push", "--image", "oci:other", &other]);
    let refused = place.soci.run(["profile", "push", "web.profile", &other]);
    assert!(refused.stderr.contains("soci profile rebase web.profile"), "{refused:?}");
    refused.failed();

    // Listed, with a document that is none.
    let subject = place.list("profile")[0]["subject"].clone();
    let text = "{\"schema\":1,\"image\":{\"reference\":\"\"},\"runs\":[],\"files\":3}";
    let document = place.registry.put_blob(text);
    let config = place.registry.put_blob(&b"{}"[..]);
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": PROFILE,
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": config.to_string(), "size": 2},
        "layers": [{"mediaType": PROFILE, "digest": document.to_string(), "size": text.len()}],
        "subject": {"mediaType": OCI_MANIFEST, "digest": subject, "size": 3},
        "annotations": {"soci.pack.workload": "ev\u{1b}il"},
    });
    place.registry.put_manifest("app", None, OCI_MANIFEST, manifest.to_string());
    let table = place.ok(&["profile", "list", "--remote", &place.image]);
    assert!(table.contains("web") && !table.contains('\u{1b}'), "{table:?}");
    let evil = place.soci.run(["profile", "pull", "--name", "ev\u{1b}il", &place.image, "-o", "x"]).failed();
    assert!(evil.contains("profile sha256:"), "{evil}");
    assert!(!place.soci.dir().join("x").exists());
    // And one that is smaller than its blob.
    let huge = place.registry.put_blob(vec![b' '; 1000]);
    let small =
        manifest.to_string().replace(&document.to_string(), &huge.to_string()).replace("ev\\u001bil", "huge");
    place.registry.put_manifest("app", None, OCI_MANIFEST, small);
    let huge = place.soci.run(["profile", "pull", "--name", "huge", &place.image, "-o", "x"]).failed();
    assert!(huge.contains(&format!("larger than {} bytes", text.len())), "{huge}");
}
