//! Addresses on which operators ask: TCP or a Unix socket. What they are answered is the router's.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use axum::Router;
use tokio::net::{TcpListener, UnixListener};

use crate::socket::{SocketError, bind};

/// Where something is served.
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
pub async fn serve(listener: Listener, router: Router) -> io::Result<()> {
    match listener {
        Listener::Tcp(listener) => axum::serve(listener, router).await,
        Listener::Unix(listener) => axum::serve(listener, router).await,
    }
}
