//! A download ahead of readers that does not go through the queue: a pack.
//!
//! A [`Stream`] is owned by whoever reads the pack; it counts as one at the engine until it is dropped. What must always hold: it gives
//! way to readers of its host, for a bounded part of its time.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::Engine;
use super::courtesy::Courtesy;

/// How long it waits for readers of the same host, before each piece.
const GIVES_WAY: Duration = Duration::from_millis(250);

/// While it lives, the background class pauses: for a download ahead of readers that does not go through the queue.
#[derive(Debug)]
pub struct Stream {
    engine: Engine,
    host: Arc<str>,
    courtesy: Mutex<Courtesy>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.engine.0.work.lock().streams -= 1;
        self.engine.pump();
    }
}

impl Stream {
    /// Waits until no reader's bytes are arriving from its host, for a time: who reads for minutes shares the way then. A call
    /// that is given up has waited for nothing.
    pub async fn after_demand(&self) {
        let engine = &self.engine.0;
        let begun = Instant::now();
        let limit = begun + self.courtesy.lock().left(begun).min(GIVES_WAY);
        loop {
            let mut over = pin!(engine.demand_over.notified());
            over.as_mut().enable();
            let now = Instant::now();
            let busy = engine.work.lock().lanes.get(&self.host).and_then(|lane| lane.busy_until(now));
            let Some(until) = busy.map(|until| until.min(limit)).filter(|until| *until > now) else {
                self.courtesy.lock().waited += now - begun;
                return;
            };
            let _ = tokio::time::timeout_at(until, over).await;
        }
    }

    /// Waits until so many bytes more may be read ([`EngineOptions::max_bandwidth`]). What the network brings meanwhile waits in the
    /// socket.
    pub async fn paced(&self, bytes: u64) {
        let engine = &self.engine.0;
        let Some(rate) = engine.options.max_bandwidth else { return };
        let now = Instant::now();
        let wait = {
            let mut work = engine.work.lock();
            let wait = work.pace.wait(now);
            work.pace.spend(rate, bytes, now);
            wait
        };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    /// Bytes that may be read at first, before any are paid for by [`Stream::paced`].
    pub fn at_once(&self) -> u64 {
        self.engine.0.options.at_once()
    }

    /// The right to inflate something ahead of readers.
    pub async fn inflate_turn(&self) -> Option<OwnedSemaphorePermit> {
        // The engine's semaphores are never closed.
        Arc::clone(&self.engine.0.inflate_ahead).acquire_owned().await.ok()
    }
}

impl Engine {
    /// Announces a download from `host` ahead of readers that does not go through the queue.
    pub fn stream(&self, host: &str) -> Stream {
        self.0.work.lock().streams += 1;
        let courtesy = Mutex::new(Courtesy::new(Instant::now()));
        Stream { engine: self.clone(), host: host.into(), courtesy }
    }
}
