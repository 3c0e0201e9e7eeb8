//! Credentials of the Docker command line: `config.json` and its credential helpers.
//!
//! A [`DockerConfig`] owns only a path; the file is read for each question, so a new `docker login` is seen.
//! Invariant: a helper that does not answer is killed after the time limit.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::auths::{DockerAuths, entries_for, is_docker_hub};
use super::keychain::{Credential, Issued, Keychain, KeychainError};

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
    #[serde(flatten)]
    auths: DockerAuths,
    creds_store: Option<String>,
    cred_helpers: HashMap<String, String>,
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
        file.auths.credential(host, repository)
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
        _: &'a [Credential],
    ) -> BoxFuture<'a, Result<Issued, KeychainError>> {
        Box::pin(async move { self.find(host, repository).await.map(Issued::from) })
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
