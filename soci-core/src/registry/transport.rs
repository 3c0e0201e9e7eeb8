//! One HTTP exchange with a registry: authentication, redirects, time limits, retries, counters.
//!
//! [`Transport`] owns the connection pool, what was learned about authentication, and the counters.
//! Invariants: Authorization goes only to the registry it is for, also across redirects; no redirect leads
//! from HTTPS to plain HTTP; every wait has a limit.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, LOCATION};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use reqwest::Url;
use tokio::time::{Instant, sleep, timeout};

use super::auth::{Access, Auth};
use super::content::Content;
use super::error::{Phase, RegistryError, printable};
use super::follow::follow;
use super::hedge::Hedges;
use super::hosts::{Endpoint, Resting};
use super::link::Link;
use super::manners::Manners;
use super::options::RegistryOptions;
use super::reply::Reply;
use super::retry::{Budget, RetryPolicy};
use super::traffic::{RequestKind, Traffic};

/// Redirects followed in a row.
const MAX_REDIRECTS: usize = 10;

/// A request that can be sent any number of times.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) content: Content,
    pub(crate) kind: RequestKind,
    /// Whose credential to show when the registry asks; `None`: never any.
    pub(crate) access: Option<Access>,
    /// How connections are made.
    pub(crate) link: Link,
    /// Worth repeated attempts: there is no other server to ask.
    pub(crate) patient: bool,
    /// Time for the response header, once all is sent, where it takes more than usual.
    pub(crate) time_to_answer: Option<Duration>,
}

impl Call {
    /// A GET without credential.
    pub(crate) fn get(url: Url, kind: RequestKind, link: &Link) -> Self {
        Self {
            method: Method::GET,
            url,
            headers: HeaderMap::new(),
            content: Content::Empty,
            kind,
            access: None,
            link: link.clone(),
            patient: true,
            time_to_answer: None,
        }
    }
}

/// Sends calls.
#[derive(Debug)]
pub(crate) struct Transport {
    retry: RetryPolicy,
    auth: Auth,
    watch: Option<fn(&str)>,
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
        Self {
            retry: options.retry,
            auth: Auth::new(Arc::clone(&options.keychain), options.credential_fresh),
            watch: options.watch,
            manners: Manners::default(),
            resting: Resting::default(),
            tag_writer: tokio::sync::Mutex::default(),
            traffic: Arc::default(),
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
        Budget::new(self.retry)
    }

    /// A fresh retry budget for `call`.
    pub(crate) fn budget_for(&self, call: &Call) -> Budget {
        if call.patient { self.budget() } else { Budget::new(RetryPolicy { max_retries: 0, ..self.retry }) }
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
        tracing::debug!(error = text, ?wait, "retrying registry request");
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
            // A token request carries a credential, and a write has been sent already.
            let may_follow = call.kind != RequestKind::Token;
            if !may_follow || call.method != Method::GET && call.method != Method::HEAD {
                return Err(RegistryError::protocol(&url, format!("{} was redirected", call.method)));
            }
            url = follow(&url, reply.header(LOCATION))?;
        }
        Err(RegistryError::TooManyRedirects { url: printable(&url) })
    }

    /// One hop, with the credential when `url` is the registry's own; answers challenges.
    async fn authorized(&self, call: &Call, url: &Url) -> Result<Reply, RegistryError> {
        let Some(access) = call.access.as_ref().filter(|access| access.endpoint.serves(url)) else {
            return self.once(call, url, None).await;
        };
        let shown = self.auth.header(self, access).await?;
        let reply = self.once(call, url, shown.as_ref().map(|(header, _)| header)).await?;
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
            match self.auth.grant(self, access, &challenge, &refused).await {
                Ok(header) if refused.contains(&header) => {}
                Ok(header) => {
                    reply.drain().await;
                    reply = self.once(call, url, Some(&header)).await?;
                    if reply.status() != StatusCode::UNAUTHORIZED {
                        if is_let_in(reply.status()) {
                            self.auth.taken(access, &challenge);
                        }
                        return Ok(reply);
                    }
                    refused.push(header);
                }
                Err(error) => failure = failure.or(Some(error)),
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

    /// One request, one response header.
    async fn once(
        &self,
        call: &Call,
        url: &Url,
        authorization: Option<&HeaderValue>,
    ) -> Result<Reply, RegistryError> {
        let timeouts = call.link.timeouts();
        let mut request = call.link.client(url)?.request(call.method.clone(), url.clone());
        let mut headers = call.headers.clone();
        if call.access.as_ref().is_some_and(|access| access.endpoint.serves(url)) {
            headers.extend(call.link.headers().clone());
        }
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(header) = authorization {
            // In place of one that the user's hosts.toml has: two would be a request that means nothing.
            headers.insert(AUTHORIZATION, header.clone());
        }
        request = request.headers(headers);
        let (request, progress) = call
            .content
            .attach(request, &self.traffic)
            .await
            .map_err(|source| RegistryError::Content { source: Arc::new(source) })?;
        self.traffic.count_request(call.kind);
        if let Some(watch) = self.watch {
            watch(&format!("http req {} {}", call.method, printable(url)));
        }
        let deadline = Instant::now() + timeouts.whole;
        let sending = request.send();
        let response = match progress {
            None => timeout(timeouts.connect + call.time_to_answer.unwrap_or(timeouts.header), sending)
                .await
                .map_err(|_| RegistryError::timed_out(url, Phase::Header))?,
            Some(progress) => {
                tokio::select! {
                    response = sending => response,
                    () = progress.stalled(timeouts.stall, call.time_to_answer.unwrap_or(timeouts.whole).max(timeouts.whole)) =>
                        return Err(RegistryError::timed_out(url, Phase::Stall)),
                }
            }
        };
        let response = response.map_err(|source| RegistryError::transport(url, source))?;
        if let Some(watch) = self.watch {
            watch(&format!("http res {}", response.status()));
        }
        Ok(Reply::new(response, deadline, timeouts.stall, Arc::clone(&self.traffic)))
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
