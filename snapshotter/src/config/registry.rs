//! `[registry]`, ours: what upstream's tables have no key for.

use serde::{Deserialize, Serialize};

/// Registries without TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Registry {
    /// `host` or `host:port` of registries spoken to over plain HTTP. Loopback addresses always are.
    pub plain_http: Vec<String>,
}
