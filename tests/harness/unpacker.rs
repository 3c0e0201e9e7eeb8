//! containerd's own unpack on its own overlayfs snapshotter, as the reference for ours: layers in, mounts out.
//!
//! Owns a connection. Blobs and snapshots stay until containerd's root is removed: labels keep its collector away.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use http::uri::PathAndQuery;
use soci_core::containerd::snapshots::{CommitSnapshotRequest, PrepareSnapshotRequest, ViewSnapshotRequest};
use soci_core::containerd::types::{Descriptor, Mount};
use soci_core::containerd::{Containerd, NAMESPACE_HEADER, SnapshotsClient, snapshots_client};
use soci_core::digest::Digest;
use soci_core::media_type;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

const NAMESPACE: &str = "merge";
const SNAPSHOTTER: &str = "overlayfs";
/// Label of what containerd must not collect.
const ROOT: &str = "containerd.io/gc.root";

/// A client of a containerd's content, snapshots and diff services.
#[derive(Debug)]
pub struct Unpacker {
    content: Containerd,
    snapshots: SnapshotsClient,
    channel: Channel,
}

/// The fields of the diff service's messages that are used.
#[derive(Clone, PartialEq, prost::Message)]
struct ApplyRequest {
    #[prost(message, optional, tag = "1")]
    diff: Option<Descriptor>,
    #[prost(message, repeated, tag = "2")]
    mounts: Vec<Mount>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ApplyResponse {}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(NAMESPACE_HEADER, NAMESPACE.parse().expect("plain text"));
    request
}

impl Unpacker {
    /// Talks to the containerd on this socket.
    pub async fn connect(socket: &Path) -> Self {
        let path = socket.to_owned();
        let connect = tower::service_fn(move |_: http::Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://localhost").connect_with_connector(connect).await;
        Self {
            content: Containerd::connect(socket, NAMESPACE).expect("a socket"),
            snapshots: snapshots_client(socket).await.expect("containerd answers"),
            channel: channel.expect("containerd answers"),
        }
    }

    /// Unpacks plain tars on top of each other, the lowest first, and gives the mounts of a view of all. `name` is used once.
    ///
    /// # Errors
    /// What containerd says of a layer that it refuses.
    pub async fn unpack(&mut self, tars: &[Vec<u8>], name: &str) -> Result<Vec<Mount>, Status> {
        let labels: HashMap<String, String> = HashMap::from([(ROOT.to_owned(), "yes".to_owned())]);
        let snapshotter = SNAPSHOTTER.to_owned();
        let mut parent = String::new();
        for (at, tar) in tars.iter().enumerate() {
            let key = format!("{name}-{at}-active");
            let prepare = PrepareSnapshotRequest {
                snapshotter: snapshotter.clone(),
                key: key.clone(),
                parent: parent.clone(),
                labels: labels.clone(),
            };
            let mounts = self.snapshots.prepare(request(prepare)).await?.into_inner().mounts;
            self.apply(tar, mounts).await?;
            parent = format!("{name}-{at}");
            let commit = CommitSnapshotRequest {
                snapshotter: snapshotter.clone(),
                name: parent.clone(),
                key,
                labels: labels.clone(),
                parent: String::new(),
            };
            self.snapshots.commit(request(commit)).await?;
        }
        let key = format!("{name}-view");
        let view = ViewSnapshotRequest { snapshotter, key, parent, labels };
        Ok(self.snapshots.view(request(view)).await?.into_inner().mounts)
    }

    async fn apply(&self, tar: &[u8], mounts: Vec<Mount>) -> Result<(), Status> {
        let labels = BTreeMap::from([(ROOT.to_owned(), "yes".to_owned())]);
        let digest =
            self.content.put_blob(tar.to_vec().into(), labels).await.expect("containerd takes blobs");
        debug_assert_eq!(digest, Digest::of(tar));
        let diff = Descriptor {
            media_type: media_type::OCI_LAYER.to_owned(),
            digest: digest.to_string(),
            size: tar.len() as i64,
            ..Descriptor::default()
        };
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let path = PathAndQuery::from_static("/containerd.services.diff.v1.Diff/Apply");
        let codec = tonic_prost::ProstCodec::<ApplyRequest, ApplyResponse>::default();
        client.unary(request(ApplyRequest { diff: Some(diff), mounts }), path, codec).await.map(drop)
    }
}
