//! What lives on the node in a run: layers that are mounted, given up and mounted again, and what is asked of the engine for them.
//!
//! A [`Node`] owns the layers' places. As in the product, the one who opens a layer waits until an earlier owner of its cache is gone.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use soci_core::registry::{HostPolicy, Registry, RegistryOptions, Server};
use soci_core::units::SpanId;
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::time::sleep;

use super::network::{Servers, mirror, registry};
use super::plan::HEALS;
use super::world::World;
use crate::boot::BootId;
use crate::cache::SpanCache;
use crate::cache::stored;
use crate::doors;
use crate::engine::{Engine, Order};
use crate::span::room::Round;
use crate::span::{Demand, Interest, SpanManager};
use crate::telemetry::stats::Stats;

const BOOT: BootId = BootId::from_bytes([1; 16]);
/// A layer that nobody uses is given up in this time: its requests end, whatever the servers do.
const GIVEN_UP: Duration = Duration::from_mins(20);

/// The node of one run.
pub(super) struct Node {
    pub(super) world: Arc<World>,
    pub(super) engine: Engine,
    pub(super) stats: Arc<Stats>,
    registry: Registry,
    root: TempDir,
    places: Vec<Mutex<Place>>,
}

#[derive(Default)]
struct Place {
    mount: Option<Arc<Mount>>,
    spans: Weak<SpanManager>,
}

/// A layer that somebody uses.
pub(super) struct Mount {
    pub(super) spans: Arc<SpanManager>,
    _interest: Interest,
}

impl Node {
    pub(super) fn new(world: &Arc<World>) -> Arc<Self> {
        let plan = &world.plan;
        let stats = Arc::new(Stats::default());
        let mut hosts = HostPolicy::default();
        for (number, _) in plan.mirrors.iter().enumerate().filter(|(_, mirror)| mirror.is_some()) {
            hosts.mirrors.insert(registry(number), vec![Server::parse(&mirror(number)).unwrap()]);
        }
        let options = RegistryOptions {
            hosts,
            retry: plan.retry,
            timeouts: plan.timeouts,
            network: Some(Arc::new(Servers(Arc::clone(world)))),
            ..RegistryOptions::default()
        };
        Arc::new(Self {
            engine: Engine::new(Handle::current(), plan.engine, Arc::clone(&stats)).with_spare(plan.spare),
            world: Arc::clone(world),
            stats,
            registry: Registry::new(options),
            // In memory where that can be had: each cache that is closed syncs its files.
            root: tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap(),
            places: plan.layers.iter().map(|_| Mutex::default()).collect(),
        })
    }

    /// The layer, if it is mounted now.
    pub(super) fn mounted(&self, place: usize) -> Option<Arc<Mount>> {
        self.places[place].lock().mount.clone()
    }

    /// Mounts a layer: the spans that still live, or new ones over its cache.
    pub(super) async fn mount(&self, place: usize) -> Arc<Mount> {
        let living = self.places[place].lock().spans.upgrade();
        let spans = match living {
            Some(spans) if self.world.chance(|chance| chance.one_in(2)) => spans,
            living => {
                drop(living);
                self.gone(place).await;
                self.open(place)
            }
        };
        let mount = Arc::new(Mount { _interest: spans.attach(), spans });
        let mut here = self.places[place].lock();
        (here.mount, here.spans) = (Some(Arc::clone(&mount)), Arc::downgrade(&mount.spans));
        mount
    }

    /// Nobody uses the layer any more but those who read it.
    pub(super) fn unmount(&self, place: usize) {
        let mount = self.places[place].lock().mount.take();
        drop(mount);
    }

