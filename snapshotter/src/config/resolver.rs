//! `[resolver]`: registry hosts and their mirrors.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use soci_core::registry::Server;

use super::{ConfigError, default_if_zero};

/// Longer than any transfer.
const NO_LIMIT: Duration = Duration::from_hours(24 * 365);

/// Registry hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resolver {
    /// Seconds for which credentials of a registry are reused. Negative: for ever.
    pub auth_client_ttl_sec: i64,
    /// By registry, as images name it.
    pub host: BTreeMap<String, Host>,
}

/// One registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Host {
    /// Where else its layers are, tried in this order before the registry itself.
    pub mirrors: Vec<Mirror>,
}

/// A mirror of a registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mirror {
    /// `https://host[:port]`, or `host[:port]`.
    pub host: String,
    /// Plain HTTP.
    pub insecure: bool,
    /// Seconds for a request. 0: as in `[http]`. Negative: no limit.
    pub request_timeout_sec: i64,
}

impl Default for Resolver {
    fn default() -> Self {
        Self { auth_client_ttl_sec: 3600, host: BTreeMap::new() }
    }
}

impl Resolver {
    /// The mirrors of each registry. An address that cannot be one was refused when the file was read.
    pub fn mirrors(&self) -> BTreeMap<String, Vec<Server>> {
        let servers = |host: &Host| host.mirrors.iter().filter_map(|mirror| mirror.server().ok()).collect();
        self.host.iter().map(|(name, host)| (name.clone(), servers(host))).collect()
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let all = self.host.values().flat_map(|host| &host.mirrors);
        all.map(Mirror::server).collect::<Result<Vec<_>, _>>().map(drop).map_err(|reason| {
            ConfigError::value("resolver.host.*.mirrors", format!("a mirror's host is no address: {reason}"))
        })
    }

    /// How long a credential is used before its source is asked again.
    pub fn credential_lifetime(&self) -> Duration {
        u64::try_from(self.auth_client_ttl_sec).map_or(NO_LIMIT, Duration::from_secs)
    }

    pub(super) fn fill(&mut self) {
        default_if_zero(&mut self.auth_client_ttl_sec, Self::default().auth_client_ttl_sec);
    }
}

impl Mirror {
    /// As upstream, HTTP is spoken only where it is allowed, whatever scheme the address has.
    fn server(&self) -> Result<Server, String> {
        let mut server = Server::parse(&self.host)?;
        server.plain = self.insecure || server.is_loopback();
        server.timeouts.1 = match self.request_timeout_sec {
            0 => None,
            1.. => Some(Duration::from_secs(self.request_timeout_sec.unsigned_abs())),
            _ => Some(NO_LIMIT),
        };
        Ok(server)
    }
}
