//! An image's layers through the snapshotter, as containerd's unpacker asks for them: Stat of the chain id, else
//! Prepare with the labels of the layer, from the lowest layer up. The snapshotter answers "already exists" when the
//! layer can be used; then a Prepare without layer labels gives the mounts for a container.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};
use recorder::rootfs::chain_ids;
use soci_core::containerd::snapshots::{
    Kind, ListSnapshotsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
};
use soci_core::containerd::types::Mount;
use soci_core::containerd::{NAMESPACE_HEADER, SnapshotsClient};
use soci_core::digest::Digest;
use soci_core::image::Image;
use tonic::{Code, Request};

use crate::output::progress::Progress;

/// The name under which containerd would know the snapshotter.
const SNAPSHOTTER: &str = "soci";
/// Where the snapshots of this program live.
const NAMESPACE: &str = "soci-run";
/// containerd's limit for a label's key and value together.
const MAX_LABEL: usize = 4096;

const TARGET: &str = "containerd.io/snapshot.ref";
const IMAGE_REF: &str = "containerd.io/snapshot/cri.image-ref";
const MANIFEST: &str = "containerd.io/snapshot/cri.manifest-digest";
const LAYER: &str = "containerd.io/snapshot/cri.layer-digest";
const LAYERS: &str = "containerd.io/snapshot/cri.image-layers";
const SIZE: &str = "containerd.io/snapshot/remote/soci.size";
const WORKLOAD: &str = "containerd.io/snapshot/remote/soci.pack.workload";
const INDEX: &str = "containerd.io/snapshot/remote/soci.index.digest";

/// What came of the layers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Pulled {
    /// Layers that were prepared now.
    pub(super) prepared: usize,
    /// Layers that were there.
    pub(super) present: usize,
}

/// Removes the writable snapshots of starts that were killed. The directory must be this process's alone. When this is done, the
/// daemon has begun to answer.
pub(super) async fn remove_leftovers(client: &mut SnapshotsClient) -> Result<()> {
    let list = ListSnapshotsRequest { snapshotter: SNAPSHOTTER.into(), filters: Vec::new() };
    let mut answer = client.list(request(list)).await.context("cannot list the snapshots")?.into_inner();
    let mut leftovers = Vec::new();
    while let Some(page) = answer.message().await.context("cannot list the snapshots")? {
        let active = page.info.into_iter().filter(|info| info.kind() == Kind::Active);
        leftovers.extend(active.map(|info| info.name));
    }
    for key in leftovers {
        let remove = RemoveSnapshotRequest { snapshotter: SNAPSHOTTER.into(), key };
        client.remove(request(remove)).await.context("cannot remove a snapshot of an earlier start")?;
    }
    Ok(())
}

/// The snapshots of one image.
#[derive(Debug)]
pub(super) struct Snapshots<'a> {
    client: SnapshotsClient,
    image: &'a Image,
    chain: Vec<Digest>,
    /// Tells the snapshots of this start from those of others on the same root.
    nonce: String,
    /// The workload whose pack is wanted.
    workload: Option<String>,
}

impl<'a> Snapshots<'a> {
    pub(super) fn new(client: SnapshotsClient, image: &'a Image, workload: Option<String>) -> Result<Self> {
        let (layers, diff_ids) = (image.layers().len(), image.config.diff_ids.len());
        if layers != diff_ids {
            bail!("the image has {layers} layers, its configuration names {diff_ids}");
        }
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let nonce = format!("{}-{}", std::process::id(), now.as_nanos());
        Ok(Self { client, image, chain: chain_ids(&image.config.diff_ids), nonce, workload })
    }

