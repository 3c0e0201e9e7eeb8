//! Which span is fetched next when no reader waits. Each registry host has one list, in which the prefetch artifacts of all
//! images are merged. The background class comes behind all lists.
//!
//! State: owned by the [`super::Engine`], under its lock; a layer that nobody uses any more is taken out by
//! [`Queue::forget`]. A span that a reader has claimed, or that is cached already, is passed over when its turn comes: that
//! is how a queued span is promoted.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use soci_core::units::SpanId;

use crate::limits::{BACKGROUND_BYTES, BACKGROUND_ROUNDS};
use crate::span::SpanManager;
use crate::span::state::Claim;

/// Place of a prefetch span in the queue: the artifact's priority first (lower is earlier), then the image, then the
/// layer from the bottom, then the place in the artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Order {
    /// Priority that the artifact gives; one scale for all layers of an image.
    pub priority: u64,
    /// Images in the order in which they were first asked for.
    pub image: u64,
    /// Number of the layer in its image, from the bottom.
    pub layer: u32,
    /// Number of the span in its artifact.
    pub position: u32,
}

/// Adjacent spans of one layer, claimed, to be fetched by one request.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) manager: Arc<SpanManager>,
    pub(super) claims: Vec<Claim>,
}

/// Spans in the order in which they are to be fetched.
type Ordered = BTreeMap<Order, (Arc<SpanManager>, SpanId)>;

/// What waits to be fetched ahead of readers.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// By the host that was to be asked when the span was queued; no list is empty.
    prefetch: HashMap<Arc<str>, Ordered>,
    background: VecDeque<Rest>,
}

/// A layer that the background completes.
#[derive(Debug)]
struct Rest {
    manager: Arc<SpanManager>,
    /// The span to go on with.
    from: u32,
    /// How often it has gone through all spans. Those that failed are asked for again.
    rounds: u32,
}

impl Queue {
    pub(super) fn push(&mut self, order: Order, manager: &Arc<SpanManager>, span: SpanId) {
        self.prefetch.entry(manager.host()).or_default().insert(order, (Arc::clone(manager), span));
    }

    pub(super) fn push_background(&mut self, manager: &Arc<SpanManager>) {
        if !self.background.iter().any(|rest| Arc::ptr_eq(&rest.manager, manager)) {
            self.background.push_back(Rest { manager: Arc::clone(manager), from: 0, rounds: 0 });
        }
    }

    /// Takes out everything of a layer. The result is dropped by the caller outside the engine's lock, since the last
    /// handle of a layer closes its cache.
    #[must_use]
    pub(super) fn forget(&mut self, manager: &Arc<SpanManager>) -> Vec<Arc<SpanManager>> {
        let mut gone = Vec::new();
        for list in self.prefetch.values_mut() {
            let queued = list.extract_if(.., |_, (known, _)| Arc::ptr_eq(known, manager));
            gone.extend(queued.map(|(_, (known, _))| known));
        }
        self.prefetch.retain(|_, list| !list.is_empty());
        self.background.retain(|rest| {
            let same = Arc::ptr_eq(&rest.manager, manager);
            if same {
                gone.push(Arc::clone(&rest.manager));
            }
            !same
        });
        gone
    }

    pub(super) fn has_prefetch(&self) -> bool {
        !self.prefetch.is_empty()
    }

    /// Spans that wait for prefetch, and layers that wait for the background.
    pub(super) fn lengths(&self) -> (usize, usize) {
        (self.prefetch.values().map(BTreeMap::len).sum(), self.background.len())
    }

    pub(super) fn has_background(&self) -> bool {
        !self.background.is_empty()
    }

    /// Takes the first span that may be fetched, with those that follow it both in the queue and in the layer. `room` gives the
    /// compressed bytes that a host may be asked for; `allowed` says whether a layer may have one more request.
    pub(super) fn pop_prefetch(
        &mut self,
        room: impl Fn(&str) -> Option<u64>,
        allowed: impl Fn(&Arc<SpanManager>) -> bool,
    ) -> Option<Run> {
        let open = self.prefetch.iter().filter_map(|(host, list)| {
            let first = *list.first_key_value()?.0;
            Some((first, Arc::clone(host), room(host)?))
        });
        let mut open: Vec<_> = open.collect();
        open.sort_unstable_by_key(|(first, ..)| *first);
        for (_, host, limit) in open {
            let Some(list) = self.prefetch.get_mut(&host) else { continue };
            let run = pop(list, limit, &allowed);
            if list.is_empty() {
                self.prefetch.remove(&host);
            }
            if run.is_some() {
                return run;
            }
        }
        None
    }

    /// Takes the next unrequested span of the next layer that still has one, with those that follow it, up to
    /// [`BACKGROUND_BYTES`]; the layers in turn.
    pub(super) fn pop_background(&mut self) -> Option<Run> {
        while let Some(mut rest) = self.background.pop_front() {
            let claims = rest.claim();
            if let Some(last) = claims.last() {
                rest.from = last.span().0 + 1;
                let manager = Arc::clone(&rest.manager);
                self.background.push_back(rest);
                return Some(Run { manager, claims });
            }
            // Behind the end: what has failed meanwhile is tried again, but not for ever.
            if rest.from > 0 && rest.rounds + 1 < BACKGROUND_ROUNDS {
                self.background.push_front(Rest { from: 0, rounds: rest.rounds + 1, ..rest });
            }
        }
        None
    }
}

impl Rest {
    fn claim(&self) -> Vec<Claim> {
        let (states, spans) = (self.manager.states(), self.manager.ztoc().spans());
        let mut claims: Vec<Claim> = Vec::new();
        let mut bytes = 0;
        for span in (self.from..spans.len()).map(SpanId) {
            let cost = spans.compressed_range(span).len();
            if !claims.is_empty() && bytes + cost > BACKGROUND_BYTES {
                break;
            }
            match states.claim(span) {
                Some(claim) => {
                    bytes += cost;
                    claims.push(claim);
                }
                None if claims.is_empty() => {}
                None => break,
            }
        }
        claims
    }
}

/// Takes the first span of a list that may be fetched, with its neighbours up to `limit` bytes.
fn pop(list: &mut Ordered, limit: u64, allowed: impl Fn(&Arc<SpanManager>) -> bool) -> Option<Run> {
    let mut passed = Vec::new();
    let mut run: Option<Run> = None;
    let mut bytes = 0;
    for (order, (manager, span)) in &*list {
        if !manager.states().is_unrequested(*span) {
            passed.push(*order);
            continue;
        }
        let cost = manager.ztoc().spans().compressed_range(*span).len();
        match &mut run {
            None if !allowed(manager) => {}
            None => {
                let Some(claim) = manager.states().claim(*span) else { continue };
                passed.push(*order);
                bytes = cost;
                run = Some(Run { manager: Arc::clone(manager), claims: vec![claim] });
            }
            Some(run) => {
                let next = run.claims.last().map(|claim| claim.span().0 + 1);
                if !Arc::ptr_eq(&run.manager, manager) || next != Some(span.0) || bytes + cost > limit {
                    break;
                }
                let Some(claim) = manager.states().claim(*span) else { break };
                passed.push(*order);
                bytes += cost;
                run.claims.push(claim);
            }
        }
    }
    for order in passed {
        list.remove(&order);
    }
    run
}
