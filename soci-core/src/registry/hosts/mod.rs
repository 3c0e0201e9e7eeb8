//! From the registry's name in a reference to the servers that are asked, in order: its mirrors, then itself.
//!
//! [`Hosts`] owns what the user said ([`HostPolicy`]) and remembers for a short while what that means for each
//! registry. Invariants: plain HTTP is used only for loopback hosts and hosts that the user listed as such; the
//! registry itself is always the last to be asked, unless the user took that right from it.

mod address;
mod file;
mod policy;
mod resting;
mod server;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use parking_lot::Mutex;
use reqwest::Url;
use tokio::time::Instant;

pub use file::HostsError;
pub use policy::{HOSTS_DIRS, HostPolicy};
pub use server::{Capabilities, Server, Tls};

pub(crate) use address::is_loopback;
pub(crate) use resting::Resting;

use super::error::RegistryError;
use super::link::{Link, Links};
use super::reference::Reference;

/// How long a look at the `hosts.toml` files is good: a change needs no restart.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// How long it is remembered where a registry was that nobody asks.
const FORGOTTEN: Duration = Duration::from_hours(1);

/// One server as it is reached: scheme, authority, and where its API begins.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Endpoint {
    /// `host` or `host:port`, as in the URL.
    pub(crate) host: String,
    /// Spoken to without TLS.
    pub(crate) plain: bool,
    /// Path under which repositories are, usually `/v2`; never ends in a slash.
    root: Arc<str>,
    /// The registry that this server stands in for, in the words of the reference; `None` for the registry itself.
    upstream: Option<Arc<str>>,
    /// What it may be asked for.
    can: Capabilities,
    /// How connections to it are made.
    pub(crate) link: Link,
}

impl Endpoint {
    /// Address of `path` under the API root of `repository`, e.g. `manifests/latest`.
    pub(crate) fn url(&self, repository: &str, path: &str) -> Result<Url, RegistryError> {
        let scheme = if self.plain { "http" } else { "https" };
        let url = format!("{scheme}://{}{}/{repository}/{path}", self.host, self.root);
        let mut url = Url::parse(&url)
            .map_err(|error| RegistryError::Protocol { url: url.clone(), reason: error.to_string() })?;
        if let Some(upstream) = &self.upstream {
            // How containerd tells a mirror of several registries which one is meant.
            url.query_pairs_mut().append_pair("ns", upstream);
        }
        Ok(url)
    }

    /// True when `url` is on this very server, so that our credential may be shown there.
    pub(crate) fn serves(&self, url: &Url) -> bool {
        url.scheme() == if self.plain { "http" } else { "https" }
            && self.url("x", "").is_ok_and(|own| own.origin() == url.origin())
    }
}

/// The servers of one registry, in the order in which they are asked.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    /// As references name it.
    registry: Arc<str>,
    servers: Result<Arc<[Endpoint]>, Arc<HostsError>>,
}

impl Route {
    /// Those that may be asked for `wanted`: the mirrors, and the last one, whose answer is final.
    pub(crate) fn to(&self, wanted: Capabilities) -> Result<(Vec<Endpoint>, Endpoint), RegistryError> {
        let registry = || Arc::clone(&self.registry);
        let endpoints = self
            .servers
            .as_ref()
            .map_err(|source| RegistryError::Hosts { registry: registry(), source: Arc::clone(source) })?;
        let mut able: Vec<_> =
            endpoints.iter().filter(|endpoint| endpoint.can.contains(wanted)).cloned().collect();
        let last = able.pop().ok_or(RegistryError::NotCapable { registry: registry(), wanted })?;
        Ok((able, last))
    }
}

/// All registries.
#[derive(Debug)]
pub(crate) struct Hosts {
    policy: HostPolicy,
    links: Links,
    known: Mutex<HashMap<String, (Instant, Route)>>,
}

impl Hosts {
    pub(crate) fn new(policy: HostPolicy, links: Links) -> Self {
        Self { policy, links, known: Mutex::default() }
    }

    /// Makes the HTTP client of registries of which nothing special was said. Blocking.
    pub(crate) fn make_ahead(&self) {
        if let Ok(link) = self.links.link(&Tls::default(), (None, None), &HeaderMap::new()) {
            link.make_ahead();
        }
    }

