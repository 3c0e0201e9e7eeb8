//! The daemon behind the containerd of each of Debian's releases: 1.6 (installed), 1.7 and 2.x (fetched, `harness::containerd_release`).
//! Every way to pull is lazy, what was pulled runs, and nothing is left of it. Needs root, runc, and Debian's archive.

use std::collections::HashMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::containerd::Containerd;
use harness::containerd_release::Release;
use harness::containerd_setup::Setup;
use harness::daemon::Daemon;
use harness::image::{LayerSource, Published, TarWriter, publish};
use harness::layout;
use harness::patience::eventually;
use harness::pull::{chain_ids, mount_at};
use harness::registry::TestRegistry;
use harness::soci::Soci;
use rustix::mount::{UnmountFlags, unmount};
use serde_json::{Value, json};
use soci_core::containerd::snapshots::{ListSnapshotsRequest, PrepareSnapshotRequest};
use soci_core::digest::Digest;
use soci_core::media_type;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// The first id of the user namespaces.
const OUTSIDE: u32 = 100_000;
const MAP: &str = "0:100000:65536";
/// Who owns a file of the image that root does not.
const USER: u32 = 1000;

/// A registry with images, and a node.
struct Lab {
    // In the order in which they have to end.
    containerd: Containerd,
    daemon: Daemon,
    runtime: Runtime,
    release: Release,
    /// Can be lazy: a shell, `ls`, a program that sleeps, and files of two owners.
    app: Published,
    diff_ids: Vec<Digest>,
    /// An image without index.
    plain: String,
    registry: TestRegistry,
    work: TempDir,
}

impl Lab {
    fn new(release: Release, local_pull: bool) -> Self {
        let work = tempfile::tempdir().unwrap();
        let registry = TestRegistry::start();
        let (app, diff_ids) = app(&registry, work.path());
        let pause = alone(&registry, "pause", work.path());
        let plain = alone(&registry, "plain", work.path());
        let maps = release.version() >= (1, 7);
        let daemon = Daemon::start(work.path(), "[snapshotter]\nremap_ids = true\n");
        let setup = Setup { local_pull, remap_ids: maps, sandbox: Some(&pause), ..Setup::default() };
        let containerd = Containerd::of(&release, work.path(), &daemon, &setup);
        let runtime = Runtime::new().unwrap();
        Self { containerd, daemon, runtime, release, app, diff_ids, plain, registry, work }
    }

    fn lazy_layers(&self) -> u64 {
        self.daemon.metric("soci_layers_total{way=\"lazy\"}")
    }

    /// How often a layer was asked for as a whole.
    fn whole_layers(&self) -> usize {
        let is_whole = |request: &harness::registry::Request| {
            request.range.is_none()
                && self.app.layers.iter().any(|layer| request.path.ends_with(&layer.to_string()))
        };
        self.registry.requests().iter().filter(|request| is_whole(request)).count()
    }

    fn pull_by_cri(&self) {
        let before = self.lazy_layers();
        self.runtime.block_on(self.containerd.cri_pull(&self.app.reference)).unwrap();
        assert_eq!(self.lazy_layers(), before + 2, "{}", self.daemon.log());
        assert_eq!(self.whole_layers(), 0, "a layer was downloaded as a whole");
    }

    /// A pod, whose sandbox has an image without index, and a container that is looked into.
    fn run_pod(&self) {
        self.runtime.block_on(async {
            let cri = self.containerd.cri().await;
            let pod = cri.run_pod("pod").await.unwrap();
            let container = cri.start(&pod, &self.app.reference, &["/do", "sleep", "1000000"]).await.unwrap();
            let look = "cat /etc/motd; echo written > /data/mine; cat /data/mine; ls /data; exit 3";
            let said = cri.exec(&container, &["/bin/dash", "-c", look]).await.unwrap();
            assert_eq!(
                (said.out.as_str(), said.code),
                ("from the top\nwritten\nmine\nof-root\nof-user\n", 3),
                "{said:?}"
            );
            cri.remove_pod(&pod).await.unwrap();
        });
    }

