//! A pull as containerd's unpacker does it: one Prepare for each layer, with its labels, from the bottom up.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mount::{MountFlags, mount};
use soci_core::containerd::SnapshotsClient;
use soci_core::containerd::snapshots::{CommitSnapshotRequest, PrepareSnapshotRequest, StatSnapshotRequest};
use soci_core::containerd::types::Mount;
use soci_core::digest::Digest;
use tonic::{Code, Status};

use crate::image::Published;

/// Number of the next Prepare of a layer.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Who has unpacked a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The snapshotter answered that the layer is there.
    Snapshotter,
    /// The snapshotter gave mounts: the runtime has to unpack.
    Runtime,
}

/// The chain id of each layer, as containerd names committed layers.
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::new();
    for diff_id in diff_ids {
        chain.push(match chain.last() {
            None => diff_id.to_string(),
            Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()).to_string(),
        });
    }
    chain
}

/// Labels of a layer's Prepare.
pub fn labels(image: &Published, at: usize, target: &str) -> HashMap<String, String> {
    [
        ("containerd.io/snapshot.ref", target.to_owned()),
        ("containerd.io/snapshot/cri.image-ref", image.reference.clone()),
        ("containerd.io/snapshot/cri.manifest-digest", image.manifest.to_string()),
        ("containerd.io/snapshot/cri.layer-digest", image.layers[at].to_string()),
    ]
    .map(|(label, value)| (label.to_owned(), value))
    .into()
}

/// Prepares every layer of the image. What the snapshotter leaves to the runtime is unpacked by `unpack`, which gets the
/// number of the layer and its mounts. Gives who did what, and the name of the top layer.
pub async fn pull(
    client: &mut SnapshotsClient,
    image: &Published,
    diff_ids: &[Digest],
    mut unpack: impl FnMut(usize, &[Mount]),
) -> Result<(Vec<By>, String), Status> {
    let mut parent = String::new();
    let mut done = Vec::new();
    for (at, target) in chain_ids(diff_ids).into_iter().enumerate() {
        // As containerd's: of each attempt its own. One that a killed daemon has begun stays.
        let attempt = NEXT.fetch_add(1, Ordering::Relaxed);
        let key = format!("default/{attempt}/extract-{attempt} {target}");
        let request = PrepareSnapshotRequest {
            snapshotter: "soci".to_owned(),
            key: key.clone(),
            parent: parent.clone(),
            labels: labels(image, at, &target),
        };
        parent = match client.prepare(request).await {
            Err(status) if status.code() == Code::AlreadyExists => {
                let stat = StatSnapshotRequest { snapshotter: "soci".to_owned(), key: target.clone() };
                client.stat(stat).await?;
                done.push(By::Snapshotter);
                target
            }
            Err(status) => return Err(status),
            Ok(answer) => {
                unpack(at, &answer.into_inner().mounts);
                let name = format!("default/{at}/{target}");
                let commit = CommitSnapshotRequest {
                    snapshotter: "soci".to_owned(),
                    name: name.clone(),
                    key,
                    labels: HashMap::new(),
                    parent: String::new(),
                };
                client.commit(commit).await?;
                done.push(By::Runtime);
                name
            }
        };
    }
    Ok((done, parent))
}

/// Prepares a container's snapshot on top of `parent`.
pub async fn prepare_container(
    client: &mut SnapshotsClient,
    key: &str,
    parent: &str,
) -> Result<Vec<Mount>, Status> {
    let request = PrepareSnapshotRequest {
        snapshotter: "soci".to_owned(),
        key: key.to_owned(),
        parent: parent.to_owned(),
        labels: HashMap::new(),
    };
    Ok(client.prepare(request).await?.into_inner().mounts)
}

/// Mounts what the snapshotter says, as a runtime does.
pub fn mount_at(mounts: &[Mount], target: &Path) {
    let [only] = mounts else { panic!("one mount, not {mounts:?}") };
    std::fs::create_dir_all(target).expect("the target's directory is writable");
    if only.r#type == "bind" {
        rustix::mount::mount_bind_recursive(only.source.as_str(), target).expect("a bind mount");
        return;
    }
    let options = std::ffi::CString::new(only.options.join(",")).expect("no NUL in options");
    mount(only.source.as_str(), target, only.r#type.as_str(), MountFlags::empty(), options.as_c_str())
        .unwrap_or_else(|error| panic!("mount {only:?}: {error}"));
}
