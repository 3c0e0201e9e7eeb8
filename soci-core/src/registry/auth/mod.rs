//! Authentication: which Authorization header to send to which registry for which repository.
//!
//! [`Auth`] owns what was learned from each registry: its challenges, and one header for each repository, action and kind of
//! challenge. Invariants: a credential or token goes to the registry it is for and to the token server that this registry
//! names, nowhere else; one exchange at a time for one repository, which all waiters share; a challenge whose answer the
//! registry has taken is not given up for one whose answer it did not take.

mod auths;
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

pub use auths::{DockerAuths, decode_basic};
pub(crate) use challenge::Challenge;
pub use docker::DockerConfig;
pub use keychain::{Anonymous, Credential, FixedCredential, Issued, Keychain, KeychainError, Keychains};

use challenge::Scheme;
use slot::{Grant, Slot};

use super::access::Access;
use super::error::RegistryError;
use super::hosts::Endpoint;
use super::wire::Wire;

/// The part of its lifetime after which a token or credential is renewed. What is left is for renewals that fail.
const RENEWED_AFTER: f32 = 0.9;
/// A renewal that failed is tried again after this, as long as the old header is good.
const NEXT_RENEWAL: Duration = Duration::from_secs(10);
/// Requests of one pull share a credential that its source does not want remembered (a lifetime of zero).
const SHORTEST_USE: Duration = Duration::from_mins(1);
/// Longer than any process runs, and short enough to be added to a time.
const LONGEST_USE: Duration = Duration::from_hours(24 * 365);
/// Credentials that are tried for one challenge.
const MAX_CREDENTIALS: usize = 3;

/// Registries and repositories of which something is remembered; what is more is learned again.
const MAX_REMEMBERED: usize = 4096;
/// Challenges of one answer that are tried.
const MAX_WAYS: usize = 3;

/// Which credential is good enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Search {
    /// Any: the registry may have been wrong, or a token has run out.
    Any,
    /// One that was not refused.
    Another,
}

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
    lifetime: Duration,
    learned: Mutex<HashMap<Endpoint, Learned>>,
    slots: Mutex<HashMap<(Access, Scheme), Arc<Slot>>>,
}

