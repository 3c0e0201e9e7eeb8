//! Authentication: which Authorization header to send to which registry for which repository.
//!
//! [`Auth`] owns what was learned from each registry: its challenges, and one header for each repository, action and kind of
//! challenge. Invariants: a credential or token goes to the registry it is for and to the token server that this registry
//! names, nowhere else; one exchange at a time for one repository, which all waiters share; a challenge whose answer the
//! registry has taken is not given up for one whose answer it did not take.

mod challenge;
mod docker;
mod keychain;
mod scope;
mod slot;
mod token;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use futures_util::future::BoxFuture;
use http::{HeaderValue, StatusCode};
use parking_lot::Mutex;

pub(crate) use challenge::Challenge;
pub use docker::DockerConfig;
pub use keychain::{Anonymous, Credential, FixedCredential, Keychain, KeychainError, Keychains};

use challenge::Scheme;
use slot::{Grant, Slot};

use super::access::Access;
use super::error::RegistryError;
use super::hosts::Endpoint;
use super::wire::Wire;

/// How long the answer to a Basic challenge is used before the keychain is asked again: helpers hand out
/// credentials that expire.
const BASIC_LIFETIME: Duration = Duration::from_hours(1);

/// Registries and repositories of which something is remembered; what is more is learned again.
const MAX_REMEMBERED: usize = 4096;
/// Challenges of one answer that are tried.
const MAX_WAYS: usize = 3;

/// The challenges of one registry.
#[derive(Debug, Default)]
struct Learned {
    /// The one whose answer was taken last.
    taken: Option<Challenge>,
    /// The one that came last.
    seen: Option<Challenge>,
}

/// All that was learned about authentication in this process.
#[derive(Debug)]
pub(crate) struct Auth {
    keychain: Arc<dyn Keychain>,
    fresh: Duration,
    learned: Mutex<HashMap<Endpoint, Learned>>,
    slots: Mutex<HashMap<(Access, Scheme), Arc<Slot>>>,
}

impl Auth {
    /// `fresh`: see [`super::RegistryOptions::credential_fresh`].
    pub(crate) fn new(keychain: Arc<dyn Keychain>, fresh: Duration) -> Self {
        Self { keychain, fresh, learned: Mutex::default(), slots: Mutex::default() }
    }

