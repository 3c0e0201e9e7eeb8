//! Layers of an image as snapshots of containerd's: what its own clients do when they unpack an image.
//!
//! An [`Unpacking`] owns a connection whose calls may take any time: a layer that is unpacked takes minutes. What must always hold:
//! what is made is under the lease of its [`Containerd`], so that it stays until the caller has tied it to an image.

use std::collections::BTreeMap;

use tonic::transport::Channel;

use super::{
    Containerd, ContainerdError, client,
    diff_api::{ApplyRequest, diff_client::DiffClient},
    snapshots::{
        CommitSnapshotRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
        snapshots_client::SnapshotsClient,
    },
    types::{self, Mount},
};
use crate::{digest::Digest, image::Descriptor};

/// Labels of a snapshot.
pub type SnapshotLabels = BTreeMap<String, String>;

/// One of containerd's snapshotters, and what unpacks layers into its snapshots.
#[derive(Clone, Debug)]
pub struct Unpacking {
    containerd: Containerd,
    channel: Channel,
    snapshotter: String,
}

impl Containerd {
    /// Unpacks images with the snapshotter of that name.
    ///
    /// # Errors
    /// When containerd does not answer.
    pub async fn unpacking(&self, snapshotter: &str) -> Result<Unpacking, ContainerdError> {
        let channel = client::patient(self.socket()).await?;
        Ok(Unpacking { containerd: self.clone(), channel, snapshotter: snapshotter.to_owned() })
    }
}

impl Unpacking {
    fn snapshots(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.channel.clone())
    }

    /// The labels of a snapshot; `None` when there is none of that name.
    ///
    /// # Errors
    /// When containerd does not answer, or has no such snapshotter.
    pub async fn stat(&self, name: &str) -> Result<Option<SnapshotLabels>, ContainerdError> {
        let request = StatSnapshotRequest { snapshotter: self.snapshotter.clone(), key: name.to_owned() };
        let answer = self.snapshots().stat(self.containerd.request(request)).await;
        match answer.map_err(ContainerdError::status("look up a snapshot")) {
            Ok(answer) => {
                let info = answer.into_inner().info;
                Ok(Some(info.map(|info| info.labels.into_iter().collect()).unwrap_or_default()))
            }
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Prepares a snapshot on top of `parent`, the empty string for none. `None`: the snapshotter has what the labels ask for.
    ///
    /// # Errors
    /// When containerd or the snapshotter refuses.
    pub async fn prepare(
        &self,
        key: &str,
        parent: &str,
        labels: SnapshotLabels,
    ) -> Result<Option<Vec<Mount>>, ContainerdError> {
        let request = PrepareSnapshotRequest {
            snapshotter: self.snapshotter.clone(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels: labels.into_iter().collect(),
        };
        let answer = self.snapshots().prepare(self.containerd.request(request)).await;
        match answer.map_err(ContainerdError::status("prepare a snapshot")) {
            Ok(answer) => Ok(Some(answer.into_inner().mounts)),
            Err(error) if error.is_already_there() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Unpacks a layer, whose blob is in the content store, into the mounts of a snapshot. Gives the digest of the layer as it is
    /// without compression.
    ///
    /// # Errors
    /// When containerd cannot unpack it.
    pub async fn apply(&self, layer: &Descriptor, mounts: Vec<Mount>) -> Result<Digest, ContainerdError> {
        let diff = types::Descriptor {
            media_type: layer.media_type.clone(),
            digest: layer.digest.to_string(),
            size: i64::try_from(layer.size).unwrap_or(i64::MAX),
            annotations: layer.annotations.clone().into_iter().collect(),
        };
        let request = ApplyRequest { diff: Some(diff), mounts, ..ApplyRequest::default() };
        let answer = DiffClient::new(self.channel.clone()).apply(self.containerd.request(request)).await;
        let applied = answer.map_err(ContainerdError::status("unpack a layer"))?.into_inner().applied;
        let digest = applied.and_then(|applied| applied.digest.parse().ok());
        digest.ok_or_else(|| ContainerdError::Protocol("an unpacked layer has no digest".to_owned()))
    }

    /// Commits a snapshot under a name. One that is there already is as good.
    ///
    /// # Errors
    /// When containerd or the snapshotter refuses.
    pub async fn commit(&self, name: &str, key: &str, labels: SnapshotLabels) -> Result<(), ContainerdError> {
        let request = CommitSnapshotRequest {
            snapshotter: self.snapshotter.clone(),
            name: name.to_owned(),
            key: key.to_owned(),
            labels: labels.into_iter().collect(),
            parent: String::new(),
        };
        let answer = self.snapshots().commit(self.containerd.request(request)).await;
        match answer.map_err(ContainerdError::status("commit a snapshot")) {
            Err(error) if error.is_already_there() => self.remove(key).await,
            answer => answer.map(|_| ()),
        }
    }

    /// Removes a snapshot.
    ///
    /// # Errors
    /// When containerd or the snapshotter refuses.
    pub async fn remove(&self, key: &str) -> Result<(), ContainerdError> {
        let request = RemoveSnapshotRequest { snapshotter: self.snapshotter.clone(), key: key.to_owned() };
        let answer = self.snapshots().remove(self.containerd.request(request)).await;
        answer.map(|_| ()).map_err(ContainerdError::status("remove a snapshot"))
    }
}
