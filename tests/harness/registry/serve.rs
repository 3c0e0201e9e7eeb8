//! The HTTP face of [`TestRegistry`](super::TestRegistry): routes by hand, because repository names have slashes.
//!
//! Owns no state of its own. Every request is logged with the status it got.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::Response;
use axum::serve::ListenerExt as _;
use http::header::{
    ACCEPT_RANGES, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE,
};
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use soci_core::digest::Digest;
use tokio::runtime::Runtime;

use super::auth::{authenticate, tokens};
use super::referrers::referrers;
use super::{Ranges, Server, State};
use crate::faults;

/// Serves `listener` until the runtime ends.
pub(super) fn spawn(runtime: &Runtime, listener: std::net::TcpListener, server: Server, state: Arc<State>) {
    listener.set_nonblocking(true).expect("a socket can be made non-blocking");
    let _guard = runtime.enter();
    let listener = tokio::net::TcpListener::from_std(listener).expect("a bound socket");
    let connected = Arc::clone(&state);
    let listener = listener.tap_io(move |stream| {
        connected.connections[server as usize].fetch_add(1, SeqCst);
        let _ = stream.set_nodelay(true);
        if connected.habits().reset_connections {
            let _ = stream.set_zero_linger();
        }
    });
    let router = axum::Router::new().fallback(move |request: Request| {
        let state = Arc::clone(&state);
        async move { answer(&state, server, request).await }
    });
    runtime.spawn(async move { axum::serve(listener, router).await });
}

/// One request with its body.
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: BTreeMap<String, String>,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

async fn answer(state: &State, server: Server, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let uri = parts.uri.to_string();
    let mut headers = parts.headers;
    let text =
        |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let logged = super::Request {
        server,
        method: parts.method.to_string(),
        path: uri.clone(),
        range: text(RANGE.as_str()),
        custom: text("x-custom"),
        authorized: headers.contains_key(AUTHORIZATION),
        credentials: headers.get_all(AUTHORIZATION).iter().count(),
        status: 0,
    };
    let at = {
        let mut log = state.log.lock();
        log.push(logged);
        log.len() - 1
    };
    let fault = state.faults.take(server, parts.method.as_str(), &uri);
    let early = match &fault {
        Some(fault) => faults::before(fault, &uri, &mut headers).await,
        None => None,
    };
    let response = if let Some(response) = early {
        response
    } else {
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let query = parts.uri.query().unwrap_or_default();
        let asked = Asked {
            method: parts.method,
            path: parts.uri.path().to_owned(),
            query: pairs(query),
            headers,
            body,
        };
        let response = match server {
            Server::Registry => registry(state, &asked),
            Server::Cdn => cdn(state, &asked),
            Server::Tokens => tokens(state, &asked, query),
        };
        match &fault {
            Some(fault) => faults::after(fault, response).await,
            None => response,
        }
    };
    let length = axum::body::HttpBody::size_hint(response.body()).exact().unwrap_or(0);
    state.served.fetch_add(length, SeqCst);
    if let Some(logged) = state.log.lock().get_mut(at) {
        logged.status = response.status().as_u16();
    }
    response
}

/// Name and value pairs of a query or form; of repeated names the last.
pub(super) fn pairs(text: &str) -> BTreeMap<String, String> {
    let decode = |text: &str| {
        let mut out = Vec::new();
        let mut bytes = text.bytes();
        while let Some(byte) = bytes.next() {
            match byte {
                b'+' => out.push(b' '),
                b'%' => {
                    let hex: String = bytes.by_ref().take(2).map(char::from).collect();
                    out.push(u8::from_str_radix(&hex, 16).unwrap_or(b'?'));
                }
                _ => out.push(byte),
            }
        }
        String::from_utf8_lossy(&out).into_owned()
    };
    let split = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    };
    text.split('&').filter(|pair| !pair.is_empty()).map(split).collect()
}

pub(super) fn reply(status: StatusCode) -> http::response::Builder {
    Response::builder().status(status)
}

pub(super) fn finish(builder: http::response::Builder, body: impl Into<Body>) -> Response {
    builder.body(body.into()).expect("our own answers are valid")
}

pub(super) fn refuse(status: StatusCode, code: &str) -> Response {
    finish(reply(status), json!({ "errors": [{ "code": code, "message": code.to_lowercase() }] }).to_string())
}

