//! What came of each start of an image: when it was asked for, mounted and read, which pack it got, and whether the bytes were there in
//! time. For people who look ([`crate::status`]).
//!
//! A [`Starts`] owns the records, a bounded number of them, and an [`Account`] for each image. What must always hold: nobody waits
//! here; on the way of a read nothing is done but what a [`crate::telemetry::tally::Tally`] counts.

mod account;
mod counts;
mod report;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use soci_core::digest::Digest;

pub use account::{Account, PackState};
pub use report::{Bytes, LayerReport, PackReport, Phase, StartReport, Waits, Way};

use crate::telemetry::stats::Stats;
use crate::telemetry::tally::micros;
use account::Seen;
use counts::Counts;

/// Records that are kept.
const MAX_RECORDS: usize = 128;
/// For so long after a container was asked for, what its image reads counts for its start, microseconds.
const WINDOW: u64 = 10 * 60 * 1_000_000;
/// After so long without a read a start is quiet, microseconds.
const QUIET: u64 = 5_000_000;

/// The records of a process.
#[derive(Debug)]
pub struct Starts {
    stats: Arc<Stats>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    accounts: HashMap<(String, Digest), Arc<Account>>,
    records: VecDeque<Record>,
    made: u64,
}

/// One start, or the pull of an image that no container was started from yet.
#[derive(Debug)]
struct Record {
    number: u64,
    account: Arc<Account>,
    /// When the image, or the container, was asked for: by the calendar, and by [`micros`].
    asked: SystemTime,
    asked_at: u64,
    container: Option<Container>,
    /// What had been counted before.
    before: Counts,
    /// What was counted, and read, when the start was over.
    over: Option<(Counts, Seen)>,
    is_measured: bool,
}

#[derive(Debug)]
struct Container {
    key: String,
    namespace: String,
    asked_at: u64,
    mounted_at: Option<u64>,
    choice: Option<(String, String)>,
}

/// The number of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartId(u64);

impl Starts {
    /// No records yet.
    pub fn new(stats: Arc<Stats>) -> Arc<Self> {
        micros(); // the clock begins
        Arc::new(Self { stats, state: Mutex::default() })
    }

    /// The account of an image.
    pub fn account(&self, image: &str, digest: Digest) -> Arc<Account> {
        self.state.lock().account(image, digest)
    }

    /// An image is being pulled. Until a container is started from it, that is the record of its start.
    pub fn pulling(&self, account: &Arc<Account>) {
        let mut state = self.state.lock();
        let waiting = |record: &Record| Arc::ptr_eq(&record.account, account) && record.container.is_none();
        if !state.records.iter().any(waiting) {
            state.close(account, &self.stats);
            let before = account.counts();
            state.begin(account, None, before);
        }
    }

    /// A container is asked for.
    pub fn container(&self, account: &Arc<Account>, key: &str, namespace: &str, asked_at: u64) -> StartId {
        let container = Container {
            key: key.to_owned(),
            namespace: namespace.to_owned(),
            asked_at,
            mounted_at: None,
            choice: None,
        };
        let mut state = self.state.lock();
        let of_pull =
            |record: &&mut Record| Arc::ptr_eq(&record.account, account) && record.container.is_none();
        if let Some(record) = state.records.iter_mut().find(of_pull) {
            record.container = Some(container);
            return StartId(record.number);
        }
        state.close(account, &self.stats);
        let before = account.counts();
        state.begin(account, Some(container), before)
    }

    /// Its mounts were given at this moment.
    pub fn mounted(&self, id: StartId, at: u64) {
        if let Some(container) = self.state.lock().container(id) {
            container.mounted_at = Some(at);
        }
    }

    /// Which workload its pack is for, and who has said so.
    pub fn chosen(&self, id: StartId, workload: &str, by: &str) {
        if let Some(container) = self.state.lock().container(id) {
            container.choice = Some((workload.to_owned(), by.to_owned()));
        }
    }

    /// All records, the newest first.
    pub fn reports(&self) -> Vec<StartReport> {
        let mut state = self.state.lock();
        state.end_old(&self.stats);
        state.records.iter().rev().map(Record::report).collect()
    }

    /// Ends records whose time is over, and takes first bytes into the account. To be called now and then.
    pub fn look(&self) {
        self.state.lock().end_old(&self.stats);
    }
}

