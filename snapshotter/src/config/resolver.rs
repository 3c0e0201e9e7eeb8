//! `[resolver]`: registry hosts and their mirrors.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::default_if_zero;

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
    pub(super) fn fill(&mut self) {
        default_if_zero(&mut self.auth_client_ttl_sec, Self::default().auth_client_ttl_sec);
    }
}
