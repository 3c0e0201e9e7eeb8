//! Where the output of `soci` goes and in which form: bars on terminals only, JSON, digests alone, flags given twice, and
//! the words of errors.

use std::fs;

use harness::disk_image::{self, half_random};
use harness::image::{TarWriter, gzip};
use harness::registry::TestRegistry;
use harness::soci::Soci;
use serde_json::Value;
use soci_core::digest::Digest;
use soci_core::image::Descriptor;
use soci_core::media_type::OCI_LAYER_GZIP;

const CREATE: &str = "create --min-layer-size 0 --span-size 65536 oci:image";

struct Place {
    soci: Soci,
    layers: Vec<Descriptor>,
}

fn place() -> Place {
    let soci = Soci::new();
    let layer = |name: &str, seed| {
        let tar = TarWriter::default().file(name, &half_random(900_000, seed)).finish();
        (OCI_LAYER_GZIP, gzip(&tar, 6))
    };
    let layers = disk_image::write(&soci.dir().join("image"), "v1", &[layer("a", 1), layer("b", 2)]);
    Place { soci, layers }
}

impl Place {
    fn run(&self, words: &str) -> String {
        self.soci.run(words.split(' ')).ok()
    }

    fn json(&self, words: &str) -> Value {
        serde_json::from_str(&self.run(words)).unwrap()
    }

    /// Whether there is a bar of each layer.
    fn has_bars(&self, text: &str) -> bool {
        self.layers.iter().all(|layer| text.contains(&format!("{} [", &layer.digest.hex()[..12])))
    }
}

fn has_no_bar(text: &str) -> bool {
    !text.contains(" [") && !text.contains('\x1b')
}

#[test]
fn bars_are_for_terminals() {
    let place = place();
    let seen = place.soci.on_terminal(CREATE);
    assert!(place.has_bars(&seen) && seen.contains("/s"), "{seen:?}");
    assert!(seen.contains(" -> ztoc "), "{seen:?}");

    let piped = place.soci.run(format!("{CREATE} --force").split(' '));
    assert_eq!((piped.stderr.as_str(), piped.stdout.lines().count()), ("", 2));
    // Bars and results do not mix: a file gets what a pipe gets.
    let drawn = place.soci.on_terminal(&format!("{CREATE} --force > lines"));
    assert!(place.has_bars(&drawn) && !drawn.contains("ztoc"), "{drawn:?}");
    let sorted = |text: &str| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&fs::read_to_string(place.soci.dir().join("lines")).unwrap()), sorted(&piped.stdout));

    let quiet = place.soci.on_terminal(&format!("{CREATE} --force --quiet"));
    assert!(has_no_bar(&quiet) && quiet.starts_with("sha256:"), "{quiet:?}");
}

#[test]
fn what_converts_pushes_and_reads_has_bars_too() {
    let place = place();
    let convert = "convert --standalone --min-layer-size 0";
    let bars = |text: &str| text.matches(" [").count();
    for (way, output) in [("--format oci-dir", "dir"), ("--format oci-archive", "tar")] {
        let seen = place.soci.on_terminal(&format!("{convert} {way} oci:image {output}"));
        assert!(place.has_bars(&seen), "{seen:?}");
        let again = place.soci.on_terminal(&format!("{convert} -q {way} oci:image {output}.2"));
        assert!(has_no_bar(&again), "{again:?}");
    }
    place.run(CREATE);
    let registry = TestRegistry::start();
    let push = format!("push --image oci:image {}", registry.image("app:v1"));
    let seen = place.soci.on_terminal(&push);
    assert!(seen.contains("push ") && bars(&seen) > 0, "{seen:?}");
    let ztoc = place.run("ztoc ls -q");
    let get = format!("ztoc get-file --image oci:image {}", ztoc.lines().next().unwrap());
    let name = if place.soci.run(format!("{get} a").split(' ')).code == 0 { "a" } else { "b" };
    assert!(bars(&place.soci.on_terminal(&format!("{get} {name} --output file"))) > 0);
    let seen = place.soci.on_terminal(&format!("{get} {name}"));
    assert!(!seen.contains(" ["), "the file itself is on the terminal");
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let soci = Soci::new();
    let doctor = |before: &str| {
        // It fails where something is missing, which is not what is asked here.
        soci.on_terminal(&format!("index ls > /dev/null; {before} {} doctor || true", soci_path()))
    };
    assert!(doctor("").contains("\x1b["));
    assert!(!doctor("NO_COLOR=1").contains("\x1b["));
    assert!(doctor("NO_COLOR=").contains("\x1b["), "an empty one says nothing");
    assert!(!soci.run(["doctor"]).stdout.contains("\x1b["));
}

fn soci_path() -> String {
    harness::daemon::program("soci").display().to_string()
}

