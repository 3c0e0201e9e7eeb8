//! Fine indexes and packs of images in a real containerd: they are made in its store, stay and go with their image, are
//! pushed, and serve containers whose image CRI has pulled. Needs root, containerd, docker-registry and runc.

use std::collections::BTreeSet;
use std::fs;

use harness::containerd::Containerd;
use harness::daemon::Daemon;
use harness::disk_image::{self, half_random};
use harness::docker_registry::DockerRegistry;
use harness::layout;
use harness::patience::eventually;
use harness::soci::Soci;
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// What the workload does.
const WORKLOAD: [&str; 5] = ["/do", "read", "/data", "300000", "200000"];
/// How indexes and companions are made.
pub(super) const BUILD: [&str; 6] = ["--min-layer-size", "0", "--span-size", "262144", "--fine", "--pack"];

/// An image in containerd that was recorded, and another one.
pub(super) struct Place {
    _registry: DockerRegistry,
    soci: Soci,
    containerd: Containerd,
    /// The image's name without its tag.
    name: String,
    /// What was recorded.
    trace: String,
    /// What is in containerd by now.
    before: BTreeSet<String>,
    dir: TempDir,
}

pub(super) fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let registry = DockerRegistry::new();
    let containerd = Containerd::plain(dir.path());
    let soci = Soci::with_containerd(&containerd.socket());
    let name = format!("{}/work", registry.host());
    for (image, tag) in [("work", "v1"), ("other", "other")] {
        let files = dir.path().join(format!("{image}-files"));
        layout::compile_workload(&files.join("do"));
        fs::write(files.join("data"), half_random(2_000_000, tag.len() as u64)).unwrap();
        for directory in ["proc", "sys", "dev", "run", "tmp"] {
            fs::create_dir(files.join(directory)).unwrap();
        }
        let image = dir.path().join(image);
        layout::write(&image, &[files], &json!({}));
        let tar = image.with_extension("tar");
        disk_image::pack(&image, &tar);
        let named = format!("{name}:{tag}");
        let import = ["images", "import", "--no-unpack", "--index-name", &named, tar.to_str().unwrap()];
        containerd.ctr_ok(&import);
    }
    let mut place = Place {
        _registry: registry,
        soci,
        containerd,
        name,
        trace: String::new(),
        before: BTreeSet::new(),
        dir,
    };
    place.trace = place.record("t", &WORKLOAD);
    place.before = place.content();
    place
}

impl Place {
    /// Records a workload of the image; gives the trace.
    pub(super) fn record(&self, name: &str, workload: &[&str]) -> String {
        let image = format!("oci:{}", self.dir.path().join("work").display());
        let out = self.dir.path().join("out");
        let record = ["record", "--engine", "fuse", "--image", &image, "--name", name, "--out"];
        self.soci.run([&record[..], &[out.to_str().unwrap(), "--"], workload].concat()).ok();
        out.join(format!("{name}.trace")).to_str().unwrap().to_owned()
    }

    /// Pushes the image from containerd.
    pub(super) fn push(&self, tag: &str) {
        let image = self.tagged(tag);
        self.containerd.ctr_ok(&["images", "push", "--plain-http", &image]);
        self.run(&["push", &image]);
    }

    pub(super) fn run(&self, words: &[&str]) -> String {
        self.soci.run([&["-n", "k8s.io"], words].concat()).ok()
    }

    pub(super) fn tagged(&self, tag: &str) -> String {
        format!("{}:{tag}", self.name)
    }

    /// Digests of all that is in containerd.
    fn content(&self) -> BTreeSet<String> {
        self.containerd.ctr_ok(&["content", "ls", "-q"]).lines().map(str::to_owned).collect()
    }

    /// Has containerd collect what nothing keeps.
    fn remove(&self, tag: &str) {
        self.containerd.ctr_ok(&["images", "rm", "--sync", &self.tagged(tag)]);
    }

    /// A node on which CRI pulls the image and a container does what was recorded: nothing but the pack was needed.
    fn start(&self, tag: &str, config: &str) {
        let node = tempfile::tempdir().unwrap();
        let daemon = Daemon::start(node.path(), config);
        let containerd = Containerd::start(node.path(), &daemon);
        let image = self.tagged(tag);
        Runtime::new().unwrap().block_on(containerd.cri_pull(&image)).unwrap();
        assert_eq!(daemon.metric("soci_layers_total{way=\"lazy\"}"), 1, "{}", daemon.log());
        eventually("the pack is here", || daemon.metric("soci_packs_total") == 1);
        let run = ["run", "--rm", "--snapshotter", "soci", &image, "a"];
        containerd.ctr_ok(&[&run[..], &WORKLOAD].concat());
        assert_eq!(daemon.metric("soci_demand_spans_total"), 0, "{}", daemon.log());
        assert!(daemon.metric("soci_pack_given_bytes_total") > 0);
        for name in containerd.ctr_ok(&["images", "ls", "-q"]).lines() {
            containerd.ctr_ok(&["images", "rm", "--sync", name]);
        }
    }
}

#[test]
fn companions_of_an_image_stay_and_go_with_it_and_serve_it() {
    let place = place();
    let image = place.tagged("v1");
    place.run(&[&["create"], &BUILD[..], &["--trace", &place.trace, &image]].concat());
    let made: BTreeSet<String> = place.content().difference(&place.before).cloned().collect();
    let packs = place.run(&["pack", "list", "--json"]);
    let packs: serde_json::Value = serde_json::from_str(&packs).unwrap();
    let [pack] = &packs.as_array().unwrap()[..] else { panic!("one pack: {packs}") };
    let pack = pack["digest"].as_str().unwrap();
    assert!(made.contains(pack), "{made:?}");
    let kept = fs::read_dir(place.soci.dir().join("root/content/blobs/sha256"));
    assert_eq!(kept.map_or(0, Iterator::count), 0, "nothing is kept twice");

    place.remove("other");
    assert!(place.content().is_superset(&made), "the collection of another image leaves them alone");
    assert_eq!(place.containerd.ctr_ok(&["leases", "ls", "-q"]), "", "no lease is left behind");
    let listed = place.run(&["pack", "list"]);
    fs::remove_dir_all(place.soci.dir().join("root/artifacts")).unwrap();
    place.run(&["rebuild-db"]);
    assert_eq!(place.run(&["pack", "list"]), listed);
    place.run(&["pack", "verify", pack, &image]);

    place.push("v1");
    place.start("v1", "[pull_modes.soci_v1]\nenable = true\n");

    place.remove("v1");
    let left: Vec<_> = place.content().intersection(&made).cloned().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn companions_of_a_converted_image_travel_with_it() {
    let place = place();
    let (from, to) = (place.tagged("v1"), place.tagged("v2"));
    place.run(&[&["convert"], &BUILD[..], &["--trace", &place.trace, &from, &to]].concat());
    place.remove("v1");
    let with_companions = place.content();
    place.remove("other");
    place.containerd.ctr_ok(&["images", "push", "--plain-http", &to]);
    place.start("v2", "");

    place.remove("v2");
    let left: Vec<_> = place.content().intersection(&with_companions).cloned().collect();
    assert!(left.is_empty(), "{left:?}");
}
