//! The fetch engine of the node: every span that is fetched, is fetched here.
//!
//! State: one queue ([`queue`]), and for each registry host a [`lane`]: the measured link ([`throttle`]) and the requests that
//! are out. All under one lock that is never held across a fetch. Three classes: *demand* (a reader waits), *prefetch* (an artifact names the span, ordered
//! over all layers of the image) and *background* (the rest, slowly).
//!
//! A pack ([`Stream`]) is fetched beside the queue, by whoever owns it: it reads on only while no reader's bytes arrive.
//!
//! What must always hold: a demand is dispatched at once and never waits for prefetch to free anything, nor for another host.
//! While a reader's bytes are arriving from a host no new prefetch request to it starts; those that are out go on, and the
//! window keeps them short. While a reader's request only waits for its first byte the link is idle, so one prefetch span may
//! use it. Downloaded bytes that wait for the inflate pool are bounded. Nothing here can fail or delay a mount.

#![deny(clippy::disallowed_methods)]

mod courtesy;
mod fetch;
mod lane;
mod load;
mod options;
mod pace;
mod queue;
mod stream;
mod throttle;
mod windows;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use soci_core::units::SpanId;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use crate::doors;
use crate::span::room::Room;
use crate::span::spare::Spare;
use crate::span::state::Claim;
use crate::span::{Demand, SpanManager};
use crate::telemetry::stats::Stats;
use lane::Lane;
pub use load::{HostLoad, Load};
pub use options::{BackgroundOptions, EngineOptions};
use pace::Pace;
pub use queue::Order;
use queue::{Queue, Run};
pub use stream::Stream;

/// With more hosts than this, those that have nothing out are forgotten, with what was measured.
const MAX_LANES: usize = 256;

/// Who wants a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A reader waits for it, or walks towards it.
    Demand,
    /// A prefetch artifact names it.
    Prefetch,
    /// The rest of a mounted layer.
    Background,
}

impl Class {
    /// Its name, for logs.
    const fn name(self) -> &'static str {
        match self {
            Self::Demand => "reader",
            Self::Prefetch => "prefetch",
            Self::Background => "background",
        }
    }
}

/// The engine; clones share it.
#[derive(Clone, Debug)]
pub struct Engine(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    runtime: Handle,
    options: EngineOptions,
    stats: Arc<Stats>,
    /// What could not be written of all layers.
    spare: Spare,
    room: Arc<Room>,
    buffer: Arc<Semaphore>,
    inflate_demand: Arc<Semaphore>,
    inflate_ahead: Arc<Semaphore>,
    /// Told each time that the last of the readers' bytes that were arriving from a host is here.
    demand_over: Notify,
    work: Mutex<Work>,
}

#[derive(Debug, Default)]
struct Work {
    queue: Queue,
    lanes: HashMap<Arc<str>, Lane>,
    /// Downloads outside the engine that go before prefetch.
    holds: usize,
    /// Downloads outside the engine that go before the background class.
    streams: usize,
    /// Prefetch requests out for each layer, by the address of its manager.
    ahead_layers: HashMap<usize, usize>,
    pace: Pace,
    /// The limit was why nothing was started; whether somebody will pump when it lets more be asked for.
    paced: bool,
    pace_armed: bool,
    /// Somebody will pump when a reader's body may stand still.
    stall_armed: bool,
    quiet_until: Option<Instant>,
    timer_armed: bool,
}

/// While it lives, no new prefetch request starts: for downloads that a mount waits for.
#[derive(Debug)]
pub struct Hold(Engine);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.0.work.lock().holds -= 1;
        self.0.pump();
    }
}

impl Demand for Engine {
    /// Adjacent spans come by one request.
    fn demand(&self, manager: &Arc<SpanManager>, claims: Vec<Claim>) {
        let mut runs: Vec<Run> = Vec::new();
        for claim in claims {
            let adjacent = runs
                .last_mut()
                .filter(|run| run.claims.last().is_some_and(|last| last.span().0 + 1 == claim.span().0));
            match adjacent {
                Some(run) => run.claims.push(claim),
                None => runs.push(Run { manager: Arc::clone(manager), claims: vec![claim] }),
            }
        }
        for run in runs {
            self.spawn(run, Class::Demand);
        }
    }

