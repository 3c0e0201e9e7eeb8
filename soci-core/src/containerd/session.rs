//! A connection to containerd in one namespace, and the lease under which things are made there.
//!
//! [`Containerd`] is cheap to clone. It owns a thread of its own that drives the connection, so that blocking code and
//! async code of any runtime can use it. What must always hold: whatever was written under a lease stays until the last
//! clone that holds the lease is gone, so that it can be tied to an image before containerd collects it.

use std::{
    future::Future,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::runtime::{Builder, Runtime};
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::Channel,
};

use super::{NAMESPACE_HEADER, client, client::ConnectError, leases_api};
use crate::digest::Digest;

/// gRPC metadata key that names the lease of a request.
const LEASE_HEADER: &str = "containerd-lease";
/// A lease that nobody deletes (its owner was killed) ends after this many seconds.
const LEASE_SECONDS: u64 = 24 * 3600;
/// Label with the time at which containerd may drop a lease.
const LEASE_EXPIRE: &str = "containerd.io/gc.expire";

/// Why containerd did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContainerdError {
    /// Nobody listens on the socket.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The namespace cannot be one.
    #[error("{0:?} is not a namespace")]
    Namespace(String),
    /// The thread for the connection cannot be started.
    #[error("cannot start the connection to containerd")]
    Start(#[source] std::io::Error),
    /// containerd refused or failed.
    #[error("containerd cannot {what}: {}", client::reason(.status))]
    Status {
        /// What was asked.
        what: &'static str,
        /// Its answer.
        status: Box<Status>,
    },
    /// The blob is larger than what names it says, or than its kind may be.
    #[error("content {digest} is larger than {limit} bytes, which is what it may have")]
    TooLarge {
        /// The blob.
        digest: Digest,
        /// The most that was to be read.
        limit: u64,
    },
    /// The bytes are not those that were asked for.
    #[error("content has digest {actual}, expected {expected}")]
    Mismatch {
        /// The digest asked for.
        expected: Digest,
        /// The digest of the bytes.
        actual: Digest,
    },
    /// An answer that cannot be.
    #[error("containerd: {0}")]
    Protocol(String),
}

impl ContainerdError {
    pub(super) fn status(what: &'static str) -> impl FnOnce(Status) -> Self {
        move |status| Self::Status { what, status: Box::new(status) }
    }

    fn code(&self) -> Option<Code> {
        match self {
            Self::Status { status, .. } => Some(status.code()),
            _ => None,
        }
    }

    /// Whether containerd says that it has no such thing.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(Code::NotFound)
    }

    /// Whether containerd says that it has such a thing already.
    pub(super) fn is_already_there(&self) -> bool {
        self.code() == Some(Code::AlreadyExists)
    }
}

/// containerd, in one namespace, perhaps under a lease.
#[derive(Clone, Debug)]
pub struct Containerd {
    // Before the connection, which its drop needs.
    lease: Option<Arc<Lease>>,
    connection: Arc<Connection>,
}

#[derive(Debug)]
struct Connection {
    runtime: Background,
    channel: Channel,
    namespace: MetadataValue<Ascii>,
    socket: PathBuf,
}

#[derive(Debug)]
struct Lease {
    id: MetadataValue<Ascii>,
    of: Containerd,
}

impl Containerd {
    /// Connects to the Unix socket `socket`.
    ///
    /// # Errors
    /// When containerd does not answer there within seconds, or the namespace has characters that none may have.
    pub fn connect(socket: &Path, namespace: &str) -> Result<Self, ContainerdError> {
        let header = namespace.parse().map_err(|_| ContainerdError::Namespace(namespace.to_owned()))?;
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = Background(Some(runtime.map_err(ContainerdError::Start)?));
        let path = socket.to_owned();
        let channel = runtime.wait(async move { client::connect(&path).await })?;
        let connection = Connection { runtime, channel, namespace: header, socket: socket.to_owned() };
        Ok(Self { lease: None, connection: Arc::new(connection) })
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.connection.socket
    }

    /// The same, but everything written is kept until the last clone of the result is gone.
    ///
    /// # Errors
    /// When containerd gives no lease.
    pub async fn leased(&self) -> Result<Self, ContainerdError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let id = format!(
            "soci-{}-{}-{}",
            std::process::id(),
            now.as_nanos(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let expire = jiff::Timestamp::from_second((now.as_secs() + LEASE_SECONDS) as i64)
            .map_err(|error| ContainerdError::Protocol(error.to_string()))?;
        let header = id.parse().map_err(|_| ContainerdError::Protocol(format!("lease {id}")))?;
        let request =
            leases_api::CreateRequest { id, labels: [(LEASE_EXPIRE.to_owned(), expire.to_string())].into() };
        let mut client = leases_api::leases_client::LeasesClient::new(self.channel());
        client.create(self.request(request)).await.map_err(ContainerdError::status("give a lease"))?;
        let lease = Lease { id: header, of: Self { lease: None, connection: Arc::clone(&self.connection) } };
        Ok(Self { lease: Some(Arc::new(lease)), connection: Arc::clone(&self.connection) })
    }

    /// Blocks until `work` on this connection is done. May be called on any thread.
    pub fn wait<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        self.connection.runtime.wait(work)
    }

    pub(super) fn channel(&self) -> Channel {
        self.connection.channel.clone()
    }

    /// A request in this namespace, under this lease.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert(NAMESPACE_HEADER, self.connection.namespace.clone());
        if let Some(lease) = &self.lease {
            request.metadata_mut().insert(LEASE_HEADER, lease.id.clone());
        }
        request
    }
}

/// A runtime that may be used and dropped on any thread, those of other runtimes included.
#[derive(Debug)]
struct Background(Option<Runtime>);

impl Background {
    fn wait<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let (done, outcome) = mpsc::channel();
        let runtime = self.0.as_ref().expect("there until the drop");
        runtime.spawn(async move { done.send(work.await) });
        outcome.recv().expect("the work ends with a result")
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Dropping it where it is would block, which tokio's threads answer with a panic.
            runtime.shutdown_background();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let containerd = self.of.clone();
        let id = self.id.to_str().unwrap_or_default().to_owned();
        self.of.wait(async move {
            let request = containerd.request(leases_api::DeleteRequest { id, sync: false });
            let mut leases = leases_api::leases_client::LeasesClient::new(containerd.channel());
            if let Err(status) = client::limited(client::COURTESY, leases.delete(request)).await {
                tracing::debug!(error = client::reason(&status), "the lease stays until it expires");
            }
        });
    }
}
