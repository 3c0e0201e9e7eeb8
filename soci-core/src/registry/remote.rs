//! One repository as it is reached: the servers that are asked for it, and calls to them.
//!
//! [`Remote`] is cheap to clone. It owns nothing: what is learned of servers is the registry client's.

use std::sync::Arc;

use http::Method;

use super::access::{Access, Action};
use super::error::RegistryError;
use super::hosts::{Capabilities, Endpoint, Hosts, Route};
use super::reference::Reference;
use super::traffic::{RequestKind, Traffic};
use super::transport::Transport;
use super::wire::Call;
use crate::digest::Digest;

/// A repository of a registry.
#[derive(Debug, Clone)]
pub(super) struct Remote {
    pub(super) transport: Arc<Transport>,
    pub(super) hosts: Arc<Hosts>,
    pub(super) reference: Reference,
    /// Registry host, with port if it has one.
    pub(super) host: Arc<str>,
    /// Name of the repository within the registry.
    pub(super) name: Arc<str>,
    /// Counts what is asked through this, too.
    pub(super) meter: Option<Arc<Traffic>>,
}

impl Remote {
    /// The servers as they are to be asked now: certificates and mirrors may change while a layer is mounted.
    pub(super) fn route(&self) -> Route {
        self.hosts.route(&self.reference)
    }

    /// The name of a blob for error messages.
    pub(super) fn blob_name(&self, digest: &Digest) -> String {
        format!("{}/{}/blobs/{digest}", self.host, self.name)
    }

    /// The server that is written to: the registry itself, where it may be. (containerd writes to the first mirror whose
    /// `hosts.toml` does not forbid it, which is seldom what was meant.)
    pub(super) fn writer(&self) -> Result<Endpoint, RegistryError> {
        Ok(self.route().to(Capabilities::PUSH)?.1)
    }

    pub(super) fn access(&self, server: &Endpoint, action: Action) -> Access {
        Access { endpoint: server.clone(), repository: Arc::clone(&self.name), action }
    }

    /// A call to `path` of this repository's API on `server`.
    pub(super) fn call(
        &self,
        server: &Endpoint,
        method: Method,
        path: &str,
        kind: RequestKind,
        action: Action,
    ) -> Result<Call, RegistryError> {
        let mut call = Call::get(server.url(&self.name, path)?, kind, &server.link);
        call.method = method;
        call.meter.clone_from(&self.meter);
        call.access = Some(self.access(server, action));
        Ok(call)
    }
}
