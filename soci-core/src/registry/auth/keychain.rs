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

/// A credential, and how long it may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The credential.
    pub credential: Credential,
    /// From now on; `None` when its source does not say.
    pub lifetime: Option<Duration>,
}

impl From<Credential> for Issued {
    fn from(credential: Credential) -> Self {
        Self { credential, lifetime: None }
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
    /// [`Credential::Anonymous`] when there is none. `refused` are those that the registry, or its token server, has just
    /// refused: a source that remembers one of them asks anew. It may answer with one of them if it has no other.
    fn credential<'a>(
        &'a self,
        host: &'a str,
        repository: &'a str,
        refused: &'a [Credential],
    ) -> BoxFuture<'a, Result<Issued, KeychainError>>;
}

/// No credential for anybody.
#[derive(Debug, Clone, Copy)]
pub struct Anonymous;

impl Keychain for Anonymous {
    fn credential<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
        _: &'a [Credential],
    ) -> BoxFuture<'a, Result<Issued, KeychainError>> {
        Box::pin(async { Ok(Credential::Anonymous.into()) })
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
        _: &'a [Credential],
    ) -> BoxFuture<'a, Result<Issued, KeychainError>> {
        let found = if host == self.host { self.credential.clone() } else { Credential::Anonymous };
        Box::pin(async { Ok(found.into()) })
    }
}

/// Several sources, asked in order: the first that has a credential which was not refused wins. A refused one is given
/// again when nobody has another: the registry may have been wrong. A source that fails is passed over, and its error told
/// when no other has a credential.
#[derive(Debug, Clone)]
pub struct Keychains(pub Vec<Arc<dyn Keychain>>);

impl Keychain for Keychains {
    fn credential<'a>(
        &'a self,
        host: &'a str,
        repository: &'a str,
        refused: &'a [Credential],
    ) -> BoxFuture<'a, Result<Issued, KeychainError>> {
        Box::pin(async move {
            let (mut again, mut failure) = (None, None);
            for keychain in &self.0 {
                match keychain.credential(host, repository, refused).await {
                    Ok(issued) if issued.credential == Credential::Anonymous => {}
                    Ok(issued) if refused.contains(&issued.credential) => again = again.or(Some(issued)),
                    Ok(issued) => return Ok(issued),
                    Err(error) => failure = failure.or(Some(error)),
                }
            }
            match (again, failure) {
                (Some(issued), _) => Ok(issued),
                (None, Some(error)) => Err(error),
                (None, None) => Ok(Credential::Anonymous.into()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Broken;

    impl Keychain for Broken {
        fn credential<'a>(
            &'a self,
            _: &'a str,
            _: &'a str,
            _: &'a [Credential],
        ) -> BoxFuture<'a, Result<Issued, KeychainError>> {
            Box::pin(async { Err(KeychainError::Other("broken".to_owned())) })
        }
    }

    fn token(text: &str) -> Credential {
        Credential::IdentityToken(text.to_owned())
    }

    fn fixed(text: &str) -> Arc<dyn Keychain> {
        Arc::new(FixedCredential::new("r.test", token(text)))
    }

    #[tokio::test]
    async fn sources_are_asked_in_order_and_what_was_refused_comes_last() {
        let all = Keychains(vec![Arc::new(Broken), Arc::new(Anonymous), fixed("a"), fixed("b")]);
        for (refused, expected) in [
            (vec![], "a"),
            (vec![token("a")], "b"),
            (vec![token("b")], "a"),
            (vec![token("b"), token("a")], "a"),
        ] {
            let issued = all.credential("r.test", "x", &refused).await.unwrap();
            assert_eq!(issued.credential, token(expected), "{}", refused.len());
        }
        assert!(matches!(all.credential("other.test", "x", &[]).await, Err(KeychainError::Other(_))));
        let none = Keychains(vec![fixed("a")]).credential("other.test", "x", &[]).await.unwrap();
        assert_eq!(none.credential, Credential::Anonymous);
    }
}
