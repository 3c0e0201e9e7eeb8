//! `hosts.toml`, containerd's description of the servers of a registry, and docker's directory of certificates.
//!
//! Owns no state. Source: containerd's documentation of registry hosts. Unknown keys are ignored, as containerd does;
//! what is known and wrong is an error, because to ask another server than the one the user meant is worse.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use http::{HeaderName, HeaderValue};
use serde::Deserialize;
use toml::Spanned;

use crate::duration;

use super::server::{API_ROOT, Capabilities, Server, Tls};

/// Why the servers of a registry are not known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostsError {
    /// A file or directory exists and cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The file is not TOML, or a key has another type.
    #[error("cannot parse {path}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A value that cannot be meant.
    #[error("{path}: {key}: {reason}")]
    Value {
        /// The file.
        path: PathBuf,
        /// What the value belongs to.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The certificates cannot be used.
    #[error("certificates for {host}")]
    Tls {
        /// The server.
        host: String,
        /// Cause.
        #[source]
        source: reqwest::Error,
    },
}

#[derive(Deserialize)]
struct File {
    server: Option<String>,
    #[serde(flatten)]
    itself: Host,
    #[serde(default)]
    host: BTreeMap<Spanned<String>, Host>,
}

#[derive(Deserialize, Default)]
struct Host {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany<String>>,
    client: Option<OneOrMany<OneOrMany<String>>>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    override_path: bool,
    dial_timeout: Option<String>,
    #[serde(default)]
    header: BTreeMap<String, OneOrMany<String>>,
}

#[derive(Deserialize, Clone)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

/// What the directory `root` says about the registry `name`, whose own server is `itself`; `None`: nothing.
pub(super) fn read(root: &Path, name: &str, itself: &Server) -> Result<Option<Vec<Server>>, HostsError> {
    let Some(dir) = directories(root, name).into_iter().find(|dir| dir.is_dir()) else { return Ok(None) };
    let path = dir.join("hosts.toml");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(source) if source.kind() == io::ErrorKind::NotFound => {
            let tls = certificates(&dir)?;
            return Ok(Some(vec![Server { tls, ..itself.clone() }]));
        }
        Err(source) => return Err(HostsError::Read { path, source }),
    };
    let file: File = toml::from_str(&text)
        .map_err(|source| HostsError::Parse { path: path.clone(), source: Box::new(source) })?;
    let source = HostsFile { path: &path, dir: &dir };
    let mut hosts: Vec<_> = file.host.into_iter().collect();
    hosts.sort_by_key(|(url, _)| url.span().start);
    let mut servers = Vec::new();
    for (url, host) in hosts {
        let url = url.into_inner();
        let server = source.address(&url, host.override_path)?;
        servers.push(source.server(&url, server, host)?);
    }
    let (key, own) = match file.server.as_deref().map(str::trim).filter(|server| !server.is_empty()) {
        Some(url) => (url.to_owned(), source.address(url, file.itself.override_path)?),
        None => ("server".to_owned(), itself.clone()),
    };
    servers.push(source.server(&key, own, file.itself)?);
    Ok(Some(servers))
}

/// The key of a host without user and password, which do not belong there.
fn without_user(key: &str) -> String {
    let (scheme, rest) = key.split_once("://").map_or(("", key), |(scheme, rest)| (scheme, rest));
    let authority = rest.split('/').next().unwrap_or_default();
    match authority.rfind('@') {
        Some(at) if scheme.is_empty() => rest[at + 1..].to_owned(),
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => key.to_owned(),
    }
}

/// Where a registry's directory may be, as containerd looks for it.
fn directories(root: &Path, name: &str) -> Vec<PathBuf> {
    // The name comes from an image reference, which has no slash and no dots alone before its first slash; still, a
    // component that would lead elsewhere is not followed.
    if name.is_empty() || name.starts_with('.') || name.contains('/') {
        return vec![root.join("_default")];
    }
    let port = name.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    let port = port.filter(|(host, _)| !host.starts_with('[') || host.ends_with(']'));
    let with_port = port.map(|(host, port)| format!("{host}_{port}_"));
    with_port
        .into_iter()
        .chain([name.to_owned(), "_default".to_owned()])
        .map(|name| root.join(name))
        .collect()
}

