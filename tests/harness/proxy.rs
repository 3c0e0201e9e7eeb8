//! An HTTP proxy in front of one server, which stands for every name that is asked for.
//!
//! [`Proxy`] owns the listener's runtime and the list of what was asked; dropping it ends all connections.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// Longest head of a request.
const MAX_HEAD: usize = 64 << 10;

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    runtime: Option<Runtime>,
}

impl Proxy {
    /// Passes everything on to `backend`: tunnels (CONNECT) and requests.
    pub fn new(backend: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime can be made");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("a bound socket");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a listening socket");
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(pass(connection, backend, Arc::clone(&log)));
            }
        });
        Self { address, asked, runtime: Some(runtime) }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The first line of the first request of each connection.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().clone()
    }
}

async fn pass(
    mut connection: TcpStream,
    backend: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < MAX_HEAD {
        if connection.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let first = String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned();
    let tunnel = first.starts_with("CONNECT ");
    log.lock().push(first);
    let mut behind = TcpStream::connect(backend).await?;
    if tunnel {
        connection.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
    } else {
        behind.write_all(&head).await?;
    }
    tokio::io::copy_bidirectional(&mut connection, &mut behind).await.map(drop)
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
