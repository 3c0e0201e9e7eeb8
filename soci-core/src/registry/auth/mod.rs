//! Authentication: which Authorization header to send to which registry for which repository.
//!
//! [`Auth`] owns what was learned from each registry: its challenge, and one token for each repository and
//! action. Invariants: a credential or token goes to the registry it is for and to the token server that
//! this registry names, nowhere else; one exchange at a time for one repository, which all waiters share.

mod challenge;
mod docker;
mod keychain;
mod token;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use http::HeaderValue;
use parking_lot::Mutex;

pub(crate) use challenge::Challenge;
pub use docker::DockerConfig;
pub use keychain::{Anonymous, Credential, FixedCredential, Keychain, KeychainError, Keychains};

use super::error::RegistryError;
use super::hosts::Endpoint;
use super::transport::Transport;

/// How long the answer to a Basic challenge is used before the keychain is asked again: helpers hand out
/// credentials that expire.
const BASIC_LIFETIME: Duration = Duration::from_hours(1);

/// What is wanted of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    Pull,
    Push,
}

/// Who is asked, for what: decides which token is shown.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Access {
    pub(crate) endpoint: Endpoint,
    pub(crate) repository: Arc<str>,
    pub(crate) action: Action,
}

impl Access {
    fn scope(&self) -> String {
        let actions = match self.action {
            Action::Pull => "pull",
            Action::Push => "pull,push",
        };
        format!("repository:{}:{actions}", self.repository)
    }
}

/// An Authorization header and how long it lasts.
#[derive(Debug, Clone)]
struct Grant {
    header: HeaderValue,
    since: Instant,
    expires: Instant,
}

type Slot = Arc<tokio::sync::Mutex<Option<Grant>>>;

/// All that was learned about authentication in this process.
#[derive(Debug)]
pub(crate) struct Auth {
    keychain: Arc<dyn Keychain>,
    fresh: Duration,
    challenges: Mutex<HashMap<Endpoint, Challenge>>,
    slots: Mutex<HashMap<Access, Slot>>,
}

impl Auth {
    /// `fresh`: see [`super::RegistryOptions::credential_fresh`].
    pub(crate) fn new(keychain: Arc<dyn Keychain>, fresh: Duration) -> Self {
        Self { keychain, fresh, challenges: Mutex::default(), slots: Mutex::default() }
    }

    /// The header for a first attempt: none for a registry that never asked for one.
    pub(crate) async fn header(
        &self,
        transport: &Transport,
        access: &Access,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let challenge = self.challenges.lock().get(&access.endpoint).cloned();
        let Some(challenge) = challenge else { return Ok(None) };
        self.grant(transport, access, &challenge.without_scope(), None).await.map(Some)
    }

    /// The header after status 401: `challenges` are the WWW-Authenticate headers, `refused` the header sent.
    /// `None`: nothing better than what was refused is to be had.
    pub(crate) async fn renew(
        &self,
        transport: &Transport,
        access: &Access,
        challenges: &[String],
        refused: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let known = || self.challenges.lock().get(&access.endpoint).cloned();
        let Some(challenge) = Challenge::choose(challenges).or_else(known) else { return Ok(None) };
        self.challenges.lock().insert(access.endpoint.clone(), challenge.clone());
        self.grant(transport, access, &challenge, refused).await.map(Some)
    }

    /// Whether `shown` was obtained so long ago that it may have expired.
    pub(crate) fn is_old(&self, access: &Access, shown: &HeaderValue) -> bool {
        let slot = self.slots.lock().get(access).cloned();
        let slot = slot.as_ref().and_then(|slot| slot.try_lock().ok());
        slot.as_ref()
            .and_then(|slot| slot.as_ref())
            .is_some_and(|grant| grant.header == shown && grant.since.elapsed() >= self.fresh)
    }

    async fn grant(
        &self,
        transport: &Transport,
        access: &Access,
        challenge: &Challenge,
        refused: Option<&HeaderValue>,
    ) -> Result<HeaderValue, RegistryError> {
        let slot = Arc::clone(self.slots.lock().entry(access.clone()).or_default());
        let mut slot = slot.lock().await;
        if let Some(grant) = &*slot
            && grant.expires > Instant::now()
            && Some(&grant.header) != refused
        {
            return Ok(grant.header.clone());
        }
        let grant = self.obtain(transport, access, challenge).await?;
        let header = grant.header.clone();
        *slot = Some(grant);
        Ok(header)
    }

    async fn obtain(
        &self,
        transport: &Transport,
        access: &Access,
        challenge: &Challenge,
    ) -> Result<Grant, RegistryError> {
        let host = &access.endpoint.host;
        let credential = self
            .keychain
            .credential(host, &access.repository)
            .await
            .map_err(|source| RegistryError::Credential { host: host.clone(), source })?;
        let unauthorized =
            |reason: &str| RegistryError::Unauthorized { host: host.clone(), reason: reason.to_owned() };
        match (challenge, credential) {
            (_, Credential::RegistryToken(token)) => Ok(Grant {
                header: sensitive(&format!("Bearer {token}"), host)?,
                since: Instant::now(),
                expires: Instant::now() + BASIC_LIFETIME,
            }),
            (Challenge::Basic, Credential::Basic { user, password }) => {
                let header = basic(&user, &password, host)?;
                Ok(Grant { header, since: Instant::now(), expires: Instant::now() + BASIC_LIFETIME })
            }
            (Challenge::Basic, _) => {
                Err(unauthorized("a user and a password are needed, and none are known"))
            }
            (Challenge::Bearer { realm, service, scope }, credential) => {
                if realm.scheme() != "https" && !access.endpoint.plain {
                    return Err(unauthorized("the token server named by the registry has no TLS"));
                }
                let scope = scope.clone().unwrap_or_else(|| access.scope());
                let request = token::Request {
                    realm,
                    link: &access.endpoint.link,
                    service: service.as_deref(),
                    scope: &scope,
                };
                let token = token::exchange(transport, &request, &credential).await?;
                let header = sensitive(&format!("Bearer {}", token.value), host)?;
                Ok(Grant { header, since: Instant::now(), expires: Instant::now() + token.lifetime })
            }
        }
    }
}

fn basic(user: &str, password: &str, host: &str) -> Result<HeaderValue, RegistryError> {
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    sensitive(&format!("Basic {encoded}"), host)
}

fn sensitive(text: &str, host: &str) -> Result<HeaderValue, RegistryError> {
    let mut header = HeaderValue::from_str(text).map_err(|_| RegistryError::Unauthorized {
        host: host.to_owned(),
        reason: "the credential has characters that a header cannot carry".to_owned(),
    })?;
    header.set_sensitive(true);
    Ok(header)
}
