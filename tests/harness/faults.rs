//! Faults that a [`TestRegistry`](crate::registry::TestRegistry) shows on demand.
//!
//! [`Faults`] owns an ordered list of rules. Each request takes the first rule that matches it and has turns
//! left; every fault is deterministic.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::Response;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, LINK, LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use tokio_stream::StreamExt as _;

/// Size of the pieces in which a slowed body is sent.
const PIECE: usize = 16 << 10;

/// What goes wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The header comes this much later.
    Latency(Duration),
    /// The body comes at this many bytes per second.
    Throttle(u64),
    /// The same in small pieces, 20 a second.
    Drip(u64),
    /// This status, with a Retry-After if given, in place of the answer.
    Status(u16, Option<String>),
    /// The body breaks off after this many bytes: the connection is closed although more was announced.
    Truncate(usize),
    /// After this many bytes nothing more comes, and the connection stays open.
    Stall(usize),
    /// Content-Range is moved by this many bytes; the body is not.
    ShiftContentRange(i64),
    /// Content-Range is left out.
    NoContentRange,
    /// The answer claims a content encoding.
    Encoded,
    /// The Range header is overlooked: the whole blob with status 200.
    IgnoreRange,
    /// Redirect to the same address.
    RedirectLoop,
    /// Redirect to a given address.
    RedirectTo(String),
    /// Every byte of the body is inverted.
    Corrupt,
    /// The answer never comes.
    Hang,
    /// The request is done, but its answer is status 502.
    Lost,
    /// Status 200 with this body, in place of the answer.
    Body(&'static str),
    /// The same, with a link to a next page, which is this one again.
    Page(&'static str),
}

/// Which requests a fault is for.
#[derive(Debug, Clone, Default)]
pub struct When {
    method: Option<&'static str>,
    server: Option<crate::registry::Server>,
    path: String,
}

impl When {
    /// Every request.
    pub fn always() -> Self {
        Self::default()
    }

    /// Requests whose path contains `text`.
    pub fn path(text: impl Into<String>) -> Self {
        Self { path: text.into(), ..Self::default() }
    }

    /// Only requests with this method.
    #[must_use]
    pub fn method(self, method: &'static str) -> Self {
        Self { method: Some(method), ..self }
    }

    /// Only requests to this one of the three servers.
    #[must_use]
    pub fn on(self, server: crate::registry::Server) -> Self {
        Self { server: Some(server), ..self }
    }

    fn matches(&self, server: crate::registry::Server, method: &str, path: &str) -> bool {
        self.method.is_none_or(|own| own == method)
            && self.server.is_none_or(|own| own == server)
            && path.contains(&self.path)
    }
}

#[derive(Debug)]
struct Rule {
    when: When,
    fault: Fault,
    skip: u32,
    turns: Option<u32>,
}

/// The faults of one registry.
#[derive(Debug, Default)]
pub struct Faults {
    rules: Mutex<Vec<Rule>>,
}

impl Faults {
    /// `fault` for every matching request, for ever.
    pub fn add(&self, when: When, fault: Fault) {
        self.rules.lock().push(Rule { when, fault, skip: 0, turns: None });
    }

    /// `fault` for the next `turns` matching requests.
    pub fn add_times(&self, when: When, fault: Fault, turns: u32) {
        self.rules.lock().push(Rule { when, fault, skip: 0, turns: Some(turns) });
    }

    /// `fault` for ever, after `skip` matching requests without it.
    pub fn add_after(&self, when: When, fault: Fault, skip: u32) {
        self.rules.lock().push(Rule { when, fault, skip, turns: None });
    }

    /// Forgets all faults.
    pub fn clear(&self) {
        self.rules.lock().clear();
    }

    /// The fault for a request, which uses up a turn.
    pub(crate) fn take(&self, server: crate::registry::Server, method: &str, path: &str) -> Option<Fault> {
        for rule in self.rules.lock().iter_mut().filter(|rule| rule.when.matches(server, method, path)) {
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            match &mut rule.turns {
                Some(0) => continue,
                Some(turns) => *turns -= 1,
                None => {}
            }
            return Some(rule.fault.clone());
        }
        None
    }
}

/// Before the request is handled: an answer in its place, or a change of its headers.
pub(crate) async fn before(fault: &Fault, uri: &str, headers: &mut HeaderMap) -> Option<Response> {
    match fault {
        Fault::Latency(wait) => tokio::time::sleep(*wait).await,
        Fault::Hang => std::future::pending().await,
        Fault::IgnoreRange => {
            headers.remove(http::header::RANGE);
        }
        Fault::Status(status, retry_after) => {
            let mut response =
                Response::new(Body::from("{\"errors\":[{\"code\":\"FAULT\",\"message\":\"by order\"}]}"));
            *response.status_mut() = StatusCode::from_u16(*status).expect("a test's status is valid");
            if let Some(value) = retry_after {
                response.headers_mut().insert(RETRY_AFTER, header(value));
            }
            return Some(response);
        }
        Fault::Body(body) => return Some(Response::new(Body::from(*body))),
        Fault::Page(body) => {
            let mut response = Response::new(Body::from(*body));
            response.headers_mut().insert(LINK, header(&format!("<{uri}>; rel=\"next\"")));
            return Some(response);
        }
        Fault::RedirectLoop => return Some(redirect(uri)),
        Fault::RedirectTo(target) => return Some(redirect(target)),
        _ => {}
    }
    None
}

/// After the request was handled: changes the answer.
pub(crate) async fn after(fault: &Fault, response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let bytes = body.collect().await.expect("our own bodies do not fail").to_bytes();
    let body = match fault {
        Fault::Throttle(rate) => throttled(bytes.clone(), PIECE, *rate),
        Fault::Drip(rate) => throttled(bytes.clone(), (*rate as usize / 20).max(1), *rate),
        Fault::Truncate(keep) => cut(bytes.clone(), *keep, false),
        Fault::Stall(keep) => cut(bytes.clone(), *keep, true),
        Fault::Lost => {
            parts.status = StatusCode::BAD_GATEWAY;
            Body::from(bytes.clone())
        }
        Fault::Corrupt => Body::from(bytes.iter().map(|byte| !byte).collect::<Vec<_>>()),
        Fault::ShiftContentRange(by) => {
            if let Some(value) = parts.headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok()) {
                let shifted = shift(value, *by);
                parts.headers.insert(CONTENT_RANGE, header(&shifted));
            }
            Body::from(bytes.clone())
        }
        Fault::NoContentRange => {
            parts.headers.remove(CONTENT_RANGE);
            Body::from(bytes.clone())
        }
        Fault::Encoded => {
            parts.headers.insert(CONTENT_ENCODING, header("gzip"));
            Body::from(bytes.clone())
        }
        _ => Body::from(bytes.clone()),
    };
    if !parts.headers.contains_key(CONTENT_LENGTH) {
        parts.headers.insert(CONTENT_LENGTH, bytes.len().into());
    }
    Response::from_parts(parts, body)
}

