//! What is out at one registry host, and what is known of the way to it.
//!
//! A [`Lane`] is owned by the engine, under its lock. What must always hold: what one host does not answer, or a body that
//! stands still, holds back nothing of another lane, and its own prefetch only as long as a reader's bytes really arrive. One layer
//! does not take all requests of a host.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::EngineOptions;
use super::load::HostLoad;
use super::throttle::Link;
#[cfg(test)]
use crate::doors::staged::{Planted, planted};

/// A reader's body from which nothing has come for so long stands still: it is no reason to wait.
const STANDS_STILL: Duration = Duration::from_millis(250);

/// The accounts of one host.
#[derive(Debug)]
pub(super) struct Lane {
    /// The way to it.
    pub(super) link: Link,
    /// Readers' requests that may be out at once.
    pub(super) slots: Arc<Semaphore>,
    /// The same for each layer that has some, by the address of its manager.
    of_layers: HashMap<usize, Arc<Semaphore>>,
    /// Readers' requests that one layer may have out.
    of_layer: usize,
    /// Its part of what prefetch may have downloaded and not yet inflated, in [`super::options::UNIT`]s.
    pub(super) buffer: Arc<Semaphore>,
    /// Readers' requests that wait for their first byte, and those whose bodies are arriving.
    pub(super) demand_waiting: usize,
    pub(super) demand_receiving: usize,
    /// When a byte of a reader's body has come last.
    last_demand: Option<Instant>,
    /// Requests ahead of readers, and what of their bytes has not come.
    pub(super) ahead_requests: usize,
    pub(super) ahead_remaining: u64,
}

impl Lane {
    pub(super) fn new(options: &EngineOptions) -> Self {
        Self {
            link: Link::default(),
            slots: Arc::new(Semaphore::new(options.demand_requests.max(1))),
            of_layers: HashMap::new(),
            of_layer: (options.demand_requests * 3 / 4).max(1),
            buffer: Arc::new(Semaphore::new(options.buffer_units().div_ceil(2) as usize)),
            demand_waiting: 0,
            demand_receiving: 0,
            last_demand: None,
            ahead_requests: 0,
            ahead_remaining: 0,
        }
    }

    /// The turns of a layer: one that is not answered leaves some of the host's slots to others.
    pub(super) fn turns(&mut self, layer: usize) -> Arc<Semaphore> {
        self.of_layers.retain(|of, turns| *of == layer || Arc::strong_count(turns) > 1);
        let new = || Arc::new(Semaphore::new(self.of_layer));
        Arc::clone(self.of_layers.entry(layer).or_insert_with(new))
    }

    /// Something of a reader's body has come.
    pub(super) fn note_demand(&mut self, now: Instant) {
        self.last_demand = Some(now);
    }

    /// Until when prefetch waits for readers whose bytes are arriving, unless more come; `None`: it does not.
    pub(super) fn busy_until(&self, now: Instant) -> Option<Instant> {
        let last = self.last_demand.filter(|_| self.demand_receiving > 0)?;
        Some(last + STANDS_STILL).filter(|until| *until > now)
    }

    /// What is out.
    pub(super) fn load(&self, host: &str) -> HostLoad {
        HostLoad {
            host: host.to_owned(),
            demand_waiting: self.demand_waiting,
            demand_receiving: self.demand_receiving,
            ahead: self.ahead_requests,
            free: self.slots.available_permits(),
        }
    }

    /// Nothing is out.
    pub(super) fn is_idle(&self) -> bool {
        self.demand_waiting == 0 && self.demand_receiving == 0 && self.ahead_requests == 0
    }

    /// Compressed bytes that one more prefetch request may join, at most `join`; `None`: none may start.
    pub(super) fn room(&self, now: Instant, requests: usize, join: u64) -> Option<u64> {
        #[cfg(test)]
        let now = if planted(Planted::PrefetchFirst) { now + STANDS_STILL } else { now };
        if self.ahead_requests >= requests || self.busy_until(now).is_some() {
            return None;
        }
        if self.demand_waiting > 0 {
            // The link is idle: one span may use it.
            return (self.ahead_remaining == 0).then_some(0);
        }
        (self.ahead_remaining < self.link.window()).then_some(join)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_layer_leaves_requests_to_others() {
        let options = EngineOptions { demand_requests: 8, ..EngineOptions::default() };
        let mut lane = Lane::new(&options);
        let out = |turns: Arc<Semaphore>| {
            std::iter::from_fn(|| Arc::clone(&turns).try_acquire_owned().ok()).collect::<Vec<_>>()
        };
        let all = out(lane.turns(1));
        assert_eq!((all.len(), out(lane.turns(1)).len(), out(lane.turns(2)).len()), (6, 0, 6));
        assert_eq!(lane.of_layers.len(), 2);
        drop(all);
        assert_eq!(out(lane.turns(3)).len(), 6);
        assert_eq!(lane.of_layers.len(), 1, "who has none out is forgotten");
    }

    #[test]
    fn readers_go_first_as_long_as_their_bytes_arrive() {
        let (mut lane, begin) = (Lane::new(&EngineOptions::default()), Instant::now());
        let at = |ms: u64| begin + Duration::from_millis(ms);
        assert_eq!(lane.room(begin, 2, 9), Some(9));
        lane.demand_waiting = 1;
        assert_eq!(lane.room(begin, 2, 9), Some(0), "one span while the link is idle");
        (lane.demand_waiting, lane.demand_receiving) = (0, 1);
        lane.note_demand(at(100));
        assert_eq!((lane.room(at(101), 2, 9), lane.busy_until(at(101))), (None, Some(at(350))));
        assert_eq!(lane.room(at(350), 2, 9), Some(9), "it stands still");
        lane.note_demand(at(400));
        assert_eq!(lane.room(at(401), 2, 9), None);
        lane.demand_receiving = 0;
        assert_eq!(lane.room(at(401), 2, 9), Some(9));
        lane.ahead_requests = 2;
        assert_eq!(lane.room(at(401), 2, 9), None);
    }
}