    fn forget(&self, manager: &Arc<SpanManager>) {
        let gone = self.0.work.lock().queue.forget(manager);
        drop(gone);
    }

    fn spare(&self) -> &Spare {
        &self.0.spare
    }

    fn room(&self) -> &Arc<Room> {
        &self.0.room
    }
}

impl Engine {
    /// An engine whose work runs on `runtime`.
    pub fn new(runtime: Handle, options: EngineOptions, stats: Arc<Stats>) -> Self {
        let inflate = options.inflate_threads.max(1);
        Self(Arc::new(Shared {
            runtime,
            options,
            stats,
            spare: Spare::default(),
            room: Arc::default(),
            buffer: Arc::new(Semaphore::new(options.buffer_units() as usize)),
            inflate_demand: Arc::new(Semaphore::new(inflate)),
            // What starts needs a processor, too.
            inflate_ahead: Arc::new(Semaphore::new((inflate - 1).max(1))),
            demand_over: Notify::new(),
            work: Mutex::default(),
        }))
    }

    /// With less memory for what could not be written.
    #[cfg(test)]
    pub(crate) fn with_spare(mut self, limit: usize) -> Self {
        Arc::get_mut(&mut self.0).expect("it is new").spare = Spare::limited(limit);
        self
    }

    /// What is on its way, or queued, or in the accounts, though nothing should be.
    #[cfg(test)]
    pub(crate) fn left_over(&self) -> Option<String> {
        let work = self.0.work.lock();
        let idle = work.lanes.values().all(Lane::is_idle) && work.ahead_layers.is_empty();
        let queued = work.queue.has_prefetch() || work.queue.has_background();
        let room = self.0.buffer.available_permits() == self.0.options.buffer_units() as usize;
        let turns = self.0.inflate_demand.available_permits() == self.0.options.inflate_threads;
        let holds = work.holds + work.streams;
        (!idle || queued || !room || !turns || holds > 0).then(|| {
            format!("left over: idle {idle}, queued {queued}, room {room}, turns {turns}, holds {holds}")
        })
    }

    /// The runtime that the engine works on.
    pub fn runtime(&self) -> &Handle {
        &self.0.runtime
    }

    /// Queues spans that an artifact names.
    pub fn prefetch(&self, manager: &Arc<SpanManager>, spans: impl IntoIterator<Item = (Order, SpanId)>) {
        let mut work = self.0.work.lock();
        for (order, span) in spans {
            work.queue.push(order, manager, span);
        }
        drop(work);
        self.pump();
    }

    /// Lets the background class complete the layer, if it is switched on.
    pub fn background(&self, manager: &Arc<SpanManager>) {
        if self.0.options.background.is_some() {
            self.0.work.lock().queue.push_background(manager);
            self.pump();
        }
    }

    /// What is out and what waits now.
    pub fn load(&self) -> Load {
        let work = self.0.work.lock();
        let mut hosts: Vec<_> = work.lanes.iter().map(|(host, lane)| lane.load(host)).collect();
        hosts.sort_by(|one, other| one.host.cmp(&other.host));
        let (prefetch, background) = work.queue.lengths();
        Load { prefetch, background, packs: work.streams, hosts }
    }

    /// A new image was asked for: the background class pauses.
    pub fn quiet(&self) {
        if let Some(background) = self.0.options.background {
            self.0.work.lock().quiet_until = Instant::now().checked_add(background.silence);
        }
    }

    /// Stops prefetch from starting new requests while the guard lives.
    pub fn hold(&self) -> Hold {
        self.0.work.lock().holds += 1;
        Hold(self.clone())
    }

    /// Starts what may be started. Called after everything that changes the answer.
    fn pump(&self) {
        loop {
            let run = {
                let mut work = self.0.work.lock();
                work.next_prefetch(&self.0.options, self.0.buffer.available_permits())
            };
            match run {
                Some(run) => self.spawn(run, Class::Prefetch),
                None => break,
            }
        }
        self.arm_pace();
        self.arm_stall();
        self.arm_background();
    }