fn registry(state: &State, asked: &Asked) -> Response {
    let Some(path) = asked.path.strip_prefix("/v2/") else {
        return refuse(StatusCode::NOT_FOUND, "PATH_UNKNOWN");
    };
    let found = ["/blobs/uploads/", "/blobs/", "/manifests/", "/referrers/"]
        .into_iter()
        .find_map(|part| path.split_once(part).map(|(repository, rest)| (repository, part, rest)));
    let Some((repository, part, rest)) = found else {
        return refuse(StatusCode::NOT_FOUND, "PATH_UNKNOWN");
    };
    let action = match asked.method {
        Method::GET | Method::HEAD => "pull",
        Method::DELETE => "delete",
        _ => "push",
    };
    if let Some(refusal) = authenticate(state, asked, repository, action) {
        return refusal;
    }
    match part {
        "/blobs/uploads/" => upload(state, asked, repository, rest),
        "/blobs/" if state.habits().redirect_blobs => {
            let target = format!(
                "http://{}/{rest}?signature={}",
                state.host(Server::Cdn),
                state.signature.load(SeqCst)
            );
            finish(reply(StatusCode::TEMPORARY_REDIRECT).header(LOCATION, target), "")
        }
        "/blobs/" => blob(state, asked, rest),
        "/manifests/" if asked.method == Method::DELETE => delete_manifest(state, repository, rest),
        "/manifests/" if asked.method == Method::PUT => put_manifest(state, asked, repository, rest),
        "/manifests/" => {
            let key = (repository.to_owned(), rest.to_owned());
            match state.content.lock().manifests.get(&key) {
                Some((media_type, raw)) => finish(
                    reply(StatusCode::OK)
                        .header(CONTENT_TYPE, media_type)
                        .header("docker-content-digest", Digest::of(raw).to_string()),
                    raw.clone(),
                ),
                None => refuse(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
            }
        }
        _ => referrers(state, asked, repository, rest),
    }
}

/// As object stores do: a signed address needs no other credential, and refuses one.
fn cdn(state: &State, asked: &Asked) -> Response {
    if asked.headers.contains_key(AUTHORIZATION) {
        return refuse(StatusCode::BAD_REQUEST, "INVALIDARGUMENT");
    }
    let current = state.signature.load(SeqCst).to_string();
    if asked.query.get("signature") != Some(&current) {
        return refuse(StatusCode::FORBIDDEN, "EXPIRED");
    }
    blob(state, asked, asked.path.trim_start_matches('/'))
}

/// Whether a request for a part of this blob is answered with that part.
fn honours_ranges(state: &State, digest: &str) -> bool {
    let first = digest.parse().is_ok_and(|digest| state.content.lock().parted.insert(digest));
    match state.habits().ranges {
        Ranges::Honoured => true,
        Ranges::Ignored => false,
        Ranges::IgnoredFirst => !first,
    }
}

fn blob(state: &State, asked: &Asked, digest: &str) -> Response {
    let bytes =
        digest.parse().ok().and_then(|digest: Digest| state.content.lock().blobs.get(&digest).cloned());
    let Some(bytes) = bytes else { return refuse(StatusCode::NOT_FOUND, "BLOB_UNKNOWN") };
    let builder = |status| {
        reply(status).header(CONTENT_TYPE, "application/octet-stream").header(ACCEPT_RANGES, "bytes")
    };
    let part = asked.headers.get(RANGE).filter(|_| honours_ranges(state, digest));
    let Some(range) = part.and_then(|value| value.to_str().ok()) else {
        let length = bytes.len();
        let body = if asked.method == Method::HEAD { Body::empty() } else { bytes.into() };
        return finish(builder(StatusCode::OK).header(CONTENT_LENGTH, length), body);
    };
    let (first, last) = range.trim_start_matches("bytes=").split_once('-').unwrap_or_default();
    let first = first.parse().unwrap_or(usize::MAX);
    let end = last.parse().map_or(bytes.len(), |last: usize| bytes.len().min(last + 1));
    if first >= end {
        return refuse(StatusCode::RANGE_NOT_SATISFIABLE, "RANGE_INVALID");
    }
    let content_range = format!("bytes {first}-{}/{}", end - 1, bytes.len());
    finish(builder(StatusCode::PARTIAL_CONTENT).header(CONTENT_RANGE, content_range), bytes.slice(first..end))
}

fn put_manifest(state: &State, asked: &Asked, repository: &str, reference: &str) -> Response {
    let digest = Digest::of(&asked.body);
    if reference.starts_with("sha256:") && reference != digest.to_string() {
        return refuse(StatusCode::BAD_REQUEST, "DIGEST_INVALID");
    }
    let media_type =
        asked.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let parsed: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
    let habits = state.habits();
    for named in [&parsed["artifactType"], &parsed["config"]["mediaType"]] {
        if named.as_str().is_some_and(|named| habits.refused_types.contains(&named)) {
            return refuse(StatusCode::BAD_REQUEST, "MANIFEST_INVALID");
        }
    }
    let mut content = state.content.lock();
    let tagged = content.manifests.get(&(repository.to_owned(), reference.to_owned()));
    if let Some(status) = habits.immutable_tags
        && tagged.is_some_and(|(_, raw)| *raw != asked.body)
    {
        return refuse(StatusCode::from_u16(status).expect("a test's status is valid"), "TAG_IMMUTABLE");
    }
    for reference in [reference.to_owned(), digest.to_string()] {
        let key = (repository.to_owned(), reference);
        content.manifests.insert(key, (media_type.to_owned(), asked.body.clone()));
    }
    // No Location, like some large registries: a client must do without.
    let mut answer = reply(StatusCode::CREATED).header("docker-content-digest", digest.to_string());
    if let Some(subject) = parsed["subject"]["digest"].as_str().filter(|_| habits.referrers.has_list()) {
        answer = answer.header("oci-subject", subject);
    }
    finish(answer, "")
}

fn delete_manifest(state: &State, repository: &str, reference: &str) -> Response {
    if !state.habits().deletes {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED");
    }
    let Ok(digest) = reference.parse::<Digest>() else {
        return refuse(StatusCode::BAD_REQUEST, "DIGEST_INVALID");
    };
    let manifests = &mut state.content.lock().manifests;
    let before = manifests.len();
    manifests.retain(|(own, _), (_, raw)| own != repository || Digest::of(raw) != digest);
    if manifests.len() == before {
        return refuse(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN");
    }
    finish(reply(StatusCode::ACCEPTED), "")
}

fn upload(state: &State, asked: &Asked, repository: &str, id: &str) -> Response {
    let mut content = state.content.lock();
    let address = |id: &str| format!("/v2/{repository}/blobs/uploads/{id}?state=opaque");
    if asked.body.len() > state.habits().max_upload {
        return refuse(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID");
    }
    if asked.method == Method::POST {
        let known = asked.query.get("mount").and_then(|digest| digest.parse().ok());
        if known.is_some_and(|digest: Digest| content.blobs.contains_key(&digest)) {
            return finish(reply(StatusCode::CREATED), "");
        }
        let id = state.next_serial();
        content.uploads.insert(id, Vec::new());
        return finish(reply(StatusCode::ACCEPTED).header(LOCATION, address(&id.to_string())), "");
    }
    let key = id.parse::<u64>().unwrap_or_default();
    let Some(received) = content.uploads.get_mut(&key) else {
        return refuse(StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN");
    };
    if asked.method != Method::GET {
        let start = asked.headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok()?.split('-').next());
        if start.is_some_and(|start| start != received.len().to_string()) {
            return refuse(StatusCode::RANGE_NOT_SATISFIABLE, "RANGE_INVALID");
        }
        received.extend_from_slice(&asked.body);
    }
    let range = format!("0-{}", received.len().saturating_sub(1));
    match asked.method {
        Method::PUT => {
            let bytes = Bytes::from(content.uploads.remove(&key).unwrap_or_default());
            let digest = Digest::of(&bytes);
            if asked.query.get("digest") != Some(&digest.to_string()) {
                return refuse(StatusCode::BAD_REQUEST, "DIGEST_INVALID");
            }
            content.blobs.insert(digest, bytes);
            finish(reply(StatusCode::CREATED), "")
        }
        Method::GET => {
            finish(reply(StatusCode::NO_CONTENT).header(LOCATION, address(id)).header(RANGE, range), "")
        }
        _ => finish(reply(StatusCode::ACCEPTED).header(LOCATION, address(id)).header(RANGE, range), ""),
    }
}