    /// Runs a program in a container of an image by `ctr`; what it writes to `/out/said`. It runs as root, perhaps of a user
    /// namespace.
    fn run(&self, namespace: &str, image: &str, flags: &[&str], command: &[&str]) -> String {
        let out = self.work.path().join("out");
        fs::create_dir_all(&out).unwrap();
        fs::set_permissions(&out, Permissions::from_mode(0o777)).unwrap();
        let mount = format!("type=bind,src={},dst=/out,options=rbind:rw", out.display());
        let words = ["run", "--rm", "--snapshotter", "soci", "--mount", &mount];
        let words = [&words[..], flags, &[image, "container"], command].concat();
        let output = self.containerd.ctr_in(namespace, &words);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{words:?}: {error}\n{}\n{}",
            self.containerd.log(),
            self.daemon.log()
        );
        fs::read_to_string(out.join("said")).unwrap_or_default()
    }

    /// A layer is written by hand, committed, and seen in a snapshot above it.
    fn commit(&self) {
        let top = chain_ids(&self.diff_ids).pop().unwrap();
        let snapshots = |words: &[&str]| {
            self.containerd.ctr_ok(&[&["snapshots", "--snapshotter", "soci"], words].concat())
        };
        let point = self.work.path().join("point");
        fs::create_dir_all(&point).unwrap();
        let within = |key: &str, look: &dyn Fn(&Path)| {
            let mount = snapshots(&["mounts", point.to_str().unwrap(), key]);
            assert!(Command::new("sh").args(["-c", &mount]).status().unwrap().success(), "{mount}");
            look(&point);
            unmount(&point, UnmountFlags::DETACH).unwrap();
        };
        snapshots(&["prepare", "work", &top]);
        within("work", &|point| fs::write(point.join("new"), "committed").unwrap());
        let tar = snapshots(&["diff", "--media-type", "application/vnd.oci.image.layer.v1.tar", "work"]);
        assert!(tar.contains("new"), "the layer's tar names the file");
        snapshots(&["commit", "layer", "work"]);
        snapshots(&["prepare", "above", "layer"]);
        within("above", &|point| {
            assert_eq!(fs::read_to_string(point.join("new")).unwrap(), "committed");
            assert_eq!(fs::read_to_string(point.join("etc/motd")).unwrap(), "from the top\n");
        });
        for key in ["above", "layer"] {
            snapshots(&["rm", key]);
        }
    }

    /// A container in a user namespace sees the owners of the image, and is somebody else on the host.
    fn run_in_user_namespace(&self) {
        let look = "ls -n /data > /out/said";
        let begun = self.registry.bytes_served();
        let said = if self.release.version() >= (1, 7) {
            let flags = ["--uidmap", MAP, "--gidmap", MAP, "--remap-labels"];
            self.run("k8s.io", &self.app.reference, &flags, &["/bin/dash", "-c", look])
        } else {
            // containerd 1.6 has no such labels: who prepares a snapshot may.
            self.runtime.block_on(self.run_by_runc(look))
        };
        let owners: Vec<_> = said
            .lines()
            .filter_map(|line| {
                let words: Vec<_> = line.split_whitespace().collect();
                Some((words.get(8)?.to_string(), words[2].to_owned(), words[3].to_owned()))
            })
            .collect();
        let of = |name: &str, id: u32| (name.to_owned(), id.to_string(), id.to_string());
        assert_eq!(owners, [of("of-root", 0), of("of-user", USER)], "{said}");
        let written = fs::metadata(self.work.path().join("out/said")).unwrap();
        assert_eq!((written.uid(), written.gid()), (OUTSIDE, OUTSIDE));
        fs::remove_file(self.work.path().join("out/said")).unwrap();
        assert_eq!(self.whole_layers(), 0, "the image was copied");
        assert!(self.registry.bytes_served() - begun < 4_000_000);
    }

    /// A snapshot with labels by the daemon's own service, and runc on it.
    async fn run_by_runc(&self, look: &str) -> String {
        let mut client = self.daemon.client().await;
        let top = chain_ids(&self.diff_ids).pop().unwrap();
        let list = ListSnapshotsRequest { snapshotter: "soci".into(), filters: Vec::new() };
        let mut pages = client.list(list).await.unwrap().into_inner();
        let mut parent = String::new();
        while let Some(page) = pages.message().await.unwrap() {
            let is_top =
                |labels: &HashMap<String, String>| labels.get("containerd.io/snapshot.ref") == Some(&top);
            parent = page.info.into_iter().find(|info| is_top(&info.labels)).map_or(parent, |info| info.name);
        }
        let maps =
            ["uidmapping", "gidmapping"].map(|map| (format!("containerd.io/snapshot/{map}"), MAP.to_owned()));
        let key = "by-hand".to_owned();
        let prepare = PrepareSnapshotRequest {
            snapshotter: "soci".into(),
            key: key.clone(),
            parent,
            labels: maps.into(),
        };
        let mounts = client.prepare(prepare).await.unwrap().into_inner().mounts;
        let (bundle, out) = (self.work.path().join("bundle"), self.work.path().join("out"));
        mount_at(&mounts, &bundle.join("rootfs"));
        fs::create_dir_all(&out).unwrap();
        for open in [&out, &bundle, &bundle.parent().unwrap().to_owned()] {
            fs::set_permissions(open, Permissions::from_mode(0o777)).unwrap();
        }
        let runc = |words: &[&str]| {
            let output = Command::new("runc")
                .args(["--root", bundle.join("state").to_str().unwrap()])
                .args(words)
                .output()
                .unwrap();
            assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        };
        let bundle_name = bundle.to_str().unwrap();
        runc(&["spec", "--bundle", bundle_name]);
        let file = bundle.join("config.json");
        let mut spec: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        spec["process"]["terminal"] = false.into();
        spec["process"]["args"] = json!(["/bin/dash", "-c", look]);
        spec["root"]["readonly"] = false.into();
        let map = json!([{"containerID": 0, "hostID": OUTSIDE, "size": 65536}]);
        spec["linux"]["uidMappings"] = map.clone();
        spec["linux"]["gidMappings"] = map;
        spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
        spec["linux"]["resources"] = json!({});
        let bind = json!({"destination": "/out", "type": "bind", "source": out, "options": ["rbind", "rw"]});
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| mount["destination"] != "/sys/fs/cgroup");
        mounts.push(bind);
        fs::write(&file, spec.to_string()).unwrap();
        runc(&["run", "--bundle", bundle_name, "by-hand"]);
        unmount(bundle.join("rootfs"), UnmountFlags::DETACH).unwrap();
        let remove =
            soci_core::containerd::snapshots::RemoveSnapshotRequest { snapshotter: "soci".into(), key };
        // containerd's collector does not know the snapshot, and may have been faster.
        match client.remove(remove).await {
            Ok(_) => {}
            Err(status) if status.code() == tonic::Code::NotFound => {}
            Err(status) => panic!("{status}"),
        }
        fs::read_to_string(out.join("said")).unwrap()
    }

    /// `soci pull` into a namespace of its own, when nothing of the image is there: lazy, runs, goes.
    fn pull_by_soci(&self) {
        let soci = Soci::with_containerd(&self.containerd.socket());
        let pull = |image: &str| {
            let said = soci.run(["-n", "pulled", "pull", "--json", image]).ok();
            let pulled: Value = serde_json::from_str(&said).unwrap();
            pulled["platforms"][0]["layers"].as_array().unwrap().clone()
        };
        let before = self.lazy_layers();
        let layers = pull(&self.app.reference);
        assert!(layers.len() == 2 && layers.iter().all(|layer| layer["lazy"] == true), "{layers:?}");
        assert_eq!((self.lazy_layers(), self.whole_layers()), (before + 2, 0));
        let again = pull(&self.app.reference);
        assert!(again.iter().all(|layer| layer["lazy"] == true && layer["by"] == "earlier"), "{again:?}");
        let said =
            self.run("pulled", &self.app.reference, &[], &["/bin/dash", "-c", "cat /etc/motd > /out/said"]);
        assert_eq!(said, "from the top\n");
        // What the snapshotter leaves to the runtime is unpacked by containerd.
        let layers = pull(&self.plain);
        assert!(
            layers.iter().all(|layer| layer["lazy"] == false && layer["by"] == "containerd"),
            "{layers:?}"
        );
        self.run("pulled", &self.plain, &[], &["/do", "write", "/out/said"]);
        let text = soci.run(["-n", "pulled", "pull", &self.plain]).ok();
        assert!(text.contains("whole, was there"), "{text}");
        self.remove_images("pulled");
        self.must_be_empty();
    }

    fn remove_images(&self, namespace: &str) {
        let listed = self.containerd.ctr_in(namespace, &["images", "ls", "-q"]);
        for name in String::from_utf8_lossy(&listed.stdout).lines() {
            let removed = self.containerd.ctr_in(namespace, &["images", "rm", "--sync", name]);
            assert!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
        }
    }

    fn end(self) {
        self.remove_images("k8s.io");
        self.must_be_empty();
    }

    /// Nothing is left: no snapshot, no mount, no content.
    fn must_be_empty(&self) {
        let snapshots = self.daemon.root().join("snapshotter/snapshots");
        eventually("snapshots of removed images go", || fs::read_dir(&snapshots).unwrap().count() == 0);
        assert_eq!(self.daemon.mounts(), Vec::<PathBuf>::new());
        for namespace in ["k8s.io", "pulled"] {
            let left = self.containerd.ctr_in(namespace, &["content", "ls", "-q"]).stdout;
            assert_eq!(String::from_utf8_lossy(&left), "", "{namespace}");
        }
    }
}

