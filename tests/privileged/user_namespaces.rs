//! Snapshots of user namespaces: their layers are shown with other owners and not copied, or the request is refused. Needs root, and
//! a kernel that mounts images from files (Linux 6.12).

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use harness::daemon::Daemon;
use harness::image::{LayerSource, publish};
use harness::layout;
use harness::pull::{mount_at, prepare_container, pull};
use harness::registry::TestRegistry;
use rustix::mount::{UnmountFlags, unmount};
use soci_core::containerd::SnapshotsClient;
use soci_core::containerd::snapshots::{
    CommitSnapshotRequest, MountsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, ViewSnapshotRequest,
};
use soci_core::containerd::types::Mount;
use soci_core::digest::Digest;
use tempfile::TempDir;
use tonic::{Code, Status};

const REMAP: &str = "[snapshotter]\nremap_ids = true\n";

/// An image of two lazy layers and one that is unpacked whole between them, pulled.
struct Place {
    daemon: Daemon,
    client: SnapshotsClient,
    /// Name of the topmost layer.
    top: String,
    registry: TestRegistry,
    work: TempDir,
}

async fn place(config: &str) -> Place {
    let registry = TestRegistry::start();
    let work = tempfile::tempdir().unwrap();
    let sources: Vec<_> = ["low", "mid", "top"]
        .iter()
        .map(|name| {
            let dir = work.path().join(name);
            fs::create_dir(&dir).unwrap();
            for (file, owner) in
                [(format!("{name}-of-root"), (0, 0)), (format!("{name}-of-user"), (1000, 1001))]
            {
                fs::write(dir.join(&file), &file).unwrap();
                chown(dir.join(&file), Some(owner.0), Some(owner.1)).unwrap();
            }
            let tar = layout::tar(&dir);
            let source = LayerSource { diff_id: Some(Digest::of(&tar)), ..LayerSource::of_tar(&tar) };
            LayerSource { unindexed: *name == "mid", ..source }
        })
        .collect();
    let image = publish(&registry, "app", &sources, 64 << 10);
    let daemon = Daemon::start(work.path(), config);
    let mut client = daemon.client().await;
    let diff_ids: Vec<_> = sources.iter().map(|source| source.diff_id.unwrap()).collect();
    let unpacked = |at: usize, _: &[Mount]| panic!("layer {at} is left to the runtime");
    let (_, top) = pull(&mut client, &image, &diff_ids, unpacked).await.unwrap();
    assert_eq!(daemon.metric("soci_layers_total{way=\"lazy\"}"), 2);
    Place { daemon, client, top, registry, work }
}

fn maps(users: &str, groups: &str) -> HashMap<String, String> {
    [("containerd.io/snapshot/uidmapping", users), ("containerd.io/snapshot/gidmapping", groups)]
        .map(|(label, map)| (label.to_owned(), map.to_owned()))
        .into()
}

impl Place {
    async fn prepare(
        &mut self,
        key: &str,
        parent: &str,
        labels: HashMap<String, String>,
    ) -> Result<Vec<Mount>, Status> {
        let (key, parent, snapshotter) = (key.to_owned(), parent.to_owned(), "soci".to_owned());
        let request = PrepareSnapshotRequest { snapshotter, key, parent, labels };
        Ok(self.client.prepare(request).await?.into_inner().mounts)
    }

    async fn remove(&mut self, key: &str) {
        let request = RemoveSnapshotRequest { snapshotter: "soci".into(), key: key.into() };
        self.client.remove(request).await.unwrap();
    }

    /// Mounts a snapshot and gives what `look` sees in it.
    fn within<T>(&self, mounts: &[Mount], look: impl FnOnce(&Path) -> T) -> T {
        let point = self.work.path().join("merged");
        mount_at(mounts, &point);
        let seen = look(&point);
        unmount(&point, UnmountFlags::DETACH).unwrap();
        seen
    }

    /// Mounts that show layers with other ids, by their numbers in the mount table.
    fn shown(&self) -> BTreeSet<(u64, PathBuf)> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let lines = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let shown = lines.map(|line| (line[0].parse().unwrap(), PathBuf::from(line[4])));
        let root = self.daemon.root().canonicalize().unwrap();
        shown
            .filter(|(_, point)| {
                point.starts_with(&root) && point.components().any(|part| part.as_os_str() == "mapped")
            })
            .collect()
    }
}

fn owner(path: &Path) -> (u32, u32) {
    let metadata = fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    (metadata.uid(), metadata.gid())
}

/// The owners in a snapshot with [`several`].
fn look(point: &Path) {
    assert_eq!(owner(point), (100_000, 200_000));
    for name in ["low", "mid", "top"] {
        assert_eq!(owner(&point.join(format!("{name}-of-root"))), (100_000, 200_000), "{name}");
        assert_eq!(owner(&point.join(format!("{name}-of-user"))), (5000, 201_001), "{name}");
        assert_eq!(
            fs::read_to_string(point.join(format!("{name}-of-user"))).unwrap(),
            format!("{name}-of-user")
        );
    }
}

