//! What a simulation puts in the place of connections: the trait [`Network`].
//!
//! Only built with the feature `testing`. Owns nothing. Everything above one HTTP exchange stays as it is: time limits, retries,
//! mirrors, redirects, checks of headers.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use http::HeaderMap;
use reqwest::{ResponseBuilderExt as _, Url};

/// Answers requests in place of all servers.
pub trait Network: Debug + Send + Sync {
    /// One exchange. A future that never ends is a server that never answers.
    fn exchange(self: Arc<Self>, url: String, headers: HeaderMap) -> BoxFuture<'static, Answer>;
}

/// What a server of the simulation says.
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// The body, as it arrives. An error is a broken connection.
    pub body: BoxStream<'static, io::Result<Bytes>>,
}

impl Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Answer {
    pub(super) fn into_response(self, url: &Url) -> reqwest::Response {
        let mut response = http::Response::builder().url(url.clone());
        if let Some(headers) = response.headers_mut() {
            *headers = self.headers;
        }
        let body = reqwest::Body::wrap_stream(self.body);
        // Only a mistake in a test.
        response.status(self.status).body(body).expect("a status that exists").into()
    }
}
