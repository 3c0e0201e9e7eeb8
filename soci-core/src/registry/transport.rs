//! One HTTP exchange with a registry: authentication, redirects, retries, over the single requests of `wire`.
//!
//! [`Transport`] owns the connection pool, what was learned about authentication, and the counters.
//! Invariants: Authorization goes only to the registry it is for, also across redirects; no redirect leads
//! from HTTPS to plain HTTP; every wait has a limit.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::header::LOCATION;
use http::{HeaderValue, Method, StatusCode};
use reqwest::Url;
use tokio::time::sleep;

use super::access::Access;
use super::auth::{Auth, Search};
use super::error::{RegistryError, printable};
use super::follow::follow;
use super::hedge::Hedges;
use super::hosts::{Endpoint, Resting};
use super::manners::Manners;
use super::options::RegistryOptions;
use super::reply::Reply;
use super::retry::{Budget, RetryPolicy, Spread};
use super::traffic::Traffic;
use super::wire::{Call, Wire};

/// Redirects followed in a row.
const MAX_REDIRECTS: usize = 10;

/// Sends calls.
#[derive(Debug)]
pub(crate) struct Transport {
    retry: RetryPolicy,
    spread: Spread,
    auth: Auth,
    wire: Wire,
    pub(crate) manners: Manners,
    /// Mirrors that could not be reached lately.
    pub(crate) resting: Resting,
    /// Held while a referrers tag is read, changed and written.
    pub(crate) tag_writer: tokio::sync::Mutex<()>,
    pub(crate) traffic: Arc<Traffic>,
    /// Requests that are made a second time.
    pub(super) hedges: Arc<Hedges>,
}

impl Transport {
    pub(crate) fn new(options: &RegistryOptions) -> Self {
        let traffic = Arc::<Traffic>::default();
        Self {
            retry: options.retry,
            #[cfg(feature = "testing")]
            spread: if options.network.is_some() { Spread::Even } else { Spread::ByChance },
            #[cfg(not(feature = "testing"))]
            spread: Spread::ByChance,
            auth: Auth::new(
                Arc::clone(&options.keychain),
                options.credential_fresh,
                options.credential_lifetime,
            ),
            wire: Wire::new(options, Arc::clone(&traffic)),
            manners: Manners::default(),
            resting: Resting::default(),
            tag_writer: tokio::sync::Mutex::default(),
            traffic,
            hedges: Hedges::new(options.timeouts.hedge),
        }
    }

    /// Those of `mirrors` that are worth asking now.
    pub(crate) fn awake(&self, mut mirrors: Vec<Endpoint>) -> Vec<Endpoint> {
        mirrors.retain(|mirror| !self.resting.has(mirror));
        mirrors
    }

    /// A fresh retry budget for one operation.
    pub(crate) fn budget(&self) -> Budget {
        Budget::new(self.retry, self.spread)
    }

    /// A fresh retry budget for `call`.
    pub(crate) fn budget_for(&self, call: &Call) -> Budget {
        if call.patient {
            return self.budget();
        }
        Budget::new(RetryPolicy { max_retries: 0, ..self.retry }, self.spread)
    }

    /// Sends `call` with a budget of its own; only success statuses are `Ok`.
    pub(crate) async fn send(&self, call: &Call) -> Result<Reply, RegistryError> {
        self.send_within(call, &mut self.budget_for(call)).await
    }

    /// Sends `call`, repeating it after transient failures as long as `budget` lasts.
    pub(crate) async fn send_within(&self, call: &Call, budget: &mut Budget) -> Result<Reply, RegistryError> {
        loop {
            match self.attempt(call).await {
                Ok(reply) => return Ok(reply),
                Err(error) => self.pause(error, budget).await?,
            }
        }
    }