    /// The header for a first attempt, and the challenge that it answers. `None` for a registry that never asked for one, and
    /// where we have no answer: it may not ask this time.
    pub(crate) async fn header(
        &self,
        wire: &Wire,
        access: &Access,
    ) -> Result<Option<(HeaderValue, Challenge)>, RegistryError> {
        let challenge = {
            let learned = self.learned.lock();
            learned
                .get(&access.endpoint)
                .and_then(|learned| learned.taken.as_ref().or(learned.seen.as_ref()).cloned())
        };
        let Some(challenge) = challenge.map(Challenge::without_scope) else { return Ok(None) };
        match self.grant(wire, access, &challenge, &[]).await {
            Ok(header) => Ok(Some((header, challenge))),
            Err(RegistryError::Unauthorized { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether another header may help after an answer with this status to `shown`; `challenges` are its WWW-Authenticate
    /// headers. Some registries say "forbidden" to a credential that has expired, and to a token for less than is wanted.
    pub(crate) fn may_help(
        &self,
        access: &Access,
        status: StatusCode,
        shown: Option<&(HeaderValue, Challenge)>,
        challenges: &[String],
    ) -> bool {
        if status == StatusCode::UNAUTHORIZED {
            return true;
        }
        let Some((header, challenge)) = shown.filter(|_| status == StatusCode::FORBIDDEN) else {
            return false;
        };
        let newest = self.slot(access, challenge.scheme()).newest();
        newest.filter(|grant| grant.header == header).is_some_and(|grant| {
            let asks_for_more = |challenge: &Challenge| !scope::covers(&grant.scope, challenge.scope());
            grant.since.elapsed() >= self.fresh || Challenge::all(challenges).iter().any(asks_for_more)
        })
    }

    /// The challenges to answer after a refusal, in that order: first the one whose answer the registry took before.
    pub(crate) fn ways(&self, access: &Access, challenges: &[String]) -> Vec<Challenge> {
        let mut ways = Challenge::all(challenges);
        let mut learned = self.learned.lock();
        if learned.len() >= MAX_REMEMBERED && !learned.contains_key(&access.endpoint) {
            learned.clear();
        }
        let learned = learned.entry(access.endpoint.clone()).or_default();
        if let Some(first) = ways.first() {
            learned.seen = Some(first.clone());
        }
        if let Some(taken) = learned.taken.as_ref().or(learned.seen.as_ref()) {
            let at = ways.iter().position(|way| way.is_like(taken));
            let first = at.map_or_else(|| taken.clone().without_scope(), |at| ways.remove(at));
            ways.insert(0, first);
        }
        ways.truncate(MAX_WAYS);
        ways
    }

    /// Notes that the registry took the answer to `challenge`.
    pub(crate) fn taken(&self, access: &Access, challenge: &Challenge) {
        let mut learned = self.learned.lock();
        if let Some(learned) = learned.get_mut(&access.endpoint)
            && !learned.taken.as_ref().is_some_and(|taken| taken.is_like(challenge))
        {
            learned.taken = Some(challenge.clone());
        }
    }

    /// The header that answers `challenge`, and is none of those that were refused.
    pub(crate) async fn grant(
        &self,
        wire: &Wire,
        access: &Access,
        challenge: &Challenge,
        refused: &[HeaderValue],
    ) -> Result<HeaderValue, RegistryError> {
        let slot = self.slot(access, challenge.scheme());
        // What the registry asked for before, it will ask for again.
        let before = slot.newest().map(|grant| grant.scope).unwrap_or_default();
        let scope = scope::union([access.scope().as_str(), challenge.scope(), before.as_str()]);
        let usable = |grant: &Grant| grant.expires > Instant::now() && !refused.contains(&grant.header);
        let obtain: BoxFuture<'_, _> = Box::pin(self.obtain(wire, access, challenge, scope));
        slot.get(usable, obtain).await.map(|grant| grant.header)
    }

    fn slot(&self, access: &Access, scheme: Scheme) -> Arc<Slot> {
        let mut slots = self.slots.lock();
        let key = (access.clone(), scheme);
        if slots.len() >= MAX_REMEMBERED && !slots.contains_key(&key) {
            let now = Instant::now();
            slots.retain(|_, slot| slot.newest().is_some_and(|grant| grant.expires > now));
            if slots.len() >= MAX_REMEMBERED {
                slots.clear();
            }
        }
        Arc::clone(slots.entry(key).or_default())
    }

    async fn obtain(
        &self,
        wire: &Wire,
        access: &Access,
        challenge: &Challenge,
        scope: String,
    ) -> Result<Grant, RegistryError> {
        let since = Instant::now();
        let (host, name) = (&access.endpoint.host, &access.name());
        let credential = self.keychain.credential(host, &access.repository).await.map_err(|source| {
            RegistryError::Credential { repository: name.clone(), source: Arc::new(source) }
        })?;
        let unauthorized =
            |reason: &str| RegistryError::Unauthorized { url: name.clone(), reason: reason.to_owned() };
        match (challenge, credential) {
            (_, Credential::RegistryToken(token)) => Ok(Grant {
                header: sensitive(&format!("Bearer {token}"), name)?,
                scope: String::new(),
                since,
                expires: since + BASIC_LIFETIME,
            }),
            (Challenge::Basic, Credential::Basic { user, password }) => {
                let header = basic(&user, &password, name)?;
                Ok(Grant { header, scope: String::new(), since, expires: since + BASIC_LIFETIME })
            }
            (Challenge::Basic, _) => {
                Err(unauthorized("a user and a password are needed, and none are known"))
            }
            (Challenge::Bearer { realm, service, .. }, credential) => {
                if realm.scheme() != "https" && !access.endpoint.plain {
                    return Err(unauthorized("the token server named by the registry has no TLS"));
                }
                let request = token::Request {
                    realm,
                    link: &access.endpoint.link,
                    service: service.as_deref(),
                    scope: &scope,
                };
                let token = token::exchange(wire, &request, &credential).await?;
                let header = sensitive(&format!("Bearer {}", token.value), name)?;
                Ok(Grant { header, scope, since, expires: Instant::now() + token.lifetime })
            }
        }
    }
}

fn basic(user: &str, password: &str, url: &str) -> Result<HeaderValue, RegistryError> {
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    sensitive(&format!("Basic {encoded}"), url)
}

fn sensitive(text: &str, url: &str) -> Result<HeaderValue, RegistryError> {
    let mut header = HeaderValue::from_str(text).map_err(|_| RegistryError::Unauthorized {
        url: url.to_owned(),
        reason: "the credential has characters that a header cannot carry".to_owned(),
    })?;
    header.set_sensitive(true);
    Ok(header)
}