#[test]
fn listings_are_json_with_the_same_keys_always() {
    let place = place();
    assert_eq!(place.json("index list --json"), Value::Array(Vec::new()));
    assert_eq!(place.json("ztoc list --json"), Value::Array(Vec::new()));
    place.run(&format!("{CREATE} --prefetch-file a"));
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let indexes = place.json("index list --json");
    assert_eq!(indexes.as_array().unwrap().len(), 1);
    let index = &indexes[0];
    assert_eq!(keys(index), ["created_at", "digest", "image", "media_type", "platform", "size", "version"]);
    assert_eq!(index["digest"].as_str().unwrap(), place.run("index list -q").trim_end());
    assert_eq!(
        (&index["image"], &index["platform"], &index["version"]),
        (&"oci:image".into(), &"linux/amd64".into(), &"v1".into())
    );
    assert!(index["size"].is_u64() && index["created_at"].as_str().unwrap().ends_with('Z'), "{index}");

    let ztocs = place.json("ztoc list --json");
    let digests: Vec<&str> =
        ztocs.as_array().unwrap().iter().map(|ztoc| ztoc["digest"].as_str().unwrap()).collect();
    assert_eq!(digests, place.run("ztoc list -q").lines().collect::<Vec<_>>());
    assert!(digests.is_sorted());
    assert_eq!(keys(&ztocs[0]), ["digest", "layer_digest", "size"]);
    let info = format!("index info {}", index["digest"].as_str().unwrap());
    assert_eq!(place.run(&info), place.run(&format!("{info} --json")));
    let info = format!("ztoc info {}", digests[0]);
    assert_eq!(place.run(&info), place.run(&format!("{info} --json")));
    assert_eq!(place.soci.run(["ztoc", "list", "--json", "-q"]).code, 1);

    let registry = TestRegistry::start();
    place.run(&format!("push --image oci:image {}", registry.image("app:v1")));
    let remote = place.json(&format!("index list --json --remote {}", registry.image("app:v1")));
    assert_eq!(keys(&remote[0]), keys(index));
    assert_eq!((&remote[0]["digest"], &remote[0]["created_at"]), (&index["digest"], &Value::Null));
}

#[test]
fn quiet_leaves_the_digest_of_what_was_made() {
    let place = place();
    let index = place.run(&format!("{CREATE} -q"));
    assert_eq!(index, place.run("index list -q"));
    let image = place.run("convert --standalone --min-layer-size 0 -q --format oci-dir oci:image out");
    let listed: Value =
        serde_json::from_slice(&fs::read(place.soci.dir().join("out/index.json")).unwrap()).unwrap();
    assert_eq!(image.trim_end(), listed["manifests"][0]["digest"]);

    let stray = place.soci.dir().join("root/content/blobs/sha256");
    fs::remove_dir_all(place.soci.dir().join("root/artifacts")).unwrap();
    fs::remove_dir_all(place.soci.dir().join("image")).unwrap();
    assert!(stray.exists());
    let said = place.soci.run(["rebuild-db", "--quiet"]);
    assert_eq!((said.code, said.stdout.as_str(), said.stderr.as_str()), (0, "", ""));
}

#[test]
fn of_a_flag_given_twice_the_last_counts_and_flags_stand_anywhere() {
    let place = place();
    let sizes = |words: &str| {
        place.run(words);
        let newest = place.run("index list -q").lines().next().unwrap().to_owned();
        place.json(&format!("index info {newest}"))["layers"][0]["annotations"]["com.amazon.soci.span-size"]
            .clone()
    };
    assert_eq!(sizes("create --span-size 1048576 --min-layer-size 0 --span-size=65536 oci:image"), "65536");
    assert_eq!(
        sizes("create oci:image --min-layer-size 9999999 --span-size 131072 --min-layer-size 0"),
        "131072"
    );
    assert_eq!(sizes("create --force --min-layer-size 0 oci:image --force --span-size 262144"), "262144");
    // Flags that may be repeated still add up.
    let listed = place.run(&format!("{CREATE} --prefetch-file a --prefetch-file b"));
    assert_eq!(listed.matches("Created prefetch artifact").count(), 2, "{listed}");
    let elsewhere = place.soci.dir().join("other");
    assert_eq!(place.run(&format!("index list -q --root {}", elsewhere.display())), "");
    assert!(elsewhere.exists(), "the flag behind the command is the later one");
}

/// Every error that upstream gives without a registry, in its words.
#[test]
fn errors_are_upstreams() {
    let recorded = include_str!("../golden/errors.json");
    let recorded: Vec<(Vec<String>, String)> = serde_json::from_str(recorded).unwrap();
    let place = place();
    for (words, error) in recorded {
        assert_eq!(place.soci.run(&words).failed(), error, "{words:?}");
    }
    assert_eq!(place.run("index rm"), "", "nothing to do is no error");
}

/// Removed indexes leave their blobs in our own store, from which the records come back, as with upstream's tool.
#[test]
fn what_was_removed_comes_back_with_the_records() {
    let place = place();
    place.run(&format!("{CREATE} --prefetch-file a"));
    let before = place.run("index list -q");
    let listings = || ["ztoc list -q", "prefetch list"].map(|words| place.run(words).lines().count());
    let counts = listings();
    place.run(&format!("index rm {}", before.trim_end()));
    assert_eq!(place.run("index list -q"), "");
    assert_eq!(listings(), counts, "the rest stays until the records are made anew");
    place.run("rebuild-db");
    assert_eq!(place.run("index list -q"), before);
    assert_eq!(listings(), counts);
    assert_eq!(before.trim_end().parse::<Digest>().unwrap().to_string(), before.trim_end());
}