    /// Waits until nobody has the layer's cache.
    pub(super) async fn gone(&self, place: usize) {
        self.world.open.lock().remove(&place);
        let begin = self.world.elapsed();
        while self.places[place].lock().spans.strong_count() > 0 {
            if self.world.elapsed() > begin + GIVEN_UP {
                self.world.wrong(format!("layer {place} is not given up"));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn open(&self, place: usize) -> Arc<SpanManager> {
        let (fixture, from) = (self.world.fixture(place), &self.world.plan.layers[place].1);
        if self.world.chance(|chance| chance.one_in(2)) {
            let caches = stored::stored(self.root.path()).unwrap();
            for cache in caches.iter().filter(|cache| cache.layer == fixture.digest) {
                assert!(cache.remove().unwrap(), "nobody has it open");
            }
        }
        let identity = SpanManager::identity(fixture.digest, &fixture.ztoc);
        let cache = SpanCache::open(self.root.path(), identity, BOOT).unwrap();
        let (engine, stats) = (Arc::new(self.engine.clone()), Arc::clone(&self.stats));
        let spans = SpanManager::new(fixture.ztoc.clone(), cache, engine, stats, self.world.plan.spans);
        for number in from {
            let name = format!("{}/lab/layers", registry(*number));
            let repository = self.registry.repository(&format!("{name}:1").parse().unwrap());
            let layer = repository.range_fetcher(fixture.digest, fixture.blob.len() as u64);
            let windows = fixture.ztoc.windows();
            let windows = windows.map(|windows| repository.range_fetcher(windows.digest(), windows.size()));
            spans.add_source(&name, layer, windows);
        }
        spans
    }

    /// A layer's life: mounted, asked for, given up, and again.
    pub(super) async fn layer_lives(self: Arc<Self>, place: usize) {
        for _ in 0..self.world.chance(|chance| chance.of(1..8)) {
            let mount = self.mount(place).await;
            self.world.log(|| format!("layer {place} is mounted"));
            self.world.open.lock().insert(place, Arc::clone(&mount.spans));
            self.ask_ahead(place, &mount);
            drop(mount);
            let time = self.world.chance(|chance| chance.ms(0..15_000));
            sleep(time / self.world.plan.tempo).await;
            self.world.log(|| format!("layer {place} is unmounted"));
            self.world.open.lock().remove(&place);
            self.unmount(place);
            if self.world.chance(|chance| chance.one_in(2)) {
                doors::between();
                continue;
            }
            let time = self.world.chance(|chance| chance.ms(0..500));
            sleep(time / self.world.plan.tempo).await;
        }
    }

    /// What an artifact and the background ask for.
    fn ask_ahead(&self, place: usize, mount: &Mount) {
        let count = mount.spans.ztoc().spans().len();
        let spans: Vec<_> = self.world.chance(|chance| {
            let some = if self.world.plan.no_artifacts { 0 } else { chance.of(0..4) };
            let image = chance.of(0..2);
            let named: Vec<_> = (0..count).filter(|_| some > chance.of(0..3)).collect();
            let order = |(position, span): (usize, &u32)| {
                let (priority, position) = (u64::from(*span) / 4, position as u32);
                (Order { priority, image, layer: place as u32, position }, SpanId(*span))
            };
            named.iter().enumerate().map(order).collect()
        });
        self.engine.prefetch(&mount.spans, spans);
        self.engine.background(&mount.spans);
    }

    /// Others who make prefetch wait.
    pub(super) async fn holds(self: Arc<Self>) {
        while self.world.elapsed() < HEALS {
            let (pause, time, quiet) =
                self.world.chance(|chance| (chance.ms(0..9000), chance.ms(0..2000), chance.one_in(2)));
            sleep(pause).await;
            if quiet {
                self.engine.quiet();
            }
            let hold = self.engine.hold();
            sleep(time).await;
            drop(hold);
        }
    }

    /// Disk is given back now and then, as whoever makes room does it: what was not used lately, or anything.
    pub(super) async fn gives_back(self: Arc<Self>) {
        for _ in 0..self.world.plan.gives_back {
            let pause = self.world.chance(|chance| chance.ms(0..1000));
            sleep(pause / self.world.plan.tempo).await;
            self.engine.room().measured(i64::MAX, 0);
            for place in 0..self.places.len() {
                let Some(mount) = self.mounted(place) else { continue };
                let (bytes, all) = self.world.chance(|chance| (chance.of(1..200_000), chance.one_in(2)));
                let until = if all { Round::MAX } else { self.engine.room().round().saturating_sub(2) };
                let spans = Arc::clone(&mount.spans);
                drop(mount);
                let given = doors::blocking(move || spans.give_back(until, bytes)).await;
                let given = given.expect("it does not panic").expect("memory makes holes");
                self.stats.cache_given_back_bytes.add(given);
                self.world.log(|| format!("{given} bytes of layer {place} are given back"));
            }
        }
    }

    /// After all: everything can be had, is right, and nothing is left over.
    pub(super) async fn end(self: Arc<Self>) {
        let rest = HEALS.saturating_sub(self.world.elapsed());
        sleep(rest).await;
        for place in 0..self.places.len() {
            let mount = self.mount(place).await;
            self.complete(place, &mount).await;
            self.unmount(place);
            drop(mount);
        }
        for place in 0..self.places.len() {
            self.gone(place).await;
        }
        if let Some(left) = self.engine.left_over() {
            self.world.wrong(left);
        }
    }

    /// All spans of a layer come, and then all of it is as it should be.
    async fn complete(&self, place: usize, mount: &Mount) {
        let (begin, fixture) = (self.world.elapsed(), self.world.fixture(place));
        let spans = || (0..mount.spans.ztoc().spans().len()).map(SpanId);
        while spans().any(|span| !mount.spans.states().is_cached(span)) {
            if self.world.elapsed() > begin + GIVEN_UP {
                return self.world.wrong(format!("layer {place} is never complete"));
            }
            let order = |span: SpanId| Order { priority: 0, image: 0, layer: place as u32, position: span.0 };
            self.engine.prefetch(&mount.spans, spans().map(|span| (order(span), span)));
            sleep(Duration::from_secs(1)).await;
        }
        let all = soci_core::units::ByteRange::new(0, fixture.plain.len() as u64);
        if mount.spans.read_checked(all).is_none_or(|bytes| bytes != fixture.plain) {
            self.world.wrong(format!("layer {place} is complete and wrong"));
        }
    }
}
