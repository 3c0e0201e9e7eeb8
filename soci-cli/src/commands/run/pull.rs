//! An image's layers through the snapshotter, as containerd's unpacker asks for them: Stat of the chain id, else
//! Prepare with the labels of the layer, from the lowest layer up. The snapshotter answers "already exists" when the
//! layer can be used; then a Prepare without layer labels gives the mounts for a container.

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

use crate::commands::layer_labels::of_layer;
use crate::output::progress::Progress;

/// The name under which containerd would know the snapshotter.
const SNAPSHOTTER: &str = "soci";
/// Where the snapshots of this program live.
const NAMESPACE: &str = "soci-run";
const WORKLOAD: &str = "containerd.io/snapshot/remote/soci.pack.workload";

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
                labels: of_layer(self.image, at, &self.chain[at], index)
                    .into_iter()
                    .chain(self.workload_label())
                    .collect(),
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
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(NAMESPACE_HEADER, tonic::metadata::MetadataValue::from_static(NAMESPACE));
    request
}
