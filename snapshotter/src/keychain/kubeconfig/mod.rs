//! Credentials in a cluster's secrets of type `kubernetes.io/dockerconfigjson`, through the API server of a kubeconfig.
//!
//! [`Kubeconfig`] owns the secrets of the last list, in memory. They are listed when somebody asks and the last list is old,
//! or what it had was refused; nobody asks the API server while nobody asks for a credential. What must always hold: one list
//! at a time, with a limit of time and bytes; one that fails changes nothing, and is not repeated at once.

mod file;
mod secrets;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use soci_core::error::chain;
use soci_core::registry::{Credential, DockerAuths, Issued, Keychain, KeychainError};
use tokio::sync::Mutex;

/// How old a list gets.
const KEPT: Duration = Duration::from_mins(1);
/// How long after a list, also one that failed, the next may be made for a credential that was refused.
const REST: Duration = Duration::from_secs(5);

/// The secrets of a cluster.
#[derive(Debug)]
pub struct Kubeconfig {
    path: PathBuf,
    listed: Mutex<Listed>,
}

#[derive(Debug, Default)]
struct Listed {
    /// When, and whether it was done.
    last: Option<(Instant, bool)>,
    auths: Vec<DockerAuths>,
}

impl Kubeconfig {
    /// Asks nobody anything yet; the file may come later.
    pub fn new(path: PathBuf) -> Self {
        Self { path, listed: Mutex::default() }
    }

    async fn find(
        &self,
        host: &str,
        repository: &str,
        refused: &[Credential],
    ) -> Result<Issued, KeychainError> {
        let mut listed = self.listed.lock().await;
        let found = listed.find(host, repository, refused);
        let is_good = matches!(&found, Some(credential) if !refused.contains(credential));
        let is_due = listed.last.is_none_or(|(at, done)| {
            at.elapsed() >= if !done || !is_good && !refused.is_empty() { REST } else { KEPT }
        });
        if !is_due {
            return Ok(found.unwrap_or(Credential::Anonymous).into());
        }
        match secrets::list(&self.path).await {
            Ok(auths) => {
                *listed = Listed { last: Some((Instant::now(), true)), auths };
                let found = listed.find(host, repository, refused);
                Ok(found.unwrap_or(Credential::Anonymous).into())
            }
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(kubeconfig = %self.path.display(), error, "secrets cannot be listed");
                listed.last = Some((Instant::now(), false));
                match found {
                    Some(credential) => Ok(credential.into()),
                    None => {
                        Err(KeychainError::Other(format!("list secrets by {}: {error}", self.path.display())))
                    }
                }
            }
        }
    }
}

impl Listed {
    /// The first credential that was not refused, else the first.
    fn find(&self, host: &str, repository: &str, refused: &[Credential]) -> Option<Credential> {
        let mut again = None;
        for auths in &self.auths {
            match auths.credential(host, repository) {
                Ok(Credential::Anonymous) | Err(_) => {}
                Ok(credential) if refused.contains(&credential) => again = again.or(Some(credential)),
                Ok(credential) => return Some(credential),
            }
        }
        again
    }
}

impl Keychain for Kubeconfig {
    fn credential<'a>(
        &'a self,
        host: &'a str,
        repository: &'a str,
        refused: &'a [Credential],
    ) -> BoxFuture<'a, Result<Issued, KeychainError>> {
        self.find(host, repository, refused).boxed()
    }
}

#[cfg(test)]
mod tests;
