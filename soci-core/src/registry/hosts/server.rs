//! One server that answers for a registry: where it is, what it may be asked for, and how it is spoken to.
//!
//! Plain values.

use std::fmt;
use std::time::Duration;

use http::HeaderMap;
use reqwest::Url;

use super::address::{host_part, is_loopback};

/// Where the API of a registry begins.
pub(super) const API_ROOT: &str = "/v2";

/// What a server may be asked for: a set.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Capabilities(u8);

impl Capabilities {
    /// Content by digest.
    pub const PULL: Self = Self(1);
    /// What a tag stands for, and which manifests refer to another.
    pub const RESOLVE: Self = Self(2);
    /// Writing.
    pub const PUSH: Self = Self(4);
    /// Everything.
    pub const ALL: Self = Self(7);

    /// Nothing.
    pub const fn none() -> Self {
        Self(0)
    }

    /// These, and those of `other`.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are among these.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [(Self::PULL, "pull"), (Self::RESOLVE, "resolve"), (Self::PUSH, "push")];
        let mut held = names.iter().filter(|(one, _)| self.contains(*one)).map(|(_, name)| *name);
        f.write_str(held.next().unwrap_or("none"))?;
        held.try_for_each(|name| write!(f, ", {name}"))
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Capabilities({self})")
    }
}

/// How a server proves who it is, and we who we are.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Tls {
    /// Certificates (PEM, one or more each) trusted in addition to the system's.
    pub roots: Vec<Vec<u8>>,
    /// Our certificate and its key, PEM, one after the other.
    pub identity: Option<Vec<u8>>,
    /// Believe any server: anybody on the way can read and change what is not checked by digest.
    pub skip_verify: bool,
}

impl Tls {
    /// Trusts what `more` trusts, too, and is known as it is, if it is.
    pub(super) fn add(&mut self, more: &Self) {
        self.roots.extend_from_slice(&more.roots);
        self.identity = more.identity.clone().or_else(|| self.identity.take());
        self.skip_verify |= more.skip_verify;
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("skip_verify", &self.skip_verify).finish_non_exhaustive()
    }
}

/// A server that answers for a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// `host` or `host:port`.
    pub host: String,
    /// Spoken to without TLS.
    pub plain: bool,
    /// Path under which repositories are, without a slash at its end.
    pub root: String,
    /// What it may be asked for.
    pub can: Capabilities,
    /// Certificates.
    pub tls: Tls,
    /// Headers of every request to it.
    pub headers: HeaderMap,
    /// Limits of its own: for connecting, and for a whole exchange.
    pub timeouts: (Option<Duration>, Option<Duration>),
}

impl Server {
    /// The server at `url`: `[http[s]://]HOST[:PORT][/PATH]`. Without a scheme it is HTTPS, on loopback HTTP. A path gets
    /// `/v2` appended unless it ends so.
    ///
    /// # Errors
    /// The reason, when `url` is not such an address.
    pub fn parse(url: &str) -> Result<Self, String> {
        let text = url.trim();
        let with_scheme = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
        let parsed = Url::parse(&with_scheme).map_err(|error| error.to_string())?;
        let host = parsed.host_str().filter(|host| !host.is_empty()).ok_or("it names no host")?;
        let plain = match parsed.scheme() {
            "https" => !text.contains("://") && is_loopback(host),
            "http" => true,
            other => return Err(format!("{other} is not a scheme of registries")),
        };
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err("user and password belong in the docker configuration".to_owned());
        }
        let port = parsed.port().map(|port| format!(":{port}")).unwrap_or_default();
        let path = parsed.path().trim_end_matches('/');
        let root = if path.ends_with(API_ROOT) { path.to_owned() } else { format!("{path}{API_ROOT}") };
        Ok(Self { plain, root, ..Self::named(format!("{host}{port}")) })
    }

    /// Whether it can only be on this machine.
    pub fn is_loopback(&self) -> bool {
        is_loopback(host_part(&self.host))
    }

    /// A registry by its name alone.
    pub(super) fn named(host: String) -> Self {
        Self {
            plain: is_loopback(host_part(&host)),
            host,
            root: API_ROOT.to_owned(),
            can: Capabilities::ALL,
            tls: Tls::default(),
            headers: HeaderMap::new(),
            timeouts: (None, None),
        }
    }
}
