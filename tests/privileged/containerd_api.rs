//! What newer containerds ask of a snapshotter: a parent that is told at the commit, labels that say more of a layer, and clients
//! that say nothing of it. Needs root.

use std::collections::HashMap;
use std::path::PathBuf;

use harness::daemon::Daemon;
use harness::image::{LayerSource, Published, TarWriter, publish};
use harness::pull::{By, chain_ids, labels, prepare_container, pull};
use harness::registry::TestRegistry;
use soci_core::containerd::SnapshotsClient;
use soci_core::containerd::snapshots::{CommitSnapshotRequest, PrepareSnapshotRequest, StatSnapshotRequest};
use soci_core::containerd::types::Mount;
use soci_core::digest::Digest;
use tempfile::TempDir;
use tonic::{Code, Status};

const SOCI: &str = "soci";
const DIFF_ID: &str = "containerd.io/snapshot/diff-id";
const PARENT_CHAIN: &str = "containerd.io/snapshot/parent-chain-id";

/// A daemon and an image of two layers; `indexed`: it can be lazy.
struct Place {
    daemon: Daemon,
    image: Published,
    diff_ids: Vec<Digest>,
    registry: TestRegistry,
    _work: TempDir,
}

async fn place(indexed: bool) -> (Place, SnapshotsClient) {
    let registry = TestRegistry::start();
    let sources = ["a", "b"].map(|name| {
        let layer = LayerSource::of_tar(&TarWriter::default().file(name, name.as_bytes()).finish());
        LayerSource { unindexed: !indexed, ..layer }
    });
    let image = publish(&registry, "app", &sources, 64 << 10);
    let diff_ids = sources.iter().map(|source| source.diff_id.unwrap()).collect();
    let work = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(work.path(), "");
    let client = daemon.client().await;
    (Place { daemon, image, diff_ids, registry, _work: work }, client)
}

fn prepare(key: &str, parent: &str, labels: HashMap<String, String>) -> PrepareSnapshotRequest {
    PrepareSnapshotRequest { snapshotter: SOCI.into(), key: key.into(), parent: parent.into(), labels }
}

async fn commit(client: &mut SnapshotsClient, key: &str, name: &str, parent: &str) -> Result<(), Status> {
    let request = CommitSnapshotRequest {
        snapshotter: SOCI.into(),
        name: name.into(),
        key: key.into(),
        labels: HashMap::new(),
        parent: parent.into(),
    };
    client.commit(request).await.map(|_| ())
}

async fn parent_of(client: &mut SnapshotsClient, key: &str) -> String {
    let request = StatSnapshotRequest { snapshotter: SOCI.into(), key: key.into() };
    client.stat(request).await.unwrap().into_inner().info.unwrap().parent
}