/// Several ranges of users, one of groups.
fn several() -> HashMap<String, String> {
    maps("0:100000:1000,1000:5000:1,1001:101001:60000", "0:200000:65536")
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_are_shown_with_the_ids_of_the_namespace() {
    let mut place = place(REMAP).await;
    let whole = place.registry.requests().len();
    let top = place.top.clone();
    let mounts = place.prepare("container", &top, several()).await.unwrap();
    let options = mounts[0].options.join(",");
    assert!(mounts[0].r#type == "overlay" && !options.contains("uidmap"), "{mounts:?}");
    place.within(&mounts, |point| {
        look(point);
        // What is copied up keeps its owner, and what is new has its maker's.
        fs::write(point.join("low-of-user"), "low-of-user").unwrap();
        look(point);
    });
    assert_eq!(place.shown().len(), 3);
    let upper = mounts[0].options.iter().find_map(|option| option.strip_prefix("upperdir=")).unwrap();
    assert_eq!(
        (owner(Path::new(upper)), owner(&Path::new(upper).join("low-of-user"))),
        ((100_000, 200_000), (5000, 201_001))
    );

    let view = ViewSnapshotRequest {
        snapshotter: "soci".into(),
        key: "view".into(),
        parent: top.clone(),
        labels: several(),
    };
    let viewed = place.client.view(view).await.unwrap().into_inner().mounts;
    place.within(&viewed, look);
    // Without labels, the owners are the image's.
    let plain = place.prepare("plain", &top, HashMap::new()).await.unwrap();
    assert_eq!(place.within(&plain, |point| owner(&point.join("top-of-user"))), (1000, 1001));
    assert_eq!(place.shown().len(), 6);

    // The next daemon finds what is shown, and does not touch it.
    let before = place.shown();
    place.daemon.kill();
    place.daemon.restart(REMAP);
    assert_eq!(place.shown(), before);
    place.client = place.daemon.client().await;
    let request = MountsRequest { snapshotter: "soci".into(), key: "container".into() };
    let again = place.client.mounts(request).await.unwrap().into_inner().mounts;
    assert_eq!(again, mounts);
    place.within(&again, look);
    assert_eq!(place.shown(), before);

    for key in ["view", "plain", "container"] {
        place.remove(key).await;
    }
    assert_eq!(place.shown(), BTreeSet::new());
    assert!(place.registry.requests().len() >= whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shown_to_a_snapshot_ends_with_it() {
    let mut place = place(REMAP).await;
    let top = place.top.clone();
    place.prepare("a", &top, several()).await.unwrap();
    let commit = CommitSnapshotRequest {
        snapshotter: "soci".into(),
        name: "A".into(),
        key: "a".into(),
        labels: HashMap::new(),
        parent: String::new(),
    };
    place.client.commit(commit).await.unwrap();
    assert_eq!(place.shown(), BTreeSet::new(), "a layer is shown to nobody");
    // A daemon that keeps no mounts leaves none; the next one shows them again when somebody asks.
    place.prepare("b", &top, several()).await.unwrap();
    assert_eq!(place.shown().len(), 3);
    let fleeting = format!("{REMAP}[restart]\nkeep_mounts = false\n");
    place.daemon.stop(rustix::process::Signal::TERM);
    place.daemon.restart(&fleeting);
    place.client = place.daemon.client().await;
    assert_eq!(place.shown(), BTreeSet::new());
    let request = MountsRequest { snapshotter: "soci".into(), key: "b".into() };
    let mounts = place.client.mounts(request).await.unwrap().into_inner().mounts;
    place.within(&mounts, look);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_containerd_has_made_is_not_mapped_twice() {
    let mut place = place(REMAP).await;
    let top = place.top.clone();
    // As containerd without the capability: a snapshot whose files it gives to the namespace.
    let mounts = prepare_container(&mut place.client, "remap", &top).await.unwrap();
    place.within(&mounts, |point| {
        for name in ["", "top-of-root"] {
            chown(point.join(name), Some(100_000), Some(200_000)).unwrap();
        }
    });
    let commit = CommitSnapshotRequest {
        snapshotter: "soci".into(),
        name: "copy".into(),
        key: "remap".into(),
        labels: HashMap::new(),
        parent: String::new(),
    };
    place.client.commit(commit).await.unwrap();
    let mounts = place.prepare("container", "copy", several()).await.unwrap();
    let root = place.within(&mounts, |point| (owner(point), owner(&point.join("top-of-root"))));
    assert_eq!(root, ((100_000, 200_000), (100_000, 200_000)));
    assert_eq!(place.shown(), BTreeSet::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_cannot_be_mapped_is_refused_with_what_to_do() {
    let mut place = place(&format!("{REMAP}[fuse]\nerofs = false\n")).await;
    let top = place.top.clone();
    let refused = place.prepare("container", &top, several()).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(
        refused.message().contains("remap-ids") && refused.message().contains("remap_ids = false"),
        "{refused}"
    );
    let wrong = place.prepare("container", &top, maps("0:1", "0:1:1")).await.unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument, "{wrong}");
    let alone = HashMap::from([("containerd.io/snapshot/uidmapping".to_owned(), "0:1:1".to_owned())]);
    assert_eq!(place.prepare("container", &top, alone).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(place.shown(), BTreeSet::new());
    // Nothing is left in the way of the next request.
    place.prepare("container", &top, HashMap::new()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_key_labels_of_ids_are_containerds_business() {
    let mut place = place("").await;
    let top = place.top.clone();
    for key in ["a", "b"] {
        let mounts = place.prepare(key, &top, several()).await.unwrap();
        assert_eq!(place.within(&mounts, |point| owner(&point.join("low-of-user"))), (1000, 1001));
    }
    let warned = place.daemon.log().matches("set remap_ids = true").count();
    assert_eq!(warned, 1, "{}", place.daemon.log());
}
