//! The answers over HTTP: those that anybody may have who reaches `metrics_address`, and those for root alone on the status socket.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use tokio::net::UnixListener;

use super::Status;
use crate::telemetry::text::prometheus;

/// Mode of the status socket: names of images and containers are nobody else's.
const MODE: u32 = 0o600;

/// `/metrics` and `/healthz`: they name no container.
pub fn open_to_all(status: &Arc<Status>) -> Router {
    let (scraped, asked) = (Arc::clone(status), Arc::clone(status));
    let metrics = move || async move {
        let text = prometheus(&scraped.scrape().await);
        ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
    };
    Router::new().route("/metrics", get(metrics)).route("/healthz", get(move || healthz(asked)))
}

/// The same, `/status` and `/debug/state`.
pub fn private(status: &Arc<Status>) -> Router {
    let (overview, state) = (Arc::clone(status), Arc::clone(status));
    open_to_all(status)
        .route("/status", get(move || async move { json(&overview.overview().await) }))
        .route("/debug/state", get(move || async move { json(&state.state().await) }))
}

async fn healthz(status: Arc<Status>) -> Response {
    let health = status.health().await;
    if health.is_good() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, health.problems.join("\n") + "\n").into_response()
}

fn json(document: &impl Serialize) -> Response {
    match serde_json::to_vec(document) {
        Ok(text) => ([(CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Listens on the status socket in place of whoever had it: the caller has the lock of the root that it is in.
///
/// # Errors
/// The kernel's; a path of more than 107 bytes cannot be a socket's.
pub fn bind_private(path: &Path) -> std::io::Result<UnixListener> {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(MODE))?;
    Ok(listener)
}