/// The image that can be lazy.
fn app(registry: &TestRegistry, work: &Path) -> (Published, Vec<Digest>) {
    let (base, upper) = (work.join("base"), work.join("upper"));
    for program in ["/bin/dash", "/bin/cat", "/bin/ls"] {
        let to = base.join(&program[1..]);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(program, to).unwrap();
        layout::copy_libraries(Path::new(program), &base);
    }
    layout::compile_workload(&base.join("do"));
    for directory in ["proc", "sys", "dev", "run", "tmp", "etc", "data", "out"] {
        fs::create_dir_all(base.join(directory)).unwrap();
    }
    for (name, id) in [("of-root", 0), ("of-user", USER)] {
        fs::write(base.join("data").join(name), name).unwrap();
        chown(base.join("data").join(name), Some(id), Some(id)).unwrap();
    }
    fs::create_dir_all(upper.join("etc")).unwrap();
    fs::write(upper.join("etc/motd"), "from the top\n").unwrap();
    let sources = [base, upper].map(|dir| {
        let tar = layout::tar(&dir);
        LayerSource { diff_id: Some(Digest::of(&tar)), ..LayerSource::of_tar(&tar) }
    });
    let diff_ids = sources.iter().map(|source| source.diff_id.unwrap()).collect();
    (publish(registry, "app", &sources, 256 << 10), diff_ids)
}