    /// Waits before the next attempt, or gives `error` back when there is to be none.
    pub(crate) async fn pause(&self, error: RegistryError, budget: &mut Budget) -> Result<(), RegistryError> {
        let text = error.to_string();
        let wait = budget.spend(error)?;
        tracing::debug!(error = text, wait_ms = wait.as_millis() as u64, "retrying registry request");
        self.traffic.count_retry();
        sleep(wait).await;
        Ok(())
    }

    /// Sends `call` once, following redirects.
    pub(crate) async fn attempt(&self, call: &Call) -> Result<Reply, RegistryError> {
        let mut url = call.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let reply = self.authorized(call, &url).await?;
            if !reply.status().is_redirection() {
                return reply.into_success().await;
            }
            // A write has been sent already.
            if call.method != Method::GET && call.method != Method::HEAD {
                return Err(RegistryError::protocol(&url, format!("{} was redirected", call.method)));
            }
            url = follow(&url, reply.header(LOCATION))?;
        }
        Err(RegistryError::TooManyRedirects { url: printable(&url) })
    }

    /// One hop, with the credential when `url` is the registry's own; answers challenges.
    async fn authorized(&self, call: &Call, url: &Url) -> Result<Reply, RegistryError> {
        let Some(access) = call.access.as_ref().filter(|access| access.endpoint.serves(url)) else {
            return self.wire.once(call, url, None).await;
        };
        let shown = self.auth.header(&self.wire, access).await?;
        let reply = self.wire.once(call, url, shown.as_ref().map(|(header, _)| header)).await?;
        let challenges = reply.challenges();
        if !self.auth.may_help(access, reply.status(), shown.as_ref(), &challenges) {
            if let Some((_, challenge)) = shown.as_ref().filter(|_| is_let_in(reply.status())) {
                self.auth.taken(access, challenge);
            }
            return Ok(reply);
        }
        let shown = shown.map(|(header, _)| header);
        let answer: BoxFuture<'_, _> = Box::pin(self.answer(call, url, access, reply, challenges, shown));
        answer.await
    }

    /// Answers the challenges of `reply`, which came to a request with the header `shown`.
    async fn answer(
        &self,
        call: &Call,
        url: &Url,
        access: &Access,
        mut reply: Reply,
        challenges: Vec<String>,
        shown: Option<HeaderValue>,
    ) -> Result<Reply, RegistryError> {
        let mut refused: Vec<_> = shown.into_iter().collect();
        let (before, mut failure) = (refused.len(), None);
        for challenge in self.auth.ways(access, &challenges) {
            // A second time only with another credential.
            for search in [Search::Any, Search::Another] {
                match self.auth.grant(&self.wire, access, &challenge, &refused, search).await {
                    Ok(header) if refused.contains(&header) => break,
                    Ok(header) => {
                        reply.drain().await;
                        reply = self.wire.once(call, url, Some(&header)).await?;
                        if reply.status() != StatusCode::UNAUTHORIZED {
                            if is_let_in(reply.status()) {
                                self.auth.taken(access, &challenge);
                            }
                            return Ok(reply);
                        }
                        refused.push(header);
                    }
                    Err(error) => {
                        failure = failure.or(Some(error));
                        break;
                    }
                }
            }
        }
        match failure {
            // The registry's own words say more, if it has looked at an answer.
            Some(error) if refused.len() == before && reply.status() == StatusCode::UNAUTHORIZED => {
                Err(error)
            }
            Some(error) if error.is_transient() => Err(error),
            _ => Ok(reply),
        }
    }
}

/// Whether an answer with this status was given to somebody whom the registry knows.
fn is_let_in(status: StatusCode) -> bool {
    !matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) && !status.is_server_error()
}

/// Time that a registry gets to store and digest `size` bytes: object stores put the parts of an upload together first.
pub(crate) fn time_to_digest(size: u64) -> Duration {
    const AT_LEAST: Duration = Duration::from_secs(30);
    const BYTES_PER_SECOND: u64 = 8 << 20;
    AT_LEAST + Duration::from_secs(size / BYTES_PER_SECOND)
}
