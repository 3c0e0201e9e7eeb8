//! The configuration file: upstream's keys with upstream's meaning, and our additions in tables of their own.
//!
//! One table per file; each `Default` is the one place of its defaults, with the reason where it is not upstream's. As
//! in upstream, 0 stands for "the default" where a key has one that is not 0, and keys are the same in upper and lower case.
//! Keys of upstream that have no meaning here are known as such (`unused`); other unknown keys are reported, not fatal. A
//! wrong type or a value out of range is fatal.
//!
//! Nothing here reads the environment; plain data after [`load`].

mod blob;
mod cache;
mod content_store;
mod fuse;
mod http;
mod keychain;
mod keys;
mod pack;
mod prefetch;
mod pull_modes;
mod registry;
mod resolver;
mod restart;
mod size;
mod snapshotter;
mod status;
mod storage;
#[cfg(test)]
mod tests;
mod unused;

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use serde::{Deserialize, Serialize};
use toml::de::{DeTable, Deserializer};

pub use blob::Blob;
pub use cache::Cache;
pub use content_store::{ContentStore, StoreType};
pub use fuse::Fuse;
pub use http::Http;
pub use keychain::{CredentialProviders, CriKeychain, KubeconfigKeychain};
pub use pack::{Pack, PackRule};
pub use prefetch::{BackgroundFetch, Prefetch};
pub use pull_modes::{ParallelPull, PullModes, SociV1, SociV2};
pub use registry::RegistrySection;
pub use resolver::{Host, Mirror, Resolver};
pub use restart::Restart;
pub use snapshotter::SnapshotterSection;
pub use status::Status;
pub use storage::Storage;
pub use unused::Unused;

/// Where the file is looked for unless told: the first that exists counts. Managed nodes have it under either name.
pub const DEFAULT_PATHS: [&str; 2] =
    ["/etc/soci-snapshotter-grpc/config.toml", "/etc/soci-snapshotter/config.toml"];

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// How many seconds a Prepare waits until a layer can be served lazily; after that the layer is pulled as a whole.
    pub mount_timeout_sec: i64,
    /// Address for the metrics endpoint: `host:port`, or a path when [`Config::metrics_network`] is `unix`. Empty: none.
    pub metrics_address: String,
    /// `tcp` or `unix`.
    pub metrics_network: String,
    /// No metrics endpoint, whatever the address says.
    pub no_prometheus: bool,
    /// Registry client.
    pub http: Http,
    /// Reads of layer bytes.
    pub blob: Blob,
    /// The file system of lazy layers.
    pub fuse: Fuse,
    /// The rest of an image, after what its workload needs.
    pub background_fetch: BackgroundFetch,
    /// Where indexes and zTOCs are kept.
    pub content_store: ContentStore,
    /// Recorded prefetch artifacts.
    pub prefetch: Prefetch,
    /// Which ways of getting a layer may be used.
    pub pull_modes: PullModes,
    /// Registry hosts.
    pub resolver: Resolver,
    /// Snapshots.
    pub snapshotter: SnapshotterSection,
    /// Credentials that come with a kubelet's pulls.
    pub cri_keychain: CriKeychain,
    /// Credentials in secrets of a cluster.
    pub kubeconfig_keychain: KubeconfigKeychain,
    /// Ours: the kubelet's credential providers.
    pub credential_providers: CredentialProviders,
    /// Ours: the cache of layer bytes.
    pub cache: Cache,
    /// Ours: when disk is given back.
    pub storage: Storage,
    /// Ours: what outlives the process.
    pub restart: Restart,
    /// Ours: fine indexes and working-set packs.
    pub pack: Pack,
    /// Ours: registries without TLS.
    pub registry: RegistrySection,
    /// Ours: what people see of the daemon.
    pub status: Status,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mount_timeout_sec: 30,
            metrics_address: String::new(),
            metrics_network: "tcp".to_owned(),
            no_prometheus: false,
            http: Http::default(),
            blob: Blob::default(),
            fuse: Fuse::default(),
            background_fetch: BackgroundFetch::default(),
            content_store: ContentStore::default(),
            prefetch: Prefetch::default(),
            pull_modes: PullModes::default(),
            resolver: Resolver::default(),
            snapshotter: SnapshotterSection::default(),
            cri_keychain: CriKeychain::default(),
            kubeconfig_keychain: KubeconfigKeychain::default(),
            credential_providers: CredentialProviders::default(),
            cache: Cache::default(),
            storage: Storage::default(),
            restart: Restart::default(),
            pack: Pack::default(),
            registry: RegistrySection::default(),
            status: Status::default(),
        }
    }
}