/// An image of one program, without index, that sleeps by default: that of pod sandboxes. Its image index also lists what is for no
/// platform.
fn alone(registry: &TestRegistry, name: &str, work: &Path) -> String {
    let program = work.join("alone");
    layout::compile_workload(&program);
    let mut tar = TarWriter::default();
    tar.entry("out", b'5', "", &[]).program("do", &fs::read(program).unwrap()).file("name", name.as_bytes());
    let layer = LayerSource::of_tar(&tar.finish());
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {"Entrypoint": ["/do"], "Cmd": ["sleep", "1000000"]},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id.unwrap().to_string()]},
    })
    .to_string();
    let blob = |kind: &str, bytes: Vec<u8>| {
        let size = bytes.len();
        json!({"mediaType": kind, "digest": registry.put_blob(bytes).to_string(), "size": size})
    };
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
        "config": blob(media_type::OCI_CONFIG, config.into_bytes()),
        "layers": [blob(media_type::OCI_LAYER_GZIP, layer.gzip)],
    })
    .to_string();
    let size = manifest.len();
    let digest = registry.put_manifest(name, None, media_type::OCI_MANIFEST, manifest);
    let entry = |digest: &Digest, size: usize, os: &str, architecture: &str| {
        json!({"mediaType": media_type::OCI_MANIFEST, "digest": digest.to_string(), "size": size,
            "platform": {"os": os, "architecture": architecture}})
    };
    let missing = json!({"mediaType": "a/b", "digest": companion().to_string(), "size": 1 << 30});
    let beside = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": missing, "layers": [missing],
    })
    .to_string();
    let beside_size = beside.len();
    let beside = registry.put_manifest(name, None, media_type::OCI_MANIFEST, beside);
    let index = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_INDEX,
        "manifests": [entry(&digest, size, "linux", "amd64"), entry(&beside, beside_size, "unknown", "unknown")],
    });
    registry.put_manifest(name, Some("latest"), media_type::OCI_INDEX, index.to_string());
    format!("{}:latest", registry.image(name))
}

