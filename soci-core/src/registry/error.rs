//! What can go wrong between us and a registry, told apart so that a caller can decide.
//!
//! Owns no state. Invariant: no error carries a secret: URLs are kept without user, password and query
//! (signed download addresses carry their signature in the query), and transport errors without URL.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{StatusCode, Url};

use super::auth::KeychainError;
use super::hosts::{Capabilities, HostsError};
use crate::any_digest::AnyDigest;
use crate::digest::Digest;
use crate::units::ByteRange;

/// Which of the time limits of [`Timeouts`](super::Timeouts) was passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for the first response header.
    Header,
    /// No byte came or went for the stall limit.
    Stall,
    /// The whole exchange took longer than allowed.
    Whole,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Header => "no response header",
            Self::Stall => "transfer stalled",
            Self::Whole => "transfer took too long",
        })
    }
}

/// Failure of a registry operation, after all retries. Clones share their cause: one failure may be that of all who waited.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The HTTP client could not be made.
    #[error("cannot set up the HTTP client for {url}")]
    Setup {
        /// Address to ask, without query.
        url: String,
        /// Cause.
        #[source]
        source: Arc<reqwest::Error>,
    },
    /// What the user said about the registry's servers cannot be used; none was asked.
    #[error("the servers of registry {registry} are not known")]
    Hosts {
        /// The registry, as references name it.
        registry: Arc<str>,
        /// Cause.
        #[source]
        source: Arc<HostsError>,
    },
    /// The user's description of the registry leaves no server for this.
    #[error("the hosts.toml of registry {registry} leaves no server for {wanted}")]
    NotCapable {
        /// The registry, as references name it.
        registry: Arc<str>,
        /// What was wanted.
        wanted: Capabilities,
    },
    /// Status 404: the registry answered, and does not have it.
    #[error("{url} not found")]
    NotFound {
        /// Address asked, without query.
        url: String,
    },
    /// Status 401 although the best credential known was shown, or no credential is known.
    #[error("{url} refused our authentication: {reason}")]
    Unauthorized {
        /// Address asked, without query; the repository when no credential is there to ask with.
        url: String,
        /// The server's words, cut short.
        reason: String,
    },
    /// Status 403: authenticated, but not allowed.
    #[error("{url} denied: {reason}")]
    Denied {
        /// Address asked, without query.
        url: String,
        /// The server's words, cut short.
        reason: String,
    },
    /// Status 429 until the retry budget was used up.
    #[error("{url}: too many requests")]
    RateLimited {
        /// Address asked, without query.
        url: String,
        /// What the last answer's Retry-After asked for.
        retry_after: Option<Duration>,
    },
    /// Status 408 or 5xx until the retry budget was used up.
    #[error("{url} unavailable: status {status}")]
    Unavailable {
        /// Address asked, without query.
        url: String,
        /// HTTP status.
        status: u16,
        /// What the last answer's Retry-After asked for.
        retry_after: Option<Duration>,
    },
    /// The answer breaks the OCI distribution specification or HTTP; none of its bytes was used.
    #[error("{url}: {reason}")]
    Protocol {
        /// Address asked, without query.
        url: String,
        /// What was wrong.
        reason: String,
    },
    /// Any other status that is not a success.
    #[error("{url}: unexpected status {status}: {reason}")]
    Status {
        /// Address asked, without query.
        url: String,
        /// HTTP status.
        status: u16,
        /// The server's words, cut short.
        reason: String,
    },
    /// Status 416, or a range that lies outside the blob.
    #[error("{url}: range {range} not satisfiable")]
    RangeNotSatisfiable {
        /// Address asked, without query.
        url: String,
        /// The bytes asked for.
        range: ByteRange,
    },
    /// More than the allowed number of redirects in a row.
    #[error("{url}: too many redirects")]
    TooManyRedirects {
        /// Last address asked, without query.
        url: String,
    },
    /// The content does not have the digest it was asked by.
    #[error("{url}: content has digest {actual}, expected {expected}")]
    Digest {
        /// Address asked, without query.
        url: String,
        /// Digest asked for.
        expected: Box<AnyDigest>,
        /// Digest of what came.
        actual: Box<AnyDigest>,
    },
    /// The registry took a manifest that refers to another, and does not say so when it is asked.
    #[error("{url} does not list {digest}, which the registry has")]
    NotListed {
        /// Address of the list, without query.
        url: String,
        /// The manifest.
        digest: Digest,
    },
    /// The tag under which a registry without referrers API keeps referrers cannot be written.
    #[error("cannot write the referrers tag {tag}")]
    ReferrersTag {
        /// The tag.
        tag: String,
        /// Cause.
        #[source]
        source: Box<RegistryError>,
    },
    /// The content is larger than the caller's or the format's limit.
    #[error("{url}: larger than {limit} bytes")]
    TooLarge {
        /// Address asked, without query.
        url: String,
        /// Limit in bytes.
        limit: u64,
    },
    /// The body ended before its announced end, more often than the retry budget allows.
    #[error("{url}: body ended early")]
    Truncated {
        /// Address asked, without query.
        url: String,
    },
    /// A time limit was passed.
    #[error("{url}: {phase}")]
    TimedOut {
        /// Address asked, without query.
        url: String,
        /// Which limit.
        phase: Phase,
    },
    /// Connecting, TLS, sending or receiving failed.
    #[error("cannot talk to {url}")]
    Transport {
        /// Address asked, without query.
        url: String,
        /// Cause.
        #[source]
        source: Arc<reqwest::Error>,
    },
    /// The credential source failed (a missing credential is no failure: then we go without).
    #[error("no credential for {repository}")]
    Credential {
        /// Registry and repository asked for.
        repository: String,
        /// Cause.
        #[source]
        source: Arc<KeychainError>,
    },
    /// The local content to push cannot be read.
    #[error("cannot read the content to push to {url}")]
    Content {
        /// Address it was for, without query.
        url: String,
        /// Cause.
        #[source]
        source: Arc<std::io::Error>,
    },
}

