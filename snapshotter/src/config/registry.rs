//! `[registry]`, ours beside `config_path`, which is that of containerd's CRI table: what upstream's tables have no key for.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use soci_core::registry::HOSTS_DIRS;

/// How registries are reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RegistrySection {
    /// `host` or `host:port` of registries spoken to over plain HTTP. Loopback addresses always are.
    pub plain_http: Vec<String>,
    /// Directories with `HOST/hosts.toml` (mirrors, certificates, headers), separated by colons; the first that knows a
    /// registry counts. One that does not exist says nothing.
    pub config_path: String,
}

impl Default for RegistrySection {
    fn default() -> Self {
        Self { plain_http: Vec::new(), config_path: HOSTS_DIRS.join(":") }
    }
}

impl RegistrySection {
    /// The directories of [`RegistrySection::config_path`].
    pub fn dirs(&self) -> Vec<PathBuf> {
        self.config_path.split(':').filter(|dir| !dir.is_empty()).map(PathBuf::from).collect()
    }
}
