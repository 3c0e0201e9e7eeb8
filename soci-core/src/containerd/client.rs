//! Connecting to a containerd-style gRPC service on a Unix socket, and how long its answers may take.
//!
//! A client owns its one HTTP/2 connection. What must always hold: a socket that is dead, closed to this user, not a socket,
//! silent or another service's is an error with its reason within [`ANSWER`]; no call and no pause in a stream is longer than
//! [`PATIENCE`], but for a stream of events, which is silent while nothing happens. A server that goes away later fails the
//! next call; tonic connects anew at the one after.

use std::{
    error::Error,
    future::Future,
    io,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, time::timeout};
use tonic::{
    Code, Status, Streaming,
    codegen::Service,
    transport::{Channel, Endpoint},
};

use super::{
    generated::containerd::services::{namespaces::v1 as namespaces_api, version::v1 as version_api},
    snapshots,
};
use crate::error::causes;

/// gRPC metadata key in which containerd and its clients send the namespace of a request.
pub const NAMESPACE_HEADER: &str = "containerd-namespace";

/// Fills the `:authority` header alone; the connector decides where the bytes go.
const AUTHORITY: &str = "http://localhost";
/// A server that is alive says hello within this; people wait for it.
const ANSWER: Duration = Duration::from_secs(4);
/// The longest call: containerd commits a large blob on a slow disk, which it flushes first.
const PATIENCE: Duration = Duration::from_mins(1);
/// Giving a lease back is a courtesy: it expires by itself.
pub(super) const COURTESY: Duration = Duration::from_secs(2);

/// Client of the snapshots service.
pub type SnapshotsClient = snapshots::snapshots_client::SnapshotsClient<Channel>;

/// The server on a Unix socket could not be reached.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to {}: {reason}", socket.display())]
pub struct ConnectError {
    /// The socket that was tried.
    pub socket: PathBuf,
    /// Why.
    pub reason: Unreachable,
}

/// Why nobody can be spoken to at a socket. Each says enough alone; no cause lies behind it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unreachable {
    /// There is no such file.
    #[error("no such socket")]
    Missing,
    /// Nobody listens: the file is left of a server that is gone.
    #[error("connection refused: nothing listens on this socket")]
    Refused,
    /// This user may not.
    #[error("permission denied")]
    Denied,
    /// It is a file of another type.
    #[error("not a socket")]
    NotASocket,
    /// Somebody accepts and says nothing.
    #[error("no answer within {} s", ANSWER.as_secs())]
    Silent,
    /// Somebody else listens.
    #[error("not containerd: {0}")]
    Foreign(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// Connects to the snapshots service that listens on the Unix socket `socket`. Its calls may take any time, as preparing a
/// layer does; who cannot wait sets a limit.
///
/// # Errors
/// When nothing listens there.
pub async fn snapshots_client(socket: &Path) -> Result<SnapshotsClient, ConnectError> {
    Ok(SnapshotsClient::new(channel(socket, None).await?))
}

/// A connection to containerd, which has answered, for the clients of any of its services.
pub(super) async fn connect(socket: &Path) -> Result<Channel, ConnectError> {
    let failed = |reason| ConnectError { socket: socket.to_path_buf(), reason };
    let greeted = timeout(ANSWER, async {
        let channel = channel(socket, Some(PATIENCE)).await?;
        // The cheapest question that containerd alone answers: it knows its namespaces.
        let mut client = namespaces_api::namespaces_client::NamespacesClient::new(channel.clone());
        match client.list(namespaces_api::ListNamespacesRequest { filter: String::new() }).await {
            Ok(_) => Ok(channel),
            Err(status) => Err(failed(stranger(&status))),
        }
    });
    greeted.await.unwrap_or_else(|_| Err(failed(Unreachable::Silent)))
}

/// A channel to the gRPC service on the Unix socket `socket`, which is connected to with the first call, and again when the
/// service was away. Calls may take any time. Must be called within a runtime.
pub fn lazy_channel(socket: &Path) -> Channel {
    let path = socket.to_path_buf();
    let endpoint = Endpoint::from_static(AUTHORITY).connect_timeout(ANSWER);
    endpoint.connect_with_connector_lazy(connector(path))
}

/// The same for calls that may take any time. Whether anybody answers was found out before.
pub(super) async fn patient(socket: &Path) -> Result<Channel, ConnectError> {
    channel(socket, None).await
}

/// What containerd says of itself.
///
/// # Errors
/// When it does not answer.
pub(super) async fn version(channel: Channel) -> Result<String, Status> {
    let mut client = version_api::version_client::VersionClient::new(channel);
    limited(ANSWER, async { Ok(client.version(()).await?.into_inner().version) }).await
}

async fn channel(socket: &Path, limit: Option<Duration>) -> Result<Channel, ConnectError> {
    let failed = |reason| ConnectError { socket: socket.to_path_buf(), reason };
    // What a file is that refuses to be connected to is not in the error.
    match std::fs::metadata(socket) {
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(failed(Unreachable::NotASocket)),
        Ok(_) => {}
        Err(error) => return Err(failed(io_reason(&error))),
    }
    let path = socket.to_path_buf();
    let mut endpoint = Endpoint::from_static(AUTHORITY).connect_timeout(ANSWER);
    if let Some(limit) = limit {
        endpoint = endpoint.timeout(limit);
    }
    let connected = endpoint.connect_with_connector(connector(path)).await;
    connected.map_err(|error| {
        failed(match innermost_io(&error) {
            Some(error) => io_reason(error),
            None => Unreachable::Other(innermost(&error).to_string()),
        })
    })
}

/// Goes to a Unix socket, whatever the address says.
fn connector(
    socket: PathBuf,
) -> impl Service<http::Uri, Response = TokioIo<UnixStream>, Error = io::Error, Future: Send> + Send + 'static
{
    tower::service_fn(move |_: http::Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    })
}