/// Errors of ranged reads are registry errors.
pub type FetchError = RegistryError;

impl RegistryError {
    /// True when the same request may succeed later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::RateLimited { .. }
                | Self::Unavailable { .. }
                | Self::Truncated { .. }
                | Self::TimedOut { .. }
                | Self::Transport { .. }
                | Self::NotListed { .. }
        )
    }

    /// How long the server asked us to wait before the next attempt.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } | Self::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    pub(crate) fn protocol(url: &Url, reason: impl Into<String>) -> Self {
        Self::Protocol { url: printable(url), reason: reason.into() }
    }

    pub(crate) fn digest(url: String, expected: impl Into<AnyDigest>, actual: impl Into<AnyDigest>) -> Self {
        Self::Digest { url, expected: Box::new(expected.into()), actual: Box::new(actual.into()) }
    }

    pub(crate) fn transport(url: &Url, source: reqwest::Error) -> Self {
        Self::Transport { url: printable(url), source: Arc::new(source.without_url()) }
    }

    pub(crate) fn timed_out(url: &Url, phase: Phase) -> Self {
        Self::TimedOut { url: printable(url), phase }
    }

    /// The error for a status that is neither success nor redirect.
    pub(crate) fn from_status(
        url: &Url,
        status: StatusCode,
        retry_after: Option<Duration>,
        reason: String,
    ) -> Self {
        let url = printable(url);
        let reason = if reason.is_empty() { "no reason given".to_owned() } else { reason };
        match status {
            StatusCode::NOT_FOUND => Self::NotFound { url },
            StatusCode::UNAUTHORIZED => Self::Unauthorized { url, reason },
            StatusCode::FORBIDDEN => Self::Denied { url, reason },
            StatusCode::TOO_MANY_REQUESTS => Self::RateLimited { url, retry_after },
            StatusCode::NOT_IMPLEMENTED => Self::Status { url, status: status.as_u16(), reason },
            StatusCode::REQUEST_TIMEOUT => Self::Unavailable { url, status: status.as_u16(), retry_after },
            _ if status.is_server_error() => Self::Unavailable { url, status: status.as_u16(), retry_after },
            _ => Self::Status { url, status: status.as_u16(), reason },
        }
    }
}

/// `url` without user, password and query.
pub(crate) fn printable(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{host}{port}{}", url.scheme(), url.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_no_success_names_what_was_asked_and_no_secret() {
        let url =
            Url::parse("https://user:password@registry.test:5000/v2/a/blobs/x?signature=secret").unwrap();
        for status in [400, 401, 403, 404, 408, 429, 500, 501, 503] {
            let status = StatusCode::from_u16(status).unwrap();
            let text = RegistryError::from_status(&url, status, None, String::new()).to_string();
            assert!(text.contains("https://registry.test:5000/v2/a/blobs/x"), "{text}");
            assert!(!["user", "password", "secret"].iter().any(|word| text.contains(word)), "{text}");
        }
    }
}
