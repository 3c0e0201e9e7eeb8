//! The `auths` of docker's `config.json`, which secrets of Kubernetes have, too: which entry is for which repository.
//!
//! Owns no state but what was parsed. Invariant: `Debug` shows no secret.

use std::collections::HashMap;
use std::fmt;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use super::keychain::{Credential, KeychainError};

/// Credentials by registry, and by beginnings of repositories.
#[derive(Clone, Deserialize, Default)]
#[serde(default)]
pub struct DockerAuths {
    auths: HashMap<String, Entry>,
}

impl fmt::Debug for DockerAuths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.auths.keys()).finish()
    }
}

#[derive(Clone, Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

impl DockerAuths {
    /// Reads `{"auths": {…}}`.
    ///
    /// # Errors
    /// When it is not that. The error quotes nothing.
    pub fn parse(json: &[u8]) -> Result<Self, KeychainError> {
        serde_json::from_slice(json).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            KeychainError::Other(format!("not a docker configuration (line {line}, column {column})"))
        })
    }

    /// The credential for `repository` on `host`.
    ///
    /// # Errors
    /// When the entry for it is malformed.
    pub fn credential(&self, host: &str, repository: &str) -> Result<Credential, KeychainError> {
        for entry in entries_for(&self.auths, host, repository) {
            let credential = entry.credential(host)?;
            if credential != Credential::Anonymous {
                return Ok(credential);
            }
        }
        Ok(Credential::Anonymous)
    }
}

/// User and password from base64 of `user:password`, as entries and messages of CRI have them; `None` when it is not that.
pub fn decode_basic(auth: &str) -> Option<Credential> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let plain = GeneralPurpose::new(&STANDARD, config).decode(auth).ok()?;
    let plain = String::from_utf8(plain).ok()?;
    let (user, password) = plain.split_once(':')?;
    let password = password.trim_end_matches('\0').to_owned();
    Some(Credential::Basic { user: user.to_owned(), password })
}

impl Entry {
    fn credential(&self, host: &str) -> Result<Credential, KeychainError> {
        if !self.registrytoken.is_empty() {
            return Ok(Credential::RegistryToken(self.registrytoken.clone()));
        }
        if !self.identitytoken.is_empty() {
            return Ok(Credential::IdentityToken(self.identitytoken.clone()));
        }
        if !self.auth.is_empty() {
            return decode_basic(&self.auth)
                .ok_or_else(|| KeychainError::Malformed { host: host.to_owned() });
        }
        if !self.username.is_empty() {
            return Ok(Credential::Basic { user: self.username.clone(), password: self.password.clone() });
        }
        Ok(Credential::Anonymous)
    }
}

/// The entries for `repository` on `host`, the one that says most first: a key is `HOST`, `HOST/BEGINNING-OF-REPOSITORY` (of
/// whole names, as podman and skopeo write it), or docker's `https://HOST/v1/`, whose path says nothing.
pub(super) fn entries_for<'a, T>(
    entries: &'a HashMap<String, T>,
    host: &str,
    repository: &str,
) -> Vec<&'a T> {
    let mut fitting: Vec<_> = entries
        .iter()
        .filter_map(|(key, entry)| {
            let address = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
            let (name, path) = address.unwrap_or(key).split_once('/').unwrap_or((address.unwrap_or(key), ""));
            let path = path.trim_end_matches('/');
            let path = if address.is_some() || matches!(path, "v1" | "v2") { "" } else { path };
            let of_host = name == host || is_docker_hub(name) && is_docker_hub(host);
            let of_repository = path.is_empty()
                || repository.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            // Of keys that say as much, the host's own name goes first, and else the smallest, so that the answer is always the
            // same.
            (of_host && of_repository).then_some(((std::cmp::Reverse(path.len()), key != host, key), entry))
        })
        .collect();
    fitting.sort_by_key(|(rank, _)| *rank);
    fitting.into_iter().map(|(_, entry)| entry).collect()
}

pub(super) fn is_docker_hub(host: &str) -> bool {
    matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io")
}
