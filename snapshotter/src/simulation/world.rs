//! What is true in one run, and what must always hold of it.
//!
//! A [`World`] owns the seed's choices, the log, and what it knows by itself of reads, requests and packs: nothing of that is asked of
//! the engine's own accounts. What is found wrong first ends the run.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use soci_core::digest::Digest;
use soci_core::units::{ByteRange, SpanId};
use tokio::time::Instant;

use super::chance::Chance;
use super::fixture::{self, Fixture};
use super::lies::Lies;
use super::plan::{HEALS, Plan};
use super::requests::Requests;
use crate::doors::staged::Begins;
use crate::span::SpanManager;

/// Lines of the log that are kept to be shown.
const LINES: usize = 4000;

/// One run.
#[derive(Debug)]
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) begin: Instant,
    chance: Mutex<Chance>,
    log: Mutex<Log>,
    wrong: Mutex<Option<String>>,
    /// The task that runs.
    now: AtomicU64,
    /// By the reader's task.
    reads: Mutex<BTreeMap<u64, Read>>,
    pub(super) requests: Mutex<Requests>,
    pub(super) lies: Mutex<Lies>,
    /// Layers that are open, by the number of their place.
    pub(super) open: Mutex<BTreeMap<usize, Arc<SpanManager>>>,
    steps: AtomicU64,
}

/// A read that has not ended.
#[derive(Debug)]
struct Read {
    manager: Arc<SpanManager>,
    range: ByteRange,
    pauses_until: Option<Instant>,
}

/// All that has happened: as one number, and the last lines.
#[derive(Debug, Default)]
struct Log {
    hash: u64,
    lines: VecDeque<String>,
}

impl World {
    pub(super) fn new(seed: u64) -> Arc<Self> {
        let mut chance = Chance::new(seed);
        let plan = Plan::new(&mut chance);
        Arc::new(Self {
            requests: Mutex::new(Requests::new(plan.engine.buffer_bytes)),
            lies: Mutex::new(Lies::default()),
            plan,
            begin: Instant::now(),
            chance: Mutex::new(chance),
            log: Mutex::default(),
            wrong: Mutex::default(),
            now: AtomicU64::new(0),
            reads: Mutex::default(),
            open: Mutex::default(),
            steps: AtomicU64::new(0),
        })
    }

    pub(super) fn fixture(&self, place: usize) -> &'static Fixture {
        &fixture::ALL[self.plan.layers[place].0]
    }

    /// Makes choices. The source of chance is not shared meanwhile.
    pub(super) fn chance<T>(&self, choose: impl FnOnce(&mut Chance) -> T) -> T {
        choose(&mut self.chance.lock())
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.begin.elapsed()
    }

    pub(super) fn log(&self, line: impl FnOnce() -> String) {
        let line = format!("{:>9.3} {}", self.elapsed().as_secs_f64(), line());
        let mut log = self.log.lock();
        for byte in line.bytes() {
            log.hash = (log.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        log.lines.push_back(line);
        if log.lines.len() > LINES {
            log.lines.pop_front();
        }
    }

    /// The log as a number, and its end.
    pub(super) fn story(&self) -> (u64, Vec<String>) {
        let log = self.log.lock();
        (log.hash, log.lines.iter().cloned().collect())
    }

    /// Something does not hold.
    pub(super) fn wrong(&self, what: String) {
        self.log(|| format!("WRONG: {what}"));
        self.wrong.lock().get_or_insert(what);
    }

    pub(super) fn is_wrong(&self) -> bool {
        self.wrong.lock().is_some()
    }

    pub(super) fn what_is_wrong(&self) -> Option<String> {
        self.wrong.lock().clone()
    }

    pub(super) fn runs_now(&self, task: u64) -> u64 {
        self.now.swap(task, Ordering::Relaxed)
    }

    /// How long a piece of blocking work waits for its thread.
    pub(super) fn work_takes(&self) -> Duration {
        let most = self.plan.work_takes_ms;
        self.chance(|chance| if chance.one_in(2) { Duration::ZERO } else { chance.ms(0..most + 1) })
    }

    pub(super) fn fault_of_write(&self, _layer: &Digest, length: usize) -> Option<usize> {
        let elapsed = self.elapsed();
        let is_full = self.plan.full.iter().any(|(from, until)| (*from..*until).contains(&elapsed));
        let one_in = self.plan.write_fails_one_in;
        self.chance(|chance| {
            let fails = is_full || one_in > 0 && elapsed < HEALS && chance.one_in(one_in);
            fails.then(|| chance.of(0..length as u64 + 1) as usize)
        })
    }

    pub(super) fn begins(&self, request: &Begins<'_>) {
        self.log(|| format!("begins {request:?}"));
        if let Some(wrong) = self.requests.lock().begins(request, Instant::now()) {
            self.wrong(wrong);
        }
    }

    /// The reader that runs now has begun to read.
    pub(super) fn reads(&self, manager: &Arc<SpanManager>, range: ByteRange) -> u64 {
        let task = self.now.load(Ordering::Relaxed);
        let read = Read { manager: Arc::clone(manager), range, pauses_until: None };
        self.reads.lock().insert(task, read);
        task
    }

    pub(super) fn has_read(&self, task: u64) {
        let read = self.reads.lock().remove(&task);
        drop(read);
    }

    /// The reader that runs now waits for nothing but time.
    pub(super) fn pauses(&self, until: Instant) {
        let task = self.now.load(Ordering::Relaxed);
        if let Some(read) = self.reads.lock().get_mut(&task) {
            read.pauses_until = Some(until);
        }
    }

    /// Looks at what changes with each step.
    pub(super) fn after_step(&self) {
        if self.steps.fetch_add(1, Ordering::Relaxed).is_multiple_of(16) {
            let open: Vec<_> = self.open.lock().values().cloned().collect();
            if let Some(wrong) = self.requests.lock().too_much(&open) {
                self.wrong(wrong);
            }
        }
    }

    /// No task can go on before time does: nobody may wait for what is here, nor for what nobody brings.
    pub(super) fn at_rest(&self) {
        let (now, promises) = (Instant::now(), self.lies.lock().promises());
        let reads: Vec<_> = {
            let reads = self.reads.lock();
            let wait = |read: &&Read| read.pauses_until.is_none_or(|until| until <= now);
            reads.values().filter(wait).map(|read| (Arc::clone(&read.manager), read.range)).collect()
        };
        for (manager, range) in reads {
            let mut bytes = vec![0; range.len() as usize];
            if manager.read_cached(range, &mut bytes).is_ok_and(|is_here| is_here) {
                return self.wrong(format!("a reader of {range} was not woken: its bytes are here"));
            }
            let spans = manager.ztoc().spans();
            let is_coming = |span: SpanId| {
                let part = spans.uncompressed_range(span).intersect(&range);
                part.is_some_and(|part| !manager.cache().holds(part))
                    && !manager.states().is_unrequested(span)
            };
            if !promises && !spans.spans_covering(range).map(SpanId).any(is_coming) {
                return self.wrong(format!("a reader of {range} waits for what nobody fetches"));
            }
        }
    }
}
