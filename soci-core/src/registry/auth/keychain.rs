//! Where credentials come from.
//!
//! A [`Keychain`] owns its source. Invariant: `Debug` of a [`Credential`] shows no secret.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

/// What to show to a registry or its token server.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// Nothing: public images.
    Anonymous,
    /// User name and password (or access token in its place).
    Basic {
        /// User name.
        user: String,
        /// Password.
        password: String,
    },
    /// OAuth2 refresh token, exchanged at the token server.
    IdentityToken(String),
    /// Bearer token shown to the registry as it is.
    RegistryToken(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("Anonymous"),
            Self::Basic { user, .. } => f.debug_struct("Basic").field("user", user).finish_non_exhaustive(),
            Self::IdentityToken(_) => f.write_str("IdentityToken(..)"),
            Self::RegistryToken(_) => f.write_str("RegistryToken(..)"),
        }
    }
}

/// Why a source of credentials failed. Having no credential for a host is not a failure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeychainError {
    /// The configuration file exists and cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// The configuration file is not what it should be.
    #[error("cannot parse {path}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: serde_json::Error,
    },
    /// An `auth` entry is not base64 of `user:password`.
    #[error("the auth entry of {host} is not base64 of user:password")]
    Malformed {
        /// Registry.
        host: String,
    },
    /// A credential helper could not be run.
    #[error("cannot run {helper}")]
    Spawn {
        /// Name of the program.
        helper: String,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// A credential helper ran and failed.
    #[error("{helper} failed: {reason}")]
    Helper {
        /// Name of the program.
        helper: String,
        /// Its own words, cut short, or what was wrong with its output.
        reason: String,
    },
    /// A credential helper did not answer in time; it was killed.
    #[error("{helper} did not answer within {limit:?}")]
    TimedOut {
        /// Name of the program.
        helper: String,
        /// Time given to it.
        limit: Duration,
    },
    /// Failure of a source outside this crate.
    #[error("{0}")]
    Other(String),
}

/// A source of credentials.
pub trait Keychain: fmt::Debug + Send + Sync {
    /// The credential for `repository` on `host` (`host` or `host:port`, `index.docker.io` for Docker Hub);
    /// [`Credential::Anonymous`] when there is none.
    fn credential<'a>(
        &'a self,
        host: &'a str,
        repository: &'a str,
    ) -> BoxFuture<'a, Result<Credential, KeychainError>>;
}

/// No credential for anybody.
#[derive(Debug, Clone, Copy)]
pub struct Anonymous;

impl Keychain for Anonymous {
    fn credential<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<Credential, KeychainError>> {
        Box::pin(async { Ok(Credential::Anonymous) })
    }
}

/// One credential for one registry, as given on a command line.
#[derive(Debug, Clone)]
pub struct FixedCredential {
    host: String,
    credential: Credential,
}

impl FixedCredential {
    /// `host` as in [`Keychain::credential`].
    pub fn new(host: impl Into<String>, credential: Credential) -> Self {
        Self { host: host.into(), credential }
    }
}

impl Keychain for FixedCredential {
    fn credential<'a>(
        &'a self,
        host: &'a str,
        _: &'a str,
    ) -> BoxFuture<'a, Result<Credential, KeychainError>> {
        let found = if host == self.host { self.credential.clone() } else { Credential::Anonymous };
        Box::pin(async { Ok(found) })
    }
}

/// Several sources, asked in order: the first that has a credential wins, an error stops.
#[derive(Debug, Clone)]
pub struct Keychains(pub Vec<Arc<dyn Keychain>>);

impl Keychain for Keychains {
    fn credential<'a>(
        &'a self,
        host: &'a str,
        repository: &'a str,
    ) -> BoxFuture<'a, Result<Credential, KeychainError>> {
        Box::pin(async move {
            for keychain in &self.0 {
                let credential = keychain.credential(host, repository).await?;
                if credential != Credential::Anonymous {
                    return Ok(credential);
                }
            }
            Ok(Credential::Anonymous)
        })
    }
}
