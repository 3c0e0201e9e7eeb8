//! The answer to one request: its header, and its body piece by piece under time limits.
//!
//! A [`Reply`] owns one connection until its body is read to the end or it is dropped. Invariant: every body
//! byte that arrives is counted.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, StatusCode};
use reqwest::Url;
use serde::Deserialize;
use tokio::time::{Instant, timeout};

use super::error::{Phase, RegistryError, printable};
use super::retry::parse_retry_after;
use super::traffic::Traffic;

/// Body of an error answer that is read: for its words, and so that the connection can be used again.
const MAX_ERROR_BODY: usize = 4 << 10;
/// Bytes a second below which a body stands still.
const SLOWEST: u128 = 1024;
/// Longest text of a server that goes into an error.
const MAX_REASON: usize = 300;

/// Header and body of an answer.
#[derive(Debug)]
pub(crate) struct Reply {
    response: reqwest::Response,
    deadline: Instant,
    stall: Duration,
    /// How long the body was waited for, and the bytes that came in that time, since it was last found to be fast enough.
    drip: (Duration, usize),
    counters: Counters,
}

/// What counts the bytes of a body.
#[derive(Debug)]
pub(crate) struct Counters {
    /// That of the registry client.
    pub(crate) all: Arc<Traffic>,
    /// That of whoever asked.
    pub(crate) meter: Option<Arc<Traffic>>,
}

impl Counters {
    fn count_received(&self, bytes: usize) {
        self.all.count_received(bytes);
        if let Some(meter) = &self.meter {
            meter.count_received(bytes);
        }
    }
}

impl Reply {
    pub(crate) fn new(
        response: reqwest::Response,
        deadline: Instant,
        stall: Duration,
        counters: Counters,
    ) -> Self {
        Self { response, deadline, stall, drip: (Duration::ZERO, 0), counters }
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// Value of a header as text.
    pub(crate) fn header(&self, name: impl http::header::AsHeaderName) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// Address of the last hop.
    pub(crate) fn url(&self) -> &Url {
        self.response.url()
    }

    /// Announced length of the body.
    pub(crate) fn content_length(&self) -> Option<u64> {
        self.header(http::header::CONTENT_LENGTH)?.trim().parse().ok()
    }

    /// Content-Type without parameters.
    pub(crate) fn media_type(&self) -> Option<String> {
        let value = self.header(CONTENT_TYPE)?.split(';').next()?.trim();
        (!value.is_empty()).then(|| value.to_owned())
    }

    /// Values of its WWW-Authenticate headers.
    pub(crate) fn challenges(&self) -> Vec<String> {
        let values = self.headers().get_all(WWW_AUTHENTICATE).iter();
        values.filter_map(|value| value.to_str().ok()).map(ToOwned::to_owned).collect()
    }

    /// The next piece of the body; `None` at its end. A body that brings next to nothing stands still, too.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, RegistryError> {
        let begun = Instant::now();
        let left = self.deadline.saturating_duration_since(Instant::now());
        let (limit, phase) =
            if left < self.stall { (left, Phase::Whole) } else { (self.stall, Phase::Stall) };
        match timeout(limit, self.response.chunk()).await {
            Ok(Ok(piece)) => {
                let length = piece.as_ref().map_or(0, Bytes::len);
                self.counters.count_received(length);
                let (waited, bytes) = (self.drip.0 + begun.elapsed(), self.drip.1 + length);
                self.drip = (waited, bytes);
                if waited >= self.stall && piece.is_some() {
                    if (bytes as u128) * 1000 < SLOWEST * self.stall.as_millis() {
                        return Err(RegistryError::timed_out(self.url(), Phase::Stall));
                    }
                    self.drip = (Duration::ZERO, 0);
                }
                Ok(piece)
            }
            Ok(Err(source)) => Err(RegistryError::transport(self.url(), source)),
            Err(_) => Err(RegistryError::timed_out(self.url(), phase)),
        }
    }

    /// The whole body, at most `limit` bytes.
    pub(crate) async fn bytes(mut self, limit: u64) -> Result<Bytes, RegistryError> {
        let too_large = |url: &Url| RegistryError::TooLarge { url: printable(url), limit };
        if self.content_length().is_some_and(|length| length > limit) {
            return Err(too_large(self.url()));
        }
        let mut body = BytesMut::new();
        while let Some(piece) = self.chunk().await? {
            if (body.len() + piece.len()) as u64 > limit {
                return Err(too_large(self.url()));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body.freeze())
    }

    /// `self` when the status is a success, else the error it stands for.
    pub(crate) async fn into_success(self) -> Result<Self, RegistryError> {
        let status = self.status();
        if status.is_success() {
            return Ok(self);
        }
        let retry_after = self.header(RETRY_AFTER);
        let retry_after = retry_after.and_then(|value| parse_retry_after(value, jiff::Timestamp::now()));
        let url = self.url().clone();
        let reason = self.drain().await;
        Err(RegistryError::from_status(&url, status, retry_after, reason))
    }

    /// Reads a short body away and gives the server's words, if it has any.
    pub(crate) async fn drain(mut self) -> String {
        #[derive(Deserialize)]
        struct Errors {
            errors: Vec<Error>,
        }
        #[derive(Deserialize)]
        struct Error {
            #[serde(default)]
            code: String,
            #[serde(default)]
            message: String,
        }
        let mut body = Vec::new();
        while body.len() < MAX_ERROR_BODY {
            match self.chunk().await {
                Ok(Some(piece)) => body.extend_from_slice(&piece),
                Ok(None) | Err(_) => break,
            }
        }
        let parsed =
            serde_json::from_slice::<Errors>(&body).ok().and_then(|all| all.errors.into_iter().next());
        let text = match parsed {
            Some(error) if error.message.is_empty() => error.code,
            Some(error) => format!("{} ({})", error.message, error.code),
            None => String::from_utf8_lossy(&body).into_owned(),
        };
        text.chars().take(MAX_REASON).map(|c| if c.is_control() { ' ' } else { c }).collect()
    }
}
