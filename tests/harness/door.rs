//! Ways to a server that can be shut: [`Door`] refuses connections while it is closed, and a [`Hole`] never answers one.
//!
//! Both own their listeners; a drop ends all connections.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::task::{JoinHandle, JoinSet};

/// Connections to an address are passed on to a server.
#[derive(Debug)]
pub struct Door {
    address: SocketAddr,
    server: SocketAddr,
    open: Option<JoinHandle<()>>,
    runtime: Runtime,
}

impl Door {
    /// An open door to `server` (`ADDRESS:PORT`).
    pub fn to(server: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
        let address = listener.local_addr().expect("a bound socket");
        let server = server.parse().expect("the address of a test's server");
        let mut door = Self { address, server, open: None, runtime: runtime.expect("a runtime") };
        door.listen(listener);
        door
    }

    /// `ADDRESS:PORT` to connect to.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Ends all connections; new ones are refused.
    pub fn close(&mut self) {
        if let Some(open) = self.open.take() {
            open.abort();
            // An error says that it was aborted.
            let _ = self.runtime.block_on(open);
        }
    }

    /// Lets connections in again.
    pub fn open(&mut self) {
        self.close();
        let listener = TcpListener::bind(self.address).expect("the port is still ours");
        self.listen(listener);
    }

    fn listen(&mut self, listener: TcpListener) {
        listener.set_nonblocking(true).expect("a socket");
        let server = self.server;
        self.open = Some(self.runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listening socket");
            let mut connections = JoinSet::new();
            while let Ok((mut inside, _)) = listener.accept().await {
                connections.spawn(async move {
                    let mut behind = tokio::net::TcpStream::connect(server).await?;
                    tokio::io::copy_bidirectional(&mut inside, &mut behind).await
                });
            }
        }));
    }
}

/// An address whose packets are dropped: its queue of connections is full, and nobody takes one.
#[derive(Debug)]
pub struct Hole {
    listener: TcpListener,
    _queued: Vec<TcpStream>,
}

impl Hole {
    /// A hole.
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
        let address = listener.local_addr().expect("a bound socket");
        let mut queued = Vec::new();
        while let Ok(connection) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
            queued.push(connection);
            assert!(queued.len() < 10_000, "the queue has no end");
        }
        Self { listener, _queued: queued }
    }

    /// `ADDRESS:PORT` to connect to.
    pub fn host(&self) -> String {
        self.listener.local_addr().expect("a bound socket").to_string()
    }
}

impl Default for Hole {
    fn default() -> Self {
        Self::new()
    }
}
