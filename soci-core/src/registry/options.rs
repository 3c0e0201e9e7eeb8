//! How a [`Registry`](super::Registry) is set up.
//!
//! Plain values, no state. The defaults are those of the `[http]` table of the configuration.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::auth::{Anonymous, Keychain};
use super::hosts::HostPolicy;
use super::retry::RetryPolicy;

/// Time limits of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Making the TCP and TLS connection.
    pub connect: Duration,
    /// From the request to the response header.
    pub header: Duration,
    /// Longest pause between two pieces of a body.
    pub stall: Duration,
    /// A part of a blob of which nothing comes for so long is asked for a second time, while the first request goes on.
    /// `None`: never.
    pub hedge: Option<Duration>,
    /// Whole attempt, body included. Pushes are limited by `stall` alone.
    pub whole: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            header: Duration::from_secs(3),
            stall: Duration::from_secs(30),
            hedge: None,
            whole: Duration::from_mins(5),
        }
    }
}

/// Settings of a [`Registry`](super::Registry).
#[derive(Clone)]
pub struct RegistryOptions {
    /// User-Agent header.
    pub user_agent: String,
    /// Time limits.
    pub timeouts: Timeouts,
    /// Retries.
    pub retry: RetryPolicy,
    /// Which servers stand for which registry, and how they are spoken to.
    pub hosts: HostPolicy,
    /// Where credentials come from.
    pub keychain: Arc<dyn Keychain>,
    /// Some registries answer 403 to a credential that has expired. One at least this old is then obtained anew, once; a
    /// younger one is really forbidden.
    pub credential_fresh: Duration,
    /// A credential that is shown to a registry as it is (Basic) is asked of the keychain again after this, at the latest: its
    /// source may have another one. Tokens live as long as they say.
    pub credential_lifetime: Duration,
    /// Gets a line for each request (`http req GET <address>`) and each answer (`http res 404 Not Found`). Addresses come
    /// without query, which may hold a secret.
    pub watch: Option<fn(&str)>,
    /// Idle connections kept open to one host.
    pub max_idle_per_host: usize,
    /// Answers in place of all servers; waits between retries are then not spread by chance.
    #[cfg(feature = "testing")]
    pub network: Option<Arc<dyn super::network::Network>>,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            user_agent: concat!("soci/", env!("CARGO_PKG_VERSION")).to_owned(),
            timeouts: Timeouts::default(),
            retry: RetryPolicy::default(),
            hosts: HostPolicy::default(),
            keychain: Arc::new(Anonymous),
            credential_fresh: Duration::from_mins(1),
            credential_lifetime: Duration::from_hours(1),
            watch: None,
            max_idle_per_host: 64,
            #[cfg(feature = "testing")]
            network: None,
        }
    }
}

impl fmt::Debug for RegistryOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryOptions")
            .field("user_agent", &self.user_agent)
            .field("timeouts", &self.timeouts)
            .field("retry", &self.retry)
            .field("hosts", &self.hosts)
            .finish_non_exhaustive()
    }
}