/// Who answers containerd's question like that?
fn stranger(status: &Status) -> Unreachable {
    match status.code() {
        Code::Unimplemented => {
            Unreachable::Foreign("a gRPC service without containerd's namespaces".to_owned())
        }
        Code::PermissionDenied | Code::Unauthenticated => Unreachable::Denied,
        // The connection itself: it is closed, or speaks another protocol.
        Code::Unknown | Code::Internal | Code::Unavailable | Code::Cancelled if status.source().is_some() => {
            Unreachable::Foreign("it does not speak gRPC".to_owned())
        }
        _ => Unreachable::Other(reason(status)),
    }
}

fn io_reason(error: &io::Error) -> Unreachable {
    match error.kind() {
        io::ErrorKind::NotFound => Unreachable::Missing,
        io::ErrorKind::ConnectionRefused => Unreachable::Refused,
        io::ErrorKind::PermissionDenied => Unreachable::Denied,
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
            Unreachable::Foreign("it does not speak gRPC".to_owned())
        }
        _ => Unreachable::Other(error.to_string()),
    }
}

/// What a failed call says, never empty: a status that the transport made up has its text in its causes only.
pub fn reason(status: &Status) -> String {
    if status.code() == Code::DeadlineExceeded || has_expired(status) {
        return format!("no answer within {} s", PATIENCE.as_secs());
    }
    match (status.source(), status.message()) {
        (Some(source), "" | "transport error") => innermost(source).to_string(),
        (_, "") => status.code().description().to_owned(),
        (_, message) => message.to_owned(),
    }
}

/// tonic tells an expired limit as a cancelled call.
fn has_expired(status: &Status) -> bool {
    status.code() == Code::Cancelled && status.message().contains("Timeout expired")
}

fn innermost<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    causes(error).last().unwrap_or(error)
}

fn innermost_io<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a io::Error> {
    causes(error).filter_map(|error| error.downcast_ref()).last()
}

/// The next message of a stream that has no reason to pause.
pub(super) async fn next<T>(answers: &mut Streaming<T>) -> Result<Option<T>, Status> {
    limited(PATIENCE, answers.message()).await
}

/// The outcome of a call that does not get longer than `limit`.
pub(super) async fn limited<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    timeout(limit, call).await.unwrap_or_else(|_| Err(Status::deadline_exceeded("")))
}
