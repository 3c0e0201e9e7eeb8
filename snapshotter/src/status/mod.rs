//! What people see of a running daemon: whether it is well, what came of starts, and what it is doing.
//!
//! A [`Status`] owns nothing but handles of the rooms, which come one after another while the daemon starts. What must always hold: it
//! answers from the moment at which the root is locked, also while layers of an earlier process are brought back; nothing that it does
//! keeps a start waiting.

mod health;
mod http;
mod state;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

pub use health::Health;
pub use http::{bind_private, open_to_all, private};
pub use state::{Overview, State};

use crate::blocking::try_blocking;
use crate::node::Node;
use crate::snapshot::Snapshotter;
use crate::telemetry::defs::{Now, Sources};

/// The daemon as it is.
#[derive(Debug)]
pub struct Status {
    sources: Sources,
    /// containerd's socket, if it is known.
    containerd: Option<PathBuf>,
    begun: Instant,
    node: OnceLock<Weak<Node>>,
    snapshotter: OnceLock<Weak<Snapshotter>>,
    serves: AtomicBool,
}

impl Status {
    /// Of a daemon that starts. `containerd` is its socket, if it is to be looked at.
    pub fn new(sources: Sources, containerd: Option<PathBuf>) -> Arc<Self> {
        Arc::new(Self {
            sources,
            containerd,
            begun: Instant::now(),
            node: OnceLock::new(),
            snapshotter: OnceLock::new(),
            serves: AtomicBool::new(false),
        })
    }

    /// The rooms are there.
    pub fn rooms(&self, node: &Arc<Node>, snapshotter: &Arc<Snapshotter>) {
        // They come once.
        let _ = self.node.set(Arc::downgrade(node));
        let _ = self.snapshotter.set(Arc::downgrade(snapshotter));
    }

    /// containerd's requests are answered from now on.
    pub fn serves(&self) {
        self.serves.store(true, Ordering::Release);
    }

    fn node(&self) -> Option<Arc<Node>> {
        self.node.get()?.upgrade()
    }

    fn snapshotter(&self) -> Option<Arc<Snapshotter>> {
        self.snapshotter.get()?.upgrade()
    }

    /// Everything that metrics are made of.
    async fn scrape(self: &Arc<Self>) -> Sources {
        let healthy = self.health().await.is_good();
        let this = Arc::clone(self);
        let now = try_blocking(move || this.now(healthy)).await;
        // A panic in there was logged by its thread.
        Sources { now: now.unwrap_or_default(), ..self.sources.clone() }
    }

    /// What is so now. Blocking, for a moment.
    fn now(&self, healthy: bool) -> Now {
        let served = self.snapshotter().map(|snapshotter| snapshotter.served()).unwrap_or_default();
        let (load, layers) = self.node().map(|node| (node.load(), node.layers())).unwrap_or_default();
        Now { served, load, layers, healthy }
    }
}