    /// Pumps again when the bodies that hold prefetch back may have come to a stand.
    fn arm_stall(&self) {
        let mut work = self.0.work.lock();
        let now = Instant::now();
        let busy = work.lanes.values().filter_map(|lane| lane.busy_until(now)).min();
        let Some(until) = busy.filter(|_| work.queue.has_prefetch() && !work.stall_armed) else { return };
        work.stall_armed = true;
        drop(work);
        let engine = self.clone();
        doors::spawn(&self.0.runtime, async move {
            tokio::time::sleep_until(until).await;
            engine.0.work.lock().stall_armed = false;
            engine.pump();
        });
    }

    /// Pumps again when the limit of what is fetched ahead lets more be asked for.
    fn arm_pace(&self) {
        let mut work = self.0.work.lock();
        if !std::mem::take(&mut work.paced) || work.pace_armed {
            return;
        }
        work.pace_armed = true;
        let wait = work.pace.wait(Instant::now());
        drop(work);
        let engine = self.clone();
        doors::spawn(&self.0.runtime, async move {
            tokio::time::sleep(wait).await;
            engine.0.work.lock().pace_armed = false;
            engine.pump();
        });
    }

    fn spawn(&self, run: Run, class: Class) {
        #[cfg(test)]
        fetch::tell(&run, class);
        let transfer = fetch::Transfer::start(self.clone(), &run, class);
        let cancelled = run.manager.cancelled();
        let engine = self.clone();
        doors::spawn(&self.0.runtime, async move {
            tokio::select! {
                biased;
                () = cancelled.cancelled() => {}
                () = fetch::fetch(&engine, run, transfer) => {}
            }
        });
    }

    /// Lets a timer take the next background span when its time comes and nothing else is out.
    fn arm_background(&self) {
        let Some(options) = self.0.options.background else { return };
        let mut work = self.0.work.lock();
        if work.timer_armed || !work.queue.has_background() {
            return;
        }
        work.timer_armed = true;
        let quiet =
            work.quiet_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
        drop(work);
        let engine = self.clone();
        doors::spawn(&self.0.runtime, async move {
            tokio::time::sleep(options.period.max(quiet)).await;
            let run = {
                let mut work = engine.0.work.lock();
                work.timer_armed = false;
                let idle = work.holds == 0
                    && work.streams == 0
                    && !work.queue.has_prefetch()
                    && work.lanes.values().all(Lane::is_idle)
                    && work.pace.wait(Instant::now()).is_zero();
                let quiet = work.quiet_until.is_some_and(|until| until > Instant::now());
                // What would only push out something else is not fetched.
                if idle && !quiet && !engine.0.room.is_tight() { work.queue.pop_background() } else { None }
            };
            if let Some(run) = run {
                engine.spawn(run, Class::Background);
            }
            engine.arm_background();
        });
    }
}

impl Work {
    /// The lane of a host.
    fn lane(&mut self, host: &Arc<str>, options: &EngineOptions) -> &mut Lane {
        if self.lanes.len() >= MAX_LANES && !self.lanes.contains_key(host) {
            self.lanes.retain(|_, lane| !lane.is_idle());
        }
        self.lanes.entry(Arc::clone(host)).or_insert_with(|| Lane::new(options))
    }

    fn next_prefetch(&mut self, options: &EngineOptions, buffer_free: usize) -> Option<Run> {
        if buffer_free == 0 || self.holds > 0 {
            return None;
        }
        let now = Instant::now();
        if self.queue.has_prefetch() && !self.pace.wait(now).is_zero() {
            self.paced = true;
            return None;
        }
        let Self { queue, lanes, ahead_layers: layers, .. } = self;
        let full = options.prefetch_layers > 0 && layers.len() >= options.prefetch_layers;
        let join = options.join_bytes.min(options.at_once());
        let room = |host: &str| match lanes.get(host) {
            Some(lane) => lane.room(now, options.prefetch_requests.max(1), join),
            None => Some(join),
        };
        queue.pop_prefetch(room, |manager| !full || layers.contains_key(&address(manager)))
    }
}

fn address(manager: &Arc<SpanManager>) -> usize {
    Arc::as_ptr(manager) as usize
}
