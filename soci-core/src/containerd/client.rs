//! Connecting to a containerd-style gRPC service on a Unix socket.
//!
//! A client owns its one HTTP/2 connection. The first request fails, not the connecting, when the server goes away
//! in between; tonic then connects anew at the next request.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use super::snapshots;

/// gRPC metadata key in which containerd and its clients send the namespace of a request.
pub const NAMESPACE_HEADER: &str = "containerd-namespace";

/// Client of the snapshots service.
pub type SnapshotsClient = snapshots::snapshots_client::SnapshotsClient<Channel>;

/// The server on a Unix socket could not be reached.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to {}", socket.display())]
pub struct ConnectError {
    /// The socket that was tried.
    pub socket: PathBuf,
    /// What the transport says.
    #[source]
    pub source: tonic::transport::Error,
}

/// Connects to the snapshots service that listens on the Unix socket `socket`.
///
/// Gives up after 10 seconds without a connection.
pub async fn snapshots_client(socket: &Path) -> Result<SnapshotsClient, ConnectError> {
    Ok(SnapshotsClient::new(connect(socket).await?))
}

/// A connection for the clients of any service behind the Unix socket `socket`.
pub(super) async fn connect(socket: &Path) -> Result<Channel, ConnectError> {
    let path = socket.to_path_buf();
    // The address only fills the `:authority` header; the connector decides where the bytes go.
    Endpoint::from_static("http://localhost")
        .connect_timeout(Duration::from_secs(10))
        .connect_with_connector(tower::service_fn(move |_: http::Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        }))
        .await
        .map_err(|source| ConnectError { socket: socket.to_path_buf(), source })
}