fn header(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).expect("a test's header value is valid")
}

fn redirect(target: &str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    response.headers_mut().insert(LOCATION, header(target));
    response
}

/// `bytes A-B/T` with A and B moved.
fn shift(value: &str, by: i64) -> String {
    let (range, total) = value.trim_start_matches("bytes ").split_once('/').expect("our own Content-Range");
    let (first, last) = range.split_once('-').expect("our own Content-Range");
    let moved = |text: &str| text.parse::<i64>().expect("our own Content-Range") + by;
    format!("bytes {}-{}/{total}", moved(first), moved(last))
}

/// `keep` bytes, then an error (which closes the connection) or silence.
fn cut(bytes: Bytes, keep: usize, silent: bool) -> Body {
    let kept = bytes.slice(..keep.min(bytes.len()));
    let pieces = tokio_stream::once(Ok(kept));
    if silent {
        Body::from_stream(pieces.chain(tokio_stream::pending::<std::io::Result<Bytes>>()))
    } else {
        // The pause lets the kept bytes leave before the connection goes.
        let end = tokio_stream::once(Err(std::io::Error::other("cut by order")));
        Body::from_stream(pieces.chain(end).then(|piece| async {
            if piece.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            piece
        }))
    }
}

fn throttled(bytes: Bytes, piece: usize, rate: u64) -> Body {
    let pieces: Vec<_> = (0..bytes.len())
        .step_by(piece)
        .map(|start| std::io::Result::Ok(bytes.slice(start..bytes.len().min(start + piece))))
        .collect();
    let pause = Duration::from_secs_f64(piece as f64 / rate as f64);
    Body::from_stream(tokio_stream::iter(pieces).then(move |piece| async move {
        tokio::time::sleep(pause).await;
        piece
    }))
}