/// A configuration file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("failed to load config file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The file is not TOML, or a key has a wrong type.
    #[error("config file at {}: failed to parse config", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The parser's words, with line and column.
        #[source]
        source: toml::de::Error,
    },
    /// A key has a value that it cannot have.
    #[error("config key {key}: {reason}")]
    Value {
        /// The key, with its table.
        key: &'static str,
        /// What is wrong.
        reason: String,
    },
}

impl ConfigError {
    fn value(key: &'static str, reason: impl Into<String>) -> Self {
        Self::Value { key, reason: reason.into() }
    }
}

/// A configuration and what there is to say about its file.
#[derive(Debug)]
pub struct Loaded {
    /// The effective configuration.
    pub config: Config,
    /// Keys of the file that are not known here, as `table.key`.
    pub unknown_keys: Vec<String>,
    /// Keys of the file that are upstream's and have no meaning here.
    pub unused_keys: Vec<Unused>,
    /// The file; `None` when there is none.
    pub path: Option<PathBuf>,
}

/// Reads the file at `path`. Without a path, the default file, which may be absent.
pub fn load(path: Option<&Path>) -> Result<Loaded, ConfigError> {
    let defaults = DEFAULT_PATHS.map(Path::new);
    let candidates = path.as_ref().map_or(&defaults[..], std::slice::from_ref);
    for candidate in candidates {
        match fs::read_to_string(candidate) {
            Ok(text) => {
                return Ok(Loaded { path: Some(candidate.to_path_buf()), ..parse(&text, candidate)? });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.is_none() => {}
            Err(source) => return Err(ConfigError::Read { path: candidate.to_path_buf(), source }),
        }
    }
    parse("", defaults[0])
}

/// Reads the text of a configuration file; `path` is for error messages.
pub fn parse(text: &str, path: &Path) -> Result<Loaded, ConfigError> {
    let parse_error = |mut source: toml::de::Error| {
        source.set_input(Some(text));
        ConfigError::Parse { path: path.to_path_buf(), source }
    };
    let mut file = DeTable::parse(text).map_err(parse_error)?;
    keys::fold_case(file.get_mut());
    let unused_keys = keys::unused(file.get_ref());
    let mut unknown_keys = Vec::new();
    let mut config: Config = serde_ignored::deserialize(Deserializer::from(file), |key| {
        let key = key.to_string();
        if !keys::is_unused(&key) {
            unknown_keys.push(key);
        }
    })
    .map_err(parse_error)?;
    config.fill()?;
    Ok(Loaded { config, unknown_keys, unused_keys, path: None })
}

impl Config {
    /// Puts defaults where the file has 0, and refuses what cannot be.
    fn fill(&mut self) -> Result<(), ConfigError> {
        default_if_zero(&mut self.mount_timeout_sec, Self::default().mount_timeout_sec);
        if self.mount_timeout_sec < 0 {
            return Err(ConfigError::value("mount_timeout_sec", "must not be negative"));
        }
        if self.metrics_network.is_empty() {
            self.metrics_network = Self::default().metrics_network;
        }
        if !matches!(self.metrics_network.as_str(), "tcp" | "unix") {
            return Err(ConfigError::value("metrics_network", "must be \"tcp\" or \"unix\""));
        }
        self.http.fill();
        self.blob.fill();
        self.fuse.fill()?;
        self.restart.fill()?;
        self.background_fetch.fill()?;
        self.prefetch.fill()?;
        self.cri_keychain.fill();
        self.resolver.fill();
        self.resolver.check()?;
        self.pack.fill()?;
        self.storage.check()?;
        self.cache.fill()
    }

    /// How long a Prepare waits for a lazy layer.
    pub fn mount_timeout(&self) -> Duration {
        Duration::from_secs(self.mount_timeout_sec.unsigned_abs())
    }

    /// The file that says the same.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }
}

fn default_if_zero(value: &mut i64, default: i64) {
    if *value == 0 {
        *value = default;
    }
}

/// Milliseconds that cannot be negative once the table was filled.
fn milliseconds(value: i64) -> Duration {
    Duration::from_millis(u64::try_from(value).unwrap_or(0))
}