impl Auth {
    /// `fresh` and `lifetime`: see [`super::RegistryOptions::credential_fresh`] and what follows it there.
    pub(crate) fn new(keychain: Arc<dyn Keychain>, fresh: Duration, lifetime: Duration) -> Self {
        Self { keychain, fresh, lifetime, learned: Mutex::default(), slots: Mutex::default() }
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
        match self.grant(wire, access, &challenge, &[], Search::Any).await {
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

    /// The header that answers `challenge`, and is none of those that were refused; by another credential than theirs, if that
    /// is searched for.
    pub(crate) async fn grant(
        &self,
        wire: &Wire,
        access: &Access,
        challenge: &Challenge,
        refused: &[HeaderValue],
        search: Search,
    ) -> Result<HeaderValue, RegistryError> {
        let slot = self.slot(access, challenge.scheme());
        let newest = slot.newest();
        // What the registry asked for before, it will ask for again.
        let before = newest.as_ref().map(|grant| grant.scope.clone()).unwrap_or_default();
        let scope = scope::union([access.scope().as_str(), challenge.scope(), before.as_str()]);
        // A token may have run out; a credential, or a token that was just made from it, says that the credential is no good.
        let is_credential = |grant: &Grant| grant.scope.is_empty() || grant.since.elapsed() < self.fresh;
        let bad = newest.filter(|grant| refused.contains(&grant.header) && is_credential(grant));
        let bad = bad.map(|grant| grant.credential).filter(|bad| *bad != Credential::Anonymous);
        let usable = |grant: &Grant| grant.renew > Instant::now() && !refused.contains(&grant.header);
        let obtain: BoxFuture<'_, _> = Box::pin(self.obtain(wire, access, challenge, scope, (bad, search)));
        match slot.get(usable, obtain).await {
            Ok(grant) => Ok(grant.header),
            // The old one is still good for a while.
            Err(error) => {
                match slot.postpone(NEXT_RENEWAL).filter(|grant| !refused.contains(&grant.header)) {
                    Some(grant) => {
                        tracing::warn!(repository = access.name(), %error, "credential could not be renewed yet");
                        Ok(grant.header)
                    }
                    None => Err(error),
                }
            }
        }
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

    /// Asks the keychain, and again for another credential where one is refused; `bad` was refused already.
    async fn obtain(
        &self,
        wire: &Wire,
        access: &Access,
        challenge: &Challenge,
        scope: String,
        (bad, search): (Option<Credential>, Search),
    ) -> Result<Grant, RegistryError> {
        let name = &access.name();
        let (mut refused, mut failure) = (Vec::from_iter(bad), None);
        for _ in 0..MAX_CREDENTIALS {
            let asked = self.keychain.credential(&access.endpoint.host, &access.repository, &refused);
            let is_new = |Issued { credential, .. }: &Issued| {
                !refused.contains(credential)
                    && (search == Search::Any || *credential != Credential::Anonymous)
            };
            let issued = match (asked.await, failure) {
                (Ok(issued), _) if is_new(&issued) => issued,
                (Ok(issued), None) if search == Search::Any => issued,
                (Ok(_), None) => return Err(unauthorized(name, "no other credential is known")),
                (_, Some(failure)) => return Err(failure),
                (Err(source), None) => {
                    let (repository, source) = (name.clone(), Arc::new(source));
                    return Err(RegistryError::Credential { repository, source });
                }
            };
            let credential = issued.credential.clone();
            match self.exchange(wire, access, challenge, &scope, issued).await {
                Err(error @ (RegistryError::Unauthorized { .. } | RegistryError::Denied { .. }))
                    if credential != Credential::Anonymous =>
                {
                    refused.push(credential);
                    failure = Some(error);
                }
                outcome => return outcome,
            }
        }
        Err(failure.unwrap_or_else(|| unauthorized(name, "no credential was taken")))
    }

    /// Makes a header of a credential.
    async fn exchange(
        &self,
        wire: &Wire,
        access: &Access,
        challenge: &Challenge,
        scope: &str,
        issued: Issued,
    ) -> Result<Grant, RegistryError> {
        let since = Instant::now();
        let (name, credential) = (&access.name(), issued.credential.clone());
        let grant = |header, scope: &str, (renew, expires)| {
            let scope = scope.to_owned();
            Grant { header, scope, credential: issued.credential.clone(), since, renew, expires }
        };
        match (challenge, credential) {
            (_, Credential::RegistryToken(token)) => {
                Ok(grant(sensitive(&format!("Bearer {token}"), name)?, "", self.use_of(issued.lifetime)))
            }
            (Challenge::Basic, Credential::Basic { user, password }) => {
                Ok(grant(basic(&user, &password, name)?, "", self.use_of(issued.lifetime)))
            }
            (Challenge::Basic, _) => {
                Err(unauthorized(name, "a user and a password are needed, and none are known"))
            }
            (Challenge::Bearer { realm, service, .. }, credential) => {
                if realm.scheme() != "https" && !access.endpoint.plain {
                    return Err(unauthorized(name, "the token server named by the registry has no TLS"));
                }
                let link = &access.endpoint.link;
                let request = token::Request { realm, link, service: service.as_deref(), scope };
                let token = token::exchange(wire, &request, &credential).await?;
                let header = sensitive(&format!("Bearer {}", token.value), name)?;
                let now = Instant::now();
                let end = (now + token.lifetime.mul_f32(RENEWED_AFTER), now + token.lifetime);
                Ok(grant(header, scope, end))
            }
        }
    }

    /// When a credential that is shown as it is has to be renewed, and when it is good no more.
    fn use_of(&self, lifetime: Option<Duration>) -> (Instant, Instant) {
        let now = Instant::now();
        let lifetime = lifetime.map(|life| if life.is_zero() { SHORTEST_USE } else { life.min(LONGEST_USE) });
        let renew = lifetime.map_or(self.lifetime, |life| life.mul_f32(RENEWED_AFTER).min(self.lifetime));
        let renew = renew.min(LONGEST_USE);
        (now + renew, now + lifetime.unwrap_or(renew))
    }
}

fn unauthorized(name: &str, reason: &str) -> RegistryError {
    RegistryError::Unauthorized { url: name.to_owned(), reason: reason.to_owned() }
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