/// The blob of what stands for a companion in an image index. Whoever downloads it finds that it is not there.
fn companion() -> Digest {
    Digest::of(b"a companion")
}

/// All that one containerd has to do.
fn lives_with(release: Release) {
    let lab = Lab::new(release, false);
    lab.pull_by_soci();
    // Of an image that was pulled by another snapshotter there is the content.
    let pull = ["images", "pull", "--plain-http", "--snapshotter", "overlayfs", &lab.plain];
    lab.containerd.ctr_ok(&pull);
    lab.run("k8s.io", &lab.plain, &[], &["/do", "write", "/out/said"]);
    lab.pull_by_cri();
    lab.run_pod();
    let said = lab.run("k8s.io", &lab.app.reference, &[], &["/bin/dash", "-c", "cat /etc/motd > /out/said"]);
    assert_eq!(said, "from the top\n");
    lab.commit();
    fs::remove_file(lab.work.path().join("out/said")).unwrap();
    lab.run_in_user_namespace();
    let asked = lab.registry.requests();
    assert!(
        !asked.iter().any(|request| request.path.ends_with(&companion().to_string())),
        "companions are not downloaded"
    );
    lab.end();
}

#[test]
fn with_containerd_1_6() {
    let release = Release::installed();
    assert!(release.version() >= (1, 6), "{release:?}");
    lives_with(release);
}

#[test]
fn with_containerd_1_7() {
    let release = Release::of("trixie");
    assert_eq!(release.version(), (1, 7));
    lives_with(release);
}

#[test]
fn with_containerd_2() {
    let release = Release::of("sid");
    assert!(release.version() >= (2, 1), "{release:?}");
    // By the transfer service, then without.
    lives_with(release.clone());
    let lab = Lab::new(release.clone(), true);
    lab.pull_by_cri();
    lab.end();
    // ctr goes by the transfer service, too.
    let lab = Lab::new(release, false);
    lab.containerd.ctr_ok(&["images", "pull", "--plain-http", "--snapshotter", "soci", &lab.app.reference]);
    assert_eq!((lab.lazy_layers(), lab.whole_layers()), (2, 0), "{}", lab.daemon.log());
    lab.end();
}