impl State {
    fn account(&mut self, image: &str, digest: Digest) -> Arc<Account> {
        let key = (image.to_owned(), digest);
        if let Some(known) = self.accounts.get(&key) {
            return Arc::clone(known);
        }
        self.accounts.retain(|_, account| Arc::strong_count(account) > 1);
        let account = Arc::new(Account::new(image, digest));
        self.accounts.insert(key, Arc::clone(&account));
        account
    }

    fn begin(&mut self, account: &Arc<Account>, container: Option<Container>, before: Counts) -> StartId {
        account.rearm();
        while self.records.len() >= MAX_RECORDS {
            self.records.pop_front();
        }
        self.made += 1;
        let asked_at = container.as_ref().map_or_else(micros, |container| container.asked_at);
        let ago = Duration::from_micros(micros().saturating_sub(asked_at));
        self.records.push_back(Record {
            number: self.made,
            account: Arc::clone(account),
            asked: SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH),
            asked_at,
            container,
            before,
            over: None,
            is_measured: false,
        });
        StartId(self.made)
    }

    /// Ends the records of an image: another start begins.
    fn close(&mut self, account: &Arc<Account>, stats: &Stats) {
        for record in self.records.iter_mut().filter(|record| Arc::ptr_eq(&record.account, account)) {
            record.measure(stats);
            record.end();
        }
    }

    fn end_old(&mut self, stats: &Stats) {
        let now = micros();
        for record in &mut self.records {
            record.measure(stats);
            if record
                .container
                .as_ref()
                .is_some_and(|container| now.saturating_sub(container.asked_at) > WINDOW)
            {
                record.end();
            }
        }
    }

    fn container(&mut self, id: StartId) -> Option<&mut Container> {
        self.records.iter_mut().find(|record| record.number == id.0)?.container.as_mut()
    }
}

impl Record {
    fn end(&mut self) {
        if self.over.is_none() {
            self.over = Some((self.account.counts(), self.account.seen()));
        }
    }

    fn now(&self) -> (Counts, Seen) {
        self.over.clone().unwrap_or_else(|| (self.account.counts(), self.account.seen()))
    }

    /// Tells the metrics when the first byte was read, once.
    fn measure(&mut self, stats: &Stats) {
        let Some(container) = self.container.as_ref().filter(|_| !self.is_measured && self.over.is_none())
        else {
            return;
        };
        if let Some(first) = self.account.seen().first.filter(|first| *first >= container.asked_at) {
            stats.first_bytes.observe(Duration::from_micros(first - container.asked_at));
            self.is_measured = true;
        }
    }

    fn report(&self) -> StartReport {
        let (counts, seen) = self.now();
        let ms = |at: u64| at.saturating_sub(self.asked_at) / 1000;
        let own = |at: Option<u64>| at.filter(|at| *at >= self.asked_at);
        let idle = own(seen.last).map(|last| micros().saturating_sub(last));
        let is_quiet = self.over.is_some() || idle.is_some_and(|idle| idle >= QUIET);
        let phase = match &self.container {
            None => Phase::Pulled,
            Some(_) if self.over.is_some() => Phase::Over,
            Some(_) if is_quiet => Phase::Quiet,
            Some(_) => Phase::Starting,
        };
        let container = self.container.as_ref();
        let counts = counts.since(&self.before);
        let mut packs = self.account.packs(&|at| ms(at.max(self.asked_at)));
        if let Some((workload, by)) = container.and_then(|container| container.choice.as_ref()) {
            // That of the start first.
            packs.sort_by_key(|pack| pack.workload != *workload);
            if let Some(first) = packs.first_mut().filter(|pack| pack.workload == *workload) {
                first.chosen_by.clone_from(by);
            }
        }
        StartReport {
            image: self.account.image().to_string(),
            digest: self.account.digest(),
            number: self.number,
            phase,
            namespace: container.map(|container| container.namespace.clone()).unwrap_or_default(),
            container: container.map(|container| container.key.clone()),
            asked: report::calendar(self.asked),
            container_asked_ms: container.map(|container| ms(container.asked_at)),
            mounted_ms: container.and_then(|container| container.mounted_at).map(ms),
            first_byte_ms: own(seen.first).map(ms),
            pack_done_ms: packs.first().and_then(|pack| pack.done_ms),
            quiet_ms: own(seen.last).filter(|_| is_quiet).map(ms),
            packs,
            layers: self.account.layers(),
            bytes: counts.bytes(),
            requests: counts.requests,
            waits: counts.waits(),
            reads: counts.reads,
            read_bytes: counts.read_bytes,
            note: self.account.note(),
        }
    }
}

#[cfg(test)]
mod tests;
