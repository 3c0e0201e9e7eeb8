//! `/metrics` and `/healthz` on a TCP address or a Unix socket.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use tokio::net::{TcpListener, UnixListener};

use super::defs::{Sources, text};
use crate::socket::{SocketError, bind};

/// Where metrics are served.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// Unix socket.
    Unix(UnixListener),
}

/// The address cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// TCP.
    #[error("listen on {address} for metrics")]
    Tcp {
        /// The address.
        address: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Unix socket.
    #[error("listen for metrics")]
    Unix(#[source] SocketError),
}

impl Listener {
    /// Listens on `address`: `host:port` for the network `tcp`, a path for `unix`.
    pub async fn bind(network: &str, address: &str) -> Result<Self, MetricsError> {
        if network == "unix" {
            return bind(Path::new(address)).await.map(Self::Unix).map_err(MetricsError::Unix);
        }
        let failed = |source| MetricsError::Tcp { address: address.to_owned(), source };
        TcpListener::bind(address).await.map(Self::Tcp).map_err(failed)
    }

    /// The TCP address, with its port.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }
}

/// Serves until the process ends.
pub async fn serve(listener: Listener, sources: Sources) -> io::Result<()> {
    let metrics =
        move || async move { ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text(&sources)) };
    let router = Router::new().route("/metrics", get(metrics)).route("/healthz", get(async || "ok\n"));
    match listener {
        Listener::Tcp(listener) => axum::serve(listener, router).await,
        Listener::Unix(listener) => axum::serve(listener, router).await,
    }
}
