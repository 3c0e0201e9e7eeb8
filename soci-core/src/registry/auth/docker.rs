//! Credentials of the Docker command line: `config.json` and its credential helpers.
//!
//! A [`DockerConfig`] owns only a path; the file is read for each question, so a new `docker login` is seen.
//! Invariant: a helper that does not answer is killed after the time limit.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use futures_util::future::BoxFuture;
use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::keychain::{Credential, Keychain, KeychainError};

/// Docker Hub's name in `config.json` and for helpers.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
/// Longest text of a helper that goes into an error.
const MAX_REASON: usize = 300;

/// The file `config.json` of the Docker command line (also written by podman, skopeo, oras, nerdctl).
#[derive(Debug, Clone)]
pub struct DockerConfig {
    path: PathBuf,
    helper_timeout: Duration,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct File {
    auths: HashMap<String, Entry>,
    creds_store: Option<String>,
    cred_helpers: HashMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

impl DockerConfig {
    /// Time given to a credential helper unless set otherwise.
    pub const HELPER_TIMEOUT: Duration = Duration::from_secs(30);

    /// The file at `path`; a file that does not exist means no credentials.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), helper_timeout: Self::HELPER_TIMEOUT }
    }

    /// The same with another time limit for helpers.
    #[must_use]
    pub fn with_helper_timeout(mut self, limit: Duration) -> Self {
        self.helper_timeout = limit;
        self
    }

    async fn find(&self, host: &str, repository: &str) -> Result<Credential, KeychainError> {
        let text = match tokio::fs::read(&self.path).await {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Credential::Anonymous),
            Err(source) => return Err(KeychainError::Read { path: self.path.clone(), source }),
        };
        let file: File = serde_json::from_slice(&text)
            .map_err(|source| KeychainError::Parse { path: self.path.clone(), source })?;
        let helper = entries_for(&file.cred_helpers, host, repository).into_iter().next();
        let store = file.creds_store.as_ref().filter(|store| !store.is_empty());
        if let Some(helper) = helper.or(store) {
            let credential = match self.ask_helper(helper, host).await {
                // Docker goes on without, and so does every public image.
                Err(KeychainError::Spawn { helper, source }) if source.kind() == io::ErrorKind::NotFound => {
                    tracing::warn!(helper, config = %self.path.display(), "credential helper is not installed");
                    Credential::Anonymous
                }
                answer => answer?,
            };
            if credential != Credential::Anonymous {
                return Ok(credential);
            }
        }
        for entry in entries_for(&file.auths, host, repository) {
            let credential = entry.credential(host)?;
            if credential != Credential::Anonymous {
                return Ok(credential);
            }
        }
        Ok(Credential::Anonymous)
    }

    async fn ask_helper(&self, name: &str, host: &str) -> Result<Credential, KeychainError> {
        let helper = format!("docker-credential-{name}");
        if name.contains('/') {
            return Err(KeychainError::Helper { helper, reason: "its name holds a path".to_owned() });
        }
        let asked = if is_docker_hub(host) { DOCKER_HUB_KEY } else { host };
        let output = match tokio::time::timeout(self.helper_timeout, run(&helper, asked)).await {
            Ok(output) => output.map_err(|source| KeychainError::Spawn { helper: helper.clone(), source })?,
            Err(_) => return Err(KeychainError::TimedOut { helper, limit: self.helper_timeout }),
        };
        if !output.status.success() {
            let said = String::from_utf8_lossy(if output.stdout.is_empty() {
                &output.stderr
            } else {
                &output.stdout
            });
            if said.contains("credentials not found") {
                return Ok(Credential::Anonymous);
            }
            return Err(KeychainError::Helper {
                helper,
                reason: said.trim().chars().take(MAX_REASON).collect(),
            });
        }
        // serde_json's message could quote the secret: only say where it stopped.
        let answer: HelperAnswer =
            serde_json::from_slice(&output.stdout).map_err(|error| KeychainError::Helper {
                helper,
                reason: format!("its output is not a credential (column {})", error.column()),
            })?;
        Ok(match (answer.username.as_str(), answer.secret.as_str()) {
            ("", "") => Credential::Anonymous,
            ("<token>", _) => Credential::IdentityToken(answer.secret),
            _ => Credential::Basic { user: answer.username, password: answer.secret },
        })
    }
}

impl Keychain for DockerConfig {
    fn credential<'a>(
        &'a self,
        host: &'a str,
        repository: &'a str,
    ) -> BoxFuture<'a, Result<Credential, KeychainError>> {
        Box::pin(self.find(host, repository))
    }
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
            let malformed = || KeychainError::Malformed { host: host.to_owned() };
            let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
            let plain = GeneralPurpose::new(&STANDARD, config).decode(&self.auth).map_err(|_| malformed())?;
            let plain = String::from_utf8(plain).map_err(|_| malformed())?;
            let (user, password) = plain.split_once(':').ok_or_else(malformed)?;
            let password = password.trim_end_matches('\0').to_owned();
            return Ok(Credential::Basic { user: user.to_owned(), password });
        }
        if !self.username.is_empty() {
            return Ok(Credential::Basic { user: self.username.clone(), password: self.password.clone() });
        }
        Ok(Credential::Anonymous)
    }
}

/// Runs a helper; dropping the future kills it.
async fn run(helper: &str, host: &str) -> io::Result<std::process::Output> {
    let mut child = Command::new(helper)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its input answers anyway, or fails with its own words.
        let _ = stdin.write_all(host.as_bytes()).await;
    }
    child.wait_with_output().await
}

/// The entries for `repository` on `host`, the one that says most first: a key is `HOST`, `HOST/BEGINNING-OF-REPOSITORY` (of
/// whole names, as podman and skopeo write it), or docker's `https://HOST/v1/`, whose path says nothing.
fn entries_for<'a, T>(entries: &'a HashMap<String, T>, host: &str, repository: &str) -> Vec<&'a T> {
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

fn is_docker_hub(host: &str) -> bool {
    matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io")
}