/// One `hosts.toml`.
struct HostsFile<'a> {
    path: &'a Path,
    dir: &'a Path,
}

impl HostsFile<'_> {
    fn wrong(&self, key: &str, reason: impl Into<String>) -> HostsError {
        HostsError::Value { path: self.path.to_owned(), key: without_user(key), reason: reason.into() }
    }

    fn address(&self, url: &str, override_path: bool) -> Result<Server, HostsError> {
        let mut server = Server::parse(url).map_err(|reason| self.wrong(url, reason))?;
        if override_path
            && let Some(stated) = server.root.strip_suffix(API_ROOT)
            && !url.trim_end_matches('/').ends_with(API_ROOT)
        {
            server.root = stated.to_owned();
        }
        Ok(server)
    }

    fn server(&self, key: &str, address: Server, host: Host) -> Result<Server, HostsError> {
        let mut server = address;
        if let Some(names) = host.capabilities.filter(|names| !names.is_empty()) {
            server.can = names.iter().try_fold(Capabilities::none(), |all, name| match name.as_str() {
                "pull" => Ok(all.with(Capabilities::PULL)),
                "resolve" => Ok(all.with(Capabilities::RESOLVE)),
                "push" => Ok(all.with(Capabilities::PUSH)),
                "referrers" => Ok(all),
                other => Err(self.wrong(key, format!("unknown capability {other:?}"))),
            })?;
        }
        for path in host.ca.map(OneOrMany::into_vec).unwrap_or_default() {
            server.tls.roots.push(self.bytes(&path)?);
        }
        if let Some(client) = host.client {
            server.tls.identity = self.identity(key, client)?;
        }
        server.tls.skip_verify |= host.skip_verify;
        if let Some(text) = host.dial_timeout {
            let limit = duration::parse(text.trim())
                .ok_or_else(|| self.wrong(key, format!("dial_timeout {text:?}")))?;
            server.timeouts.0 = Some(limit);
        }
        for (name, values) in host.header {
            for value in values.into_vec() {
                let header = HeaderName::try_from(&name).ok().zip(HeaderValue::try_from(&value).ok());
                let (name, value) = header.ok_or_else(|| self.wrong(key, format!("header {name:?}")))?;
                server.headers.append(name, value);
            }
        }
        Ok(server)
    }

    /// `"both.pem"`, `["both.pem"]` or `[["cert", "key"]]`; of several pairs the first.
    fn identity(
        &self,
        key: &str,
        client: OneOrMany<OneOrMany<String>>,
    ) -> Result<Option<Vec<u8>>, HostsError> {
        let Some(pair) = client.into_vec().into_iter().next() else { return Ok(None) };
        let mut pem = Vec::new();
        for path in pair.into_vec().iter().filter(|path| !path.is_empty()) {
            pem.extend(self.bytes(path)?);
            pem.push(b'\n');
        }
        if pem.is_empty() { Err(self.wrong(key, "client names no file")) } else { Ok(Some(pem)) }
    }

    fn bytes(&self, path: &str) -> Result<Vec<u8>, HostsError> {
        let path = self.dir.join(path);
        fs::read(&path).map_err(|source| HostsError::Read { path, source })
    }
}

/// Docker's form: `*.crt` are trusted, `NAME.cert` with `NAME.key` is ours.
fn certificates(dir: &Path) -> Result<Tls, HostsError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| HostsError::Read { path, source }
    };
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed(dir))? {
        paths.push(entry.map_err(failed(dir))?.path());
    }
    paths.sort();
    let mut tls = Tls::default();
    for path in paths {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => tls.roots.push(fs::read(&path).map_err(failed(&path))?),
            Some("cert") if tls.identity.is_none() => {
                let key = path.with_extension("key");
                let mut pem = fs::read(&path).map_err(failed(&path))?;
                pem.push(b'\n');
                pem.extend(fs::read(&key).map_err(failed(&key))?);
                tls.identity = Some(pem);
            }
            _ => {}
        }
    }
    Ok(tls)
}