    /// The servers of the registry of `reference`. What is older than [`LOOK_AGAIN`] is looked up again, and what nobody has
    /// asked for is forgotten in the end.
    pub(crate) fn route(&self, reference: &Reference) -> Route {
        let is_new = |(since, _): &(Instant, Route)| since.elapsed() < LOOK_AGAIN;
        if let Some((_, route)) = self.known.lock().get(reference.registry()).filter(|known| is_new(known)) {
            return route.clone();
        }
        // Files are read here: nobody else waits for that.
        let found = self.look(reference);
        let mut known = self.known.lock();
        known.retain(|_, (since, _)| since.elapsed() < FORGOTTEN);
        let before =
            known.get(reference.registry()).map(|(_, route)| route).filter(|route| route.servers.is_ok());
        let route = match (found, before) {
            // Who reads now goes on as before, while somebody writes the file.
            (Err(error), Some(before)) => {
                tracing::warn!(registry = reference.registry(), %error, "the servers cannot be looked up, so they stay");
                before.clone()
            }
            (found, _) => {
                let servers = found.map(Into::into).map_err(Arc::new);
                Route { registry: reference.registry().into(), servers }
            }
        };
        known.insert(reference.registry().to_owned(), (Instant::now(), route.clone()));
        route
    }

    fn look(&self, reference: &Reference) -> Result<Vec<Endpoint>, HostsError> {
        let servers = self.policy.servers(reference.registry(), reference.resolve_registry())?;
        servers
            .into_iter()
            .map(|server| {
                let link = self.links.link(&server.tls, server.timeouts, &server.headers);
                let link = link.map_err(|source| HostsError::Tls { host: server.host.clone(), source })?;
                let own =
                    server.host == reference.resolve_registry() || is_docker_hub(reference, &server.host);
                Ok(Endpoint {
                    host: server.host,
                    plain: server.plain,
                    root: server.root.into(),
                    upstream: (!own).then(|| reference.registry().into()),
                    can: server.can,
                    link,
                })
            })
            .collect()
    }
}

/// Docker Hub has a name in references and two for its servers.
fn is_docker_hub(reference: &Reference, host: &str) -> bool {
    reference.registry() == "docker.io" && host == "registry-1.docker.io"
}

#[cfg(test)]
mod tests {
    use super::super::options::RegistryOptions;
    use super::*;

    fn endpoint(reference: &str, plain_http: &[&str]) -> Endpoint {
        let plain_http = plain_http.iter().map(|host| (*host).to_owned()).collect();
        let policy = HostPolicy { plain_http, ..HostPolicy::default() };
        let links = Links::new(&RegistryOptions::default());
        let hosts = Hosts::new(policy, links);
        let route = hosts.route(&reference.parse().expect("a valid reference"));
        route.to(Capabilities::ALL).expect("a server").1
    }

    #[test]
    fn plain_http_is_for_loopback_and_listed_hosts() {
        for reference in
            ["localhost/a", "localhost:5000/a", "127.0.0.1:5000/a", "127.9.9.9:1/a", "x.localhost:1/a"]
        {
            assert!(endpoint(reference, &[]).plain, "{reference}");
        }
        for reference in ["registry.test/a", "10.0.0.1:5000/a", "localhost.test/a", "redis"] {
            assert!(!endpoint(reference, &[]).plain, "{reference}");
        }
        assert!(endpoint("10.0.0.1:5000/a", &["10.0.0.1:5000"]).plain);
        assert!(endpoint("10.0.0.1:5000/a", &["10.0.0.1"]).plain);
        assert!(!endpoint("10.0.0.1:5001/a", &["10.0.0.1:5000"]).plain);
    }

    #[test]
    fn what_nobody_asks_for_is_forgotten() {
        let hosts = Hosts::new(HostPolicy::default(), Links::new(&RegistryOptions::default()));
        hosts.route(&"a.test/x".parse().unwrap());
        hosts.known.lock().get_mut("a.test").unwrap().0 -= FORGOTTEN;
        hosts.route(&"b.test/x".parse().unwrap());
        assert_eq!(hosts.known.lock().keys().collect::<Vec<_>>(), ["b.test"]);
    }

    #[test]
    fn credentials_are_for_the_same_scheme_host_and_port() {
        let registry = endpoint("registry.test/a", &[]);
        let serves = |url: &str| registry.serves(&Url::parse(url).expect("a valid URL"));
        assert!(serves("https://registry.test/v2/a/blobs/x"));
        assert!(serves("https://registry.test:443/elsewhere"));
        assert!(!serves("http://registry.test/v2/"));
        assert!(!serves("https://registry.test:8443/v2/"));
        assert!(!serves("https://cdn.registry.test/v2/"));
    }

    #[test]
    fn impossible_hosts_are_errors() {
        assert!(endpoint("registry.test:99999/a", &[]).url("a", "tags/list").is_err());
    }
}
