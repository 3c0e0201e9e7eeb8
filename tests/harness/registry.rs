//! An OCI registry in this process, with the habits of real ones as switches.
//!
//! [`TestRegistry`] owns three servers on loopback ports of their own (the registry, a download server it may
//! redirect to, a token server), their content, and a log of every request. It runs on a runtime of its own,
//! so tests may block. Dropping it ends all three.

mod auth;
mod habits;
mod referrers;
mod serve;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use soci_core::digest::Digest;
use soci_core::registry::{Credential, FixedCredential, RegistryOptions, RetryPolicy};
use tokio::runtime::Runtime;

pub use habits::{AuthMode, Habits, Ranges, Referrers};

use crate::faults::Faults;

/// User name that the registry knows.
pub const USER: &str = "someone";
/// The user's password.
pub const PASSWORD: &str = "s3cret:with:colons";
/// The user's identity token (OAuth2 refresh token).
pub const IDENTITY_TOKEN: &str = "identity-of-someone";

/// Which of the three servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// The registry itself.
    Registry,
    /// The download server that blob requests are redirected to.
    Cdn,
    /// The token server.
    Tokens,
}

/// One logged request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Which server got it.
    pub server: Server,
    /// HTTP method.
    pub method: String,
    /// Path with query.
    pub path: String,
    /// Range header.
    pub range: Option<String>,
    /// Whether it carried an Authorization header.
    pub authorized: bool,
    /// Number of its Authorization headers.
    pub credentials: usize,
    /// Header `x-custom`.
    pub custom: Option<String>,
    /// Status of the answer.
    pub status: u16,
}

#[derive(Debug, Default)]
struct Content {
    blobs: HashMap<Digest, Bytes>,
    /// (repository, tag or digest) to media type and bytes.
    manifests: HashMap<(String, String), (String, Bytes)>,
    uploads: HashMap<u64, Vec<u8>>,
    /// Tokens in force, with their scopes.
    tokens: HashMap<String, String>,
    /// Blobs of which a part was asked for.
    parted: HashSet<Digest>,
}

/// What the three servers share.
#[derive(Debug)]
struct State {
    habits: Mutex<Habits>,
    addresses: [SocketAddr; 3],
    content: Mutex<Content>,
    log: Mutex<Vec<Request>>,
    faults: Faults,
    /// Part of each redirect; the download server takes only the newest.
    signature: AtomicU64,
    serial: AtomicU64,
    connections: [AtomicU64; 3],
    /// Bytes of bodies.
    served: AtomicU64,
}

/// A running registry.
#[derive(Debug)]
pub struct TestRegistry {
    state: Arc<State>,
    runtime: Option<Runtime>,
}

impl TestRegistry {
    /// An open registry that serves its blobs itself.
    pub fn start() -> Self {
        Self::with(Habits::default())
    }

    /// A client that has its credential and gives up soon.
    pub fn client(&self) -> RegistryOptions {
        let credential = Credential::Basic { user: USER.to_owned(), password: PASSWORD.to_owned() };
        RegistryOptions {
            keychain: Arc::new(FixedCredential::new(self.host(), credential)),
            retry: RetryPolicy {
                max_retries: 2,
                min_wait: Duration::from_millis(1),
                ..RetryPolicy::default()
            },
            ..RegistryOptions::default()
        }
    }

    /// An open registry on a port of this loopback address (`ADDRESS:0`).
    pub fn on(address: &str) -> Self {
        Self::at(address, Habits::default())
    }

    /// A registry with these habits.
    pub fn with(habits: Habits) -> Self {
        Self::at("127.0.0.1:0", habits)
    }

