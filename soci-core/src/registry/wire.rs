//! One request and the header of its answer, under time limits. Who is let in, redirects and retries are `transport`'s.
//!
//! [`Wire`] owns the counters of its requests with all others. Invariant: every wait has a limit.

use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT_ENCODING, AUTHORIZATION};
use http::{HeaderMap, HeaderValue, Method};
use reqwest::Url;
use tokio::time::{Instant, timeout};

use super::access::Access;
use super::content::Content;
use super::error::{Phase, RegistryError, printable};
use super::link::Link;
use super::options::RegistryOptions;
use super::reply::{Counters, Reply};
use super::traffic::{RequestKind, Traffic};

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
    /// Counts this call, too, beside the counters of all.
    pub(crate) meter: Option<Arc<Traffic>>,
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
            meter: None,
        }
    }
}

/// Sends single requests.
#[derive(Debug)]
pub(crate) struct Wire {
    watch: Option<fn(&str)>,
    #[cfg(feature = "testing")]
    network: Option<Arc<dyn super::network::Network>>,
    traffic: Arc<Traffic>,
}

impl Wire {
    pub(crate) fn new(options: &RegistryOptions, traffic: Arc<Traffic>) -> Self {
        Self {
            watch: options.watch,
            #[cfg(feature = "testing")]
            network: options.network.clone(),
            traffic,
        }
    }

    /// One request, one response header.
    pub(crate) async fn once(
        &self,
        call: &Call,
        url: &Url,
        authorization: Option<&HeaderValue>,
    ) -> Result<Reply, RegistryError> {
        let timeouts = call.link.timeouts();
        let mut headers = call.headers.clone();
        if call.access.as_ref().is_some_and(|access| access.endpoint.serves(url)) {
            headers.extend(call.link.headers().clone());
        }
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(header) = authorization {
            // In place of one that the user's hosts.toml has: two would be a request that means nothing.
            headers.insert(AUTHORIZATION, header.clone());
        }
        #[cfg(feature = "testing")]
        if let Some(network) = &self.network {
            self.count_request(call);
            let deadline = Instant::now() + timeouts.whole;
            let exchange = Arc::clone(network).exchange(url.to_string(), headers);
            let answer = timeout(timeouts.connect + timeouts.header, exchange).await;
            let response =
                answer.map_err(|_| RegistryError::timed_out(url, Phase::Header))?.into_response(url);
            return Ok(Reply::new(response, deadline, timeouts.stall, self.counters(call)));
        }
        let request = call.link.client(url)?.request(call.method.clone(), url.clone()).headers(headers);
        let (request, progress) = call
            .content
            .attach(request, &self.traffic)
            .await
            .map_err(|source| RegistryError::Content { url: printable(url), source: Arc::new(source) })?;
        self.count_request(call);
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
        Ok(Reply::new(response, deadline, timeouts.stall, self.counters(call)))
    }

    fn count_request(&self, call: &Call) {
        self.traffic.count_request(call.kind);
        if let Some(meter) = &call.meter {
            meter.count_request(call.kind);
        }
    }

    /// What counts the bytes of the answer.
    fn counters(&self, call: &Call) -> Counters {
        Counters { all: Arc::clone(&self.traffic), meter: call.meter.clone() }
    }
}