/// Where a snapshot without parents is written.
fn written(mounts: &[Mount]) -> PathBuf {
    assert!(mounts.len() == 1 && mounts[0].r#type == "bind", "{mounts:?}");
    PathBuf::from(&mounts[0].source)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_that_is_told_at_the_commit_is_below_from_then_on() {
    let (place, mut client) = place(true).await;
    let lower = written(&prepare_container(&mut client, "a", "").await.unwrap());
    std::fs::write(lower.join("lower"), "").unwrap();
    commit(&mut client, "a", "A", "").await.unwrap();
    let upper = written(&prepare_container(&mut client, "b", "").await.unwrap());
    std::fs::write(upper.join("upper"), "").unwrap();
    prepare_container(&mut client, "active", "").await.unwrap();
    for (parent, code) in
        [("nowhere", Code::NotFound), ("active", Code::InvalidArgument), ("b", Code::InvalidArgument)]
    {
        assert_eq!(commit(&mut client, "b", "B", parent).await.unwrap_err().code(), code, "{parent}");
    }
    commit(&mut client, "b", "B", "A").await.unwrap();
    assert_eq!(parent_of(&mut client, "B").await, "A");
    let mounts = prepare_container(&mut client, "c", "B").await.unwrap();
    let lowers = mounts[0].options.iter().find_map(|option| option.strip_prefix("lowerdir=")).unwrap();
    assert_eq!(lowers, format!("{}:{}", upper.display(), lower.display()));

    // One that was made on a parent keeps it.
    let refused = commit(&mut client, "c", "C", "A").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    commit(&mut client, "c", "C", "B").await.unwrap();
    assert_eq!(parent_of(&mut client, "C").await, "B");
    drop(place);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_unpacks_a_layer_can_write() {
    let (place, mut client) = place(false).await;
    // No index at all: the runtime unpacks.
    place.registry.remove_manifest("app", &place.image.index.to_string());
    let writable = |mounts: &[Mount]| {
        let [mount] = mounts else { panic!("one mount, not {mounts:?}") };
        let has = |text: &str| mount.options.iter().any(|option| option.starts_with(text));
        assert!(!has("ro") && (has("rw") || has("upperdir=")), "{mount:?}");
    };
    let mut seen = 0;
    let done = pull(&mut client, &place.image, &place.diff_ids, |_, mounts| {
        writable(mounts);
        seen += 1;
    });
    let (by, _) = done.await.unwrap();
    assert_eq!((by.as_slice(), seen), (&[By::Runtime; 2][..], 2));
    // Without any label.
    for (parent, number) in [("", 1), ("default/0/x", 2)] {
        let parent = if parent.is_empty() {
            String::new()
        } else {
            format!("default/0/{}", chain_ids(&place.diff_ids)[0])
        };
        let key = format!("default/9/extract-{number}-x sha256:ab");
        writable(&prepare_container(&mut client, &key, &parent).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_say_its_layers_is_told_once_and_counted() {
    let (place, mut client) = place(true).await;
    let unlabelled =
        |client: &str| place.daemon.metric(&format!("soci_unlabelled_layers_total{{client=\"{client}\"}}"));
    let said = || place.daemon.log().matches("image is pulled whole: the client does not say").count();
    let target = |number: usize| format!("sha256:{}", format!("{number:x}").repeat(64));
    let extraction = |number: usize, with_target: bool| {
        let target = target(number);
        let labels = with_target.then(|| ("containerd.io/snapshot.ref".to_owned(), target.clone()));
        prepare(&format!("default/{number}/extract-{number}-x {target}"), "", labels.into_iter().collect())
    };
    // As ctr of 1.x: no namespace, with and without the one label that every client sends.
    for (number, with_target) in [(1, false), (2, true)] {
        client.prepare(extraction(number, with_target)).await.unwrap();
    }
    assert_eq!((unlabelled("ctr_1"), said()), (2, 1), "{}", place.daemon.log());
    assert!(place.daemon.log().contains("soci pull IMAGE"));
    // As clients of 2.x, which say their namespace, and CRI.
    for (number, namespace, client_name, advice) in [
        (3, "default", "ctr_2", "enable_remote_snapshot_annotations"),
        (4, "k8s.io", "cri", "disable_snapshot_annotations = false"),
    ] {
        let mut request = tonic::Request::new(extraction(number, true));
        request.metadata_mut().insert("containerd-namespace", namespace.parse().unwrap());
        client.prepare(request).await.unwrap();
        assert_eq!(unlabelled(client_name), 1);
        let log = place.daemon.log();
        let line = log.lines().rfind(|line| line.contains("image is pulled whole")).unwrap();
        assert!(line.contains(advice) && line.contains(namespace), "{line}");
    }
    assert_eq!(said(), 3);
    // Containers are no layers.
    prepare_container(&mut client, "default/7/container", "").await.unwrap();
    assert_eq!(said(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_is_not_what_its_labels_say_is_left_to_the_runtime() {
    let (place, mut client) = place(true).await;
    let chain = chain_ids(&place.diff_ids);
    let request = |number: usize, diff_id: Digest, target: &str| {
        let mut labels = labels(&place.image, 0, target);
        labels.insert(DIFF_ID.to_owned(), diff_id.to_string());
        prepare(&format!("default/{number}/extract-{number}-x {target}"), "", labels)
    };
    let other = Digest::of(b"another layer");
    // Labels that contradict each other, and labels that contradict the image's configuration.
    for (number, target, reason) in [
        (1, chain[0].clone(), "are not of one layer"),
        (2, other.to_string(), "the image's configuration says"),
    ] {
        let mounts = client.prepare(request(number, other, &target)).await.unwrap().into_inner().mounts;
        assert_eq!(mounts.len(), 1, "the runtime is to unpack it");
        assert!(place.daemon.log().contains(reason), "{}", place.daemon.log());
    }
    // A parent that is to come later: containerd unpacks with the capability rebase.
    let mut labels = labels(&place.image, 1, &chain[1]);
    labels.insert(DIFF_ID.to_owned(), place.diff_ids[1].to_string());
    labels.insert(PARENT_CHAIN.to_owned(), chain[0].clone());
    client.prepare(prepare("default/3/extract-3-x y", "", labels.clone())).await.unwrap();
    assert!(place.daemon.log().contains("take the capability rebase from"), "{}", place.daemon.log());

    let lazy = client.prepare(request(4, place.diff_ids[0], &chain[0])).await.unwrap_err();
    assert_eq!(lazy.code(), Code::AlreadyExists, "{lazy}");
    let lazy = client.prepare(prepare("default/5/extract-5-x y", &chain[0], labels)).await.unwrap_err();
    assert_eq!(lazy.code(), Code::AlreadyExists, "{lazy}");
    assert_eq!(place.daemon.metric("soci_layers_total{way=\"lazy\"}"), 2);
}