    fn at(address: &str, habits: Habits) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("test-registry")
            .enable_all()
            .build()
            .expect("a runtime can be made");
        let bind = || std::net::TcpListener::bind(address).expect("a loopback port is free");
        let listeners = [bind(), bind(), bind()];
        let addresses = [0, 1, 2].map(|i: usize| listeners[i].local_addr().expect("a bound socket"));
        let state = Arc::new(State {
            habits: Mutex::new(habits),
            addresses,
            content: Mutex::default(),
            log: Mutex::default(),
            faults: Faults::default(),
            signature: AtomicU64::new(1),
            serial: AtomicU64::new(1),
            connections: Default::default(),
            served: AtomicU64::new(0),
        });
        for (listener, server) in listeners.into_iter().zip([Server::Registry, Server::Cdn, Server::Tokens]) {
            serve::spawn(&runtime, listener, server, Arc::clone(&state));
        }
        Self { state, runtime: Some(runtime) }
    }

    /// `127.0.0.1:PORT` of the registry.
    pub fn host(&self) -> String {
        self.state.host(Server::Registry)
    }

    /// `host/repository`.
    pub fn image(&self, repository: &str) -> String {
        format!("{}/{repository}", self.host())
    }

    /// Its faults.
    pub fn faults(&self) -> &Faults {
        &self.state.faults
    }

    /// Changes its habits from now on.
    pub fn change(&self, change: impl FnOnce(&mut Habits)) {
        change(&mut self.state.habits.lock());
    }

    /// Puts a blob into every repository.
    pub fn put_blob(&self, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(&bytes);
        self.state.content.lock().blobs.insert(digest, bytes);
        digest
    }

    /// Puts a manifest under its digest and, if given, a tag.
    pub fn put_manifest(
        &self,
        repository: &str,
        tag: Option<&str>,
        media_type: &str,
        raw: impl Into<Bytes>,
    ) -> Digest {
        let raw = raw.into();
        let digest = Digest::of(&raw);
        let mut content = self.state.content.lock();
        for reference in tag.map(ToOwned::to_owned).into_iter().chain([digest.to_string()]) {
            content
                .manifests
                .insert((repository.to_owned(), reference), (media_type.to_owned(), raw.clone()));
        }
        digest
    }

    /// Answers requests for `reference` with this manifest, whatever its digest is.
    pub fn serve_as(&self, repository: &str, reference: &str, media_type: &str, raw: impl Into<Bytes>) {
        let key = (repository.to_owned(), reference.to_owned());
        self.state.content.lock().manifests.insert(key, (media_type.to_owned(), raw.into()));
    }

    /// The blob with this digest.
    pub fn blob(&self, digest: &Digest) -> Option<Bytes> {
        self.state.content.lock().blobs.get(digest).cloned()
    }

    /// Media type and bytes of a manifest.
    pub fn manifest(&self, repository: &str, reference: &str) -> Option<(String, Bytes)> {
        let key = (repository.to_owned(), reference.to_owned());
        self.state.content.lock().manifests.get(&key).cloned()
    }

    /// Removes what a tag or digest names, as if it had never been pushed.
    pub fn remove_manifest(&self, repository: &str, reference: &str) {
        self.state.content.lock().manifests.remove(&(repository.to_owned(), reference.to_owned()));
    }

    /// Removes a blob.
    pub fn remove_blob(&self, digest: &Digest) {
        self.state.content.lock().blobs.remove(digest);
    }

    /// Every redirect given out so far stops working.
    pub fn expire_redirects(&self) {
        self.state.signature.fetch_add(1, SeqCst);
    }

    /// Every token given out so far stops working.
    pub fn revoke_tokens(&self) {
        self.state.content.lock().tokens.clear();
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.state.log.lock().clone()
    }

    /// Requests so far to one server.
    pub fn count(&self, server: Server) -> usize {
        self.state.log.lock().iter().filter(|request| request.server == server).count()
    }

    /// TCP connections so far to one server.
    pub fn connections(&self, server: Server) -> u64 {
        self.state.connections[server as usize].load(SeqCst)
    }

    /// Bytes of the bodies of all answers so far.
    pub fn bytes_served(&self) -> u64 {
        self.state.served.load(SeqCst)
    }

    /// Empties the log.
    pub fn forget_requests(&self) {
        self.state.log.lock().clear();
    }

    /// Ends all servers: further connections are refused.
    pub fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for TestRegistry {
    fn drop(&mut self) {
        self.stop();
    }
}

impl State {
    fn habits(&self) -> Habits {
        self.habits.lock().clone()
    }

    fn host(&self, server: Server) -> String {
        self.addresses[server as usize].to_string()
    }

    fn next_serial(&self) -> u64 {
        self.serial.fetch_add(1, SeqCst)
    }
}
