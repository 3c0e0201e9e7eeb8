//! The daemon behind a real containerd: pulls with and without layer labels, containers, restarts, removal. Needs root,
//! containerd and runc.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use harness::containerd::Containerd;
use harness::daemon::Daemon;
use harness::image::{LayerSource, Published, publish};
use harness::registry::TestRegistry;
use rustix::process::Signal;
use soci_core::digest::Digest;
use tokio::runtime::Runtime;

/// A shell with the libraries that the host's needs, and a second layer that changes files of the first.
fn image(registry: &TestRegistry, unindexed: &[usize]) -> Published {
    let base = tempfile::tempdir().unwrap();
    for program in ["/bin/dash", "/bin/cat", "/bin/ls"] {
        copy(Path::new(program), base.path());
        let libraries = Command::new("ldd").arg(program).output().unwrap();
        let libraries = String::from_utf8(libraries.stdout).unwrap();
        for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
            copy(Path::new(library), base.path());
        }
    }
    for (name, content) in [("etc/motd", "from the base"), ("etc/removed", "x"), ("data/old", "x")] {
        write(base.path(), name, content);
    }
    for directory in ["proc", "sys", "dev", "run", "tmp"] {
        fs::create_dir(base.path().join(directory)).unwrap();
    }
    let upper = tempfile::tempdir().unwrap();
    for (name, content) in
        [("etc/motd", "from the top"), ("etc/.wh.removed", ""), ("data/.wh..wh..opq", ""), ("data/new", "y")]
    {
        write(upper.path(), name, content);
    }
    let mut sources: Vec<_> = [base, upper]
        .iter()
        .map(|dir| {
            let tar = Command::new("tar")
                .args(["--create", "--format=posix", "--owner=0", "--group=0", "-C"])
                .arg(dir.path())
                .arg(".")
                .output()
                .unwrap();
            assert!(tar.status.success());
            LayerSource { diff_id: Some(Digest::of(&tar.stdout)), ..LayerSource::of_tar(&tar.stdout) }
        })
        .collect();
    for &at in unindexed {
        sources[at].unindexed = true;
    }
    publish(registry, "app", &sources, 256 << 10)
}

fn write(root: &Path, name: &str, content: &str) {
    fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
    fs::write(root.join(name), content).unwrap();
}

fn copy(file: &Path, root: &Path) {
    let target = root.join(file.strip_prefix("/").unwrap());
    fs::create_dir_all(target.parent().unwrap()).unwrap();
    fs::copy(file, target).unwrap();
}

/// What a container of the image says when it looks around, and writes. It says so in a file of the host: `ctr` of containerd
/// 1.6 may lose the last output of a container that ends at once.
const LOOK: &str =
    "exec > /tmp/said; cat /etc/motd; ls /etc /data; echo written > /data/mine; cat /data/mine";

struct Lab {
    // In the order in which they have to end.
    containerd: Containerd,
    daemon: Daemon,
    image: Published,
    runtime: Runtime,
    registry: TestRegistry,
    work: tempfile::TempDir,
}

impl Lab {
    fn new(config: &str, unindexed: &[usize]) -> Self {
        let registry = TestRegistry::start();
        let image = image(&registry, unindexed);
        let work = tempfile::tempdir().unwrap();
        let daemon = Daemon::start(work.path(), config);
        let containerd = Containerd::start(work.path(), &daemon);
        Self { containerd, daemon, image, runtime: Runtime::new().unwrap(), registry, work }
    }

    fn cri_pull(&self) {
        self.runtime.block_on(self.containerd.cri_pull(&self.image.reference)).unwrap();
    }

    fn run(&self, container: &str) {
        let said = self.work.path().join("said");
        std::fs::create_dir_all(&said).unwrap();
        let mount = format!("type=bind,src={},dst=/tmp,options=rbind:rw", said.display());
        let words = [
            "run",
            "--rm",
            "--mount",
            &mount,
            "--snapshotter",
            "soci",
            &self.image.reference,
            container,
            "/bin/dash",
            "-c",
            LOOK,
        ];
        self.containerd.ctr_ok(&words);
        let said = std::fs::read_to_string(said.join("said")).unwrap();
        assert_eq!(said, "from the top/data:\nnew\n\n/etc:\nmotd\nwritten\n");
    }

    /// containerd notices that its connection is gone by a failed request, and connects again a little later.
    fn reconnect(&self) {
        let start = Instant::now();
        while !self.containerd.ctr(&["snapshots", "--snapshotter", "soci", "ls"]).status.success() {
            assert!(start.elapsed() < Duration::from_mins(1), "containerd does not find the daemon again");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn remove_image(&self) {
        self.containerd.ctr_ok(&["images", "ls", "-q"]).lines().for_each(|name| {
            self.containerd.ctr_ok(&["images", "rm", "--sync", name]);
        });
        let start = Instant::now();
        let snapshots = self.daemon.root().join("snapshotter/snapshots");
        while fs::read_dir(&snapshots).unwrap().count() > 0 {
            assert!(start.elapsed() < Duration::from_mins(1), "snapshots of a removed image stay");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(self.daemon.mounts(), Vec::<PathBuf>::new());
    }
}

#[test]
fn kubernetes_style_pulls_are_lazy_and_run() {
    let lab = Lab::new("", &[]);
    lab.cri_pull();
    assert_eq!(lab.daemon.metric("soci_layers_total{way=\"lazy\"}"), 2);
    assert_eq!(lab.daemon.metric("soci_layers_total{way=\"runtime\"}"), 0);
    let whole = |request: &harness::registry::Request| {
        request.range.is_none()
            && lab.image.layers.iter().any(|layer| request.path.ends_with(&layer.to_string()))
    };
    assert!(!lab.registry.requests().iter().any(whole), "a layer was downloaded as a whole");
    lab.run("a");
    lab.remove_image();
}

#[test]
fn layers_without_a_ztoc_are_provided_as_well() {
    let lab = Lab::new("", &[1]);
    lab.cri_pull();
    assert_eq!(lab.daemon.metric("soci_layers_total{way=\"lazy\"}"), 1);
    assert_eq!(lab.daemon.metric("soci_layers_total{way=\"whole\"}"), 1);
    lab.run("a");
    lab.remove_image();
}

#[test]
fn nothing_is_lazy_in_parallel_mode() {
    let lab = Lab::new("[pull_modes.parallel_pull_unpack]\nenable = true\n", &[]);
    lab.cri_pull();
    assert_eq!(lab.daemon.metric("soci_layers_total{way=\"whole\"}"), 2);
    lab.run("a");
    lab.remove_image();
}

#[test]
fn without_layer_labels_it_is_an_overlay_snapshotter() {
    let lab = Lab::new("", &[]);
    lab.containerd.ctr_ok(&["images", "pull", "--plain-http", "--snapshotter", "soci", &lab.image.reference]);
    assert_eq!(lab.daemon.metric("soci_layers_total{way=\"lazy\"}"), 0);
    assert_eq!(lab.daemon.mounts(), Vec::<PathBuf>::new());
    lab.run("a");
    lab.remove_image();
}

#[test]
fn containers_start_after_the_daemon_was_killed() {
    let mut lab = Lab::new("", &[]);
    lab.cri_pull();
    lab.run("a");
    lab.daemon.kill();
    lab.daemon.restart("");
    lab.reconnect();
    lab.run("b");
    assert_eq!(lab.daemon.stop(Signal::TERM).code(), Some(0));
    lab.daemon.restart("");
    lab.reconnect();
    lab.run("c");
    lab.remove_image();
}