    /// Makes sure that every layer is there.
    pub(super) async fn pull(&mut self, index: Option<&Digest>, progress: &Progress) -> Result<Pulled> {
        let mut pulled = Pulled::default();
        let bar = progress.steps("pull layers", self.chain.len() as u64);
        for at in 0..self.chain.len() {
            bar.set_position(at as u64);
            let id = self.chain[at].to_string();
            let stat = StatSnapshotRequest { snapshotter: SNAPSHOTTER.into(), key: id.clone() };
            match self.client.stat(request(stat)).await {
                Ok(_) => {
                    pulled.present += 1;
                    continue;
                }
                Err(status) if status.code() == Code::NotFound => {}
                Err(status) => return Err(status).with_context(|| format!("cannot look up layer {at}")),
            }
            let prepare = PrepareSnapshotRequest {
                snapshotter: SNAPSHOTTER.into(),
                key: format!("extract-{} {id}", self.nonce),
                parent: self.parent(at),
                labels: self.labels(at, index),
            };
            match self.client.prepare(request(prepare)).await {
                Err(status) if status.code() == Code::AlreadyExists => pulled.prepared += 1,
                Err(status) => return Err(status).with_context(|| format!("cannot prepare layer {at}")),
                Ok(_) => bail!(
                    "the snapshotter left layer {at} ({}) to the runtime",
                    self.image.layers()[at].digest
                ),
            }
        }
        bar.finish_and_clear();
        Ok(pulled)
    }

    /// A writable snapshot on top of the layers.
    pub(super) async fn container(&mut self) -> Result<Vec<Mount>> {
        let prepare = PrepareSnapshotRequest {
            snapshotter: SNAPSHOTTER.into(),
            key: self.container_key(),
            parent: self.parent(self.chain.len()),
            labels: self.workload_label().collect(),
        };
        let answer =
            self.client.prepare(request(prepare)).await.context("cannot prepare the container's snapshot")?;
        Ok(answer.into_inner().mounts)
    }

    /// Removes the writable snapshot.
    pub(super) async fn remove_container(&mut self) -> Result<()> {
        let remove = RemoveSnapshotRequest { snapshotter: SNAPSHOTTER.into(), key: self.container_key() };
        self.client.remove(request(remove)).await.context("cannot remove the container's snapshot").map(drop)
    }

    fn container_key(&self) -> String {
        format!("run-{}", self.nonce)
    }

    /// Name of the snapshot below layer `at`.
    fn parent(&self, at: usize) -> String {
        at.checked_sub(1).map_or(String::new(), |below| self.chain[below].to_string())
    }

    fn workload_label(&self) -> impl Iterator<Item = (String, String)> {
        self.workload.iter().map(|name| (WORKLOAD.to_owned(), name.clone()))
    }

    fn labels(&self, at: usize, index: Option<&Digest>) -> HashMap<String, String> {
        let layer = &self.image.layers()[at];
        let mut labels = HashMap::from([
            (TARGET.to_owned(), self.chain[at].to_string()),
            (IMAGE_REF.to_owned(), self.image.reference.clone()),
            (MANIFEST.to_owned(), self.image.manifest.digest.to_string()),
            (LAYER.to_owned(), layer.digest.to_string()),
            (LAYERS.to_owned(), following(self.image.layers()[at..].iter().map(|layer| layer.digest))),
            (SIZE.to_owned(), layer.size.to_string()),
        ]);
        if let Some(index) = index {
            labels.insert(INDEX.to_owned(), index.to_string());
        }
        labels.extend(self.workload_label());
        labels
    }
}

/// The comma list of layers, as many as fit into a label.
fn following(layers: impl Iterator<Item = Digest>) -> String {
    let mut list = String::new();
    for digest in layers {
        let digest = digest.to_string();
        if LAYERS.len() + list.len() + 1 + digest.len() > MAX_LABEL {
            break;
        }
        if !list.is_empty() {
            list.push(',');
        }
        list.push_str(&digest);
    }
    list
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(NAMESPACE_HEADER, tonic::metadata::MetadataValue::from_static(NAMESPACE));
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_layers_stays_within_a_label() {
        let digests: Vec<Digest> = (0..100u8).map(|n| Digest::of(&[n])).collect();
        let list = following(digests.iter().copied());
        assert!(LAYERS.len() + list.len() <= MAX_LABEL);
        let expected: Vec<String> = digests.iter().map(Digest::to_string).collect();
        let got: Vec<&str> = list.split(',').collect();
        assert_eq!(got, expected[..got.len()]);
        assert!(got.len() > 50);
    }
}
