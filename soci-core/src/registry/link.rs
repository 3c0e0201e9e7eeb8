//! Connections: the HTTP clients, one for each set of certificates and limits.
//!
//! [`Links`] owns them; an equal set gets the same [`Link`], whose connections are then shared.

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use parking_lot::Mutex;
use reqwest::Url;

use super::error::{RegistryError, printable};
use super::hosts::{Tls, is_loopback};
use super::options::{RegistryOptions, Timeouts};

/// With more links than this, those that nobody uses are forgotten.
const MAX_IDLE_LINKS: usize = 16;

/// A way to make connections, with the headers that go along.
#[derive(Clone)]
pub(crate) struct Link(Arc<Parts>);

struct Parts {
    maker: Maker,
    /// Made when it is needed first: trust roots take long to read.
    client: Mutex<Option<Made>>,
    /// For this machine's own addresses, which no proxy can reach.
    direct: Mutex<Option<Made>>,
    headers: HeaderMap,
}

/// A client that has been made.
struct Made {
    client: reqwest::Client,
    /// Why it has none of the system's trust roots; taken when it has been told.
    rootless: Option<reqwest::Error>,
}

impl Link {
    /// The client for `url`.
    pub(crate) fn client(&self, url: &Url) -> Result<reqwest::Client, RegistryError> {
        let direct = is_loopback(url.host_str().unwrap_or_default());
        let mut place = if direct { self.0.direct.lock() } else { self.0.client.lock() };
        let made = match &mut *place {
            Some(made) => made,
            empty => {
                let made = self.0.maker.client(direct).map_err(|source| RegistryError::Setup {
                    url: printable(url),
                    source: Arc::new(source),
                })?;
                empty.insert(made)
            }
        };
        // Over plain HTTP nobody needs them.
        if url.scheme() == "https"
            && let Some(error) = made.rootless.take()
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "no system certificates");
        }
        Ok(made.client.clone())
    }

    /// Makes the client that most registries need. Whoever needs one that could not be made meets the reason.
    pub(crate) fn make_ahead(&self) {
        let mut place = self.0.client.lock();
        if place.is_none() {
            *place = self.0.maker.client(false).ok();
        }
    }

    /// Headers for the server itself, not for those it redirects to.
    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.0.headers
    }

    /// Time limits.
    pub(crate) fn timeouts(&self) -> Timeouts {
        self.0.maker.timeouts
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("timeouts", &self.0.maker.timeouts).finish_non_exhaustive()
    }
}

impl PartialEq for Link {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Link {}

impl Hash for Link {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

#[derive(PartialEq, Eq, Hash)]
struct Settings {
    tls: Tls,
    connect: Duration,
    whole: Duration,
    headers: Vec<(String, Vec<u8>)>,
}

/// All links.
pub(crate) struct Links {
    user_agent: String,
    timeouts: Timeouts,
    max_idle_per_host: usize,
    made: Mutex<HashMap<Settings, Link>>,
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links").field("user_agent", &self.user_agent).finish_non_exhaustive()
    }
}

impl Links {
    pub(crate) fn new(options: &RegistryOptions) -> Self {
        // Fails when the program chose a provider already: then that one is used.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self {
            user_agent: options.user_agent.clone(),
            timeouts: options.timeouts,
            max_idle_per_host: options.max_idle_per_host,
            made: Mutex::default(),
        }
    }

    /// The link with these certificates, limits (connecting, whole exchange) and headers.
    pub(crate) fn link(
        &self,
        tls: &Tls,
        (connect, whole): (Option<Duration>, Option<Duration>),
        headers: &HeaderMap,
    ) -> reqwest::Result<Link> {
        let timeouts = Timeouts {
            connect: connect.unwrap_or(self.timeouts.connect),
            whole: whole.unwrap_or(self.timeouts.whole),
            ..self.timeouts
        };
        let settings = Settings {
            tls: tls.clone(),
            connect: timeouts.connect,
            whole: timeouts.whole,
            headers: headers
                .iter()
                .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_owned()))
                .collect(),
        };
        let mut made = self.made.lock();
        if let Some(link) = made.get(&settings) {
            return Ok(link.clone());
        }
        let mut roots = Vec::new();
        for pem in &tls.roots {
            roots.extend(reqwest::Certificate::from_pem_bundle(pem)?);
        }
        let maker = Maker {
            user_agent: self.user_agent.clone(),
            max_idle_per_host: self.max_idle_per_host,
            timeouts,
            roots,
            identity: tls.identity.as_deref().map(reqwest::Identity::from_pem).transpose()?,
            skip_verify: tls.skip_verify,
        };
        let (client, direct, headers) = (Mutex::default(), Mutex::default(), headers.clone());
        let link = Link(Arc::new(Parts { maker, client, direct, headers }));
        // Settings change with files of certificates: what only the table has may be of files as they were.
        if made.len() >= MAX_IDLE_LINKS {
            made.retain(|_, link| Arc::strong_count(&link.0) > 1);
        }
        made.insert(settings, link.clone());
        Ok(link)
    }
}

/// Makes the HTTP clients of a link.
struct Maker {
    user_agent: String,
    max_idle_per_host: usize,
    timeouts: Timeouts,
    roots: Vec<reqwest::Certificate>,
    identity: Option<reqwest::Identity>,
    skip_verify: bool,
}

impl Maker {
    /// A client, with the system's trust roots if there are any; `direct`: never through a proxy.
    fn client(&self, direct: bool) -> reqwest::Result<Made> {
        match self.builder(direct).tls_certs_merge(self.roots.clone()).build() {
            Ok(client) => Ok(Made { client, rootless: None }),
            // A machine without any trust root can still use plain HTTP registries, and its own roots.
            Err(error) => {
                let client = self.builder(direct).tls_certs_only(self.roots.clone()).build()?;
                Ok(Made { client, rootless: Some(error) })
            }
        }
    }

    fn builder(&self, direct: bool) -> reqwest::ClientBuilder {
        let mut builder = reqwest::Client::builder()
            .user_agent(&self.user_agent)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(self.timeouts.connect)
            .pool_max_idle_per_host(self.max_idle_per_host)
            .pool_idle_timeout(Duration::from_secs(90))
            .tcp_nodelay(true)
            .tcp_keepalive(Duration::from_secs(30))
            .http2_keep_alive_interval(Duration::from_secs(10))
            .http2_keep_alive_timeout(Duration::from_secs(10))
            .http2_initial_stream_window_size(4 << 20)
            .http2_initial_connection_window_size(32 << 20)
            .tls_danger_accept_invalid_certs(self.skip_verify)
            .referer(false);
        if let Some(identity) = &self.identity {
            builder = builder.identity(identity.clone());
        }
        if direct { builder.no_proxy() } else { builder }
    }
}
