//! What is known and counted of one image, whoever starts it: its layers and why each came as it did, its packs, its bytes.
//!
//! An [`Account`] owns these. It outlives the layers, whose counters it holds.

use std::sync::Arc;

use parking_lot::Mutex;
use soci_core::digest::Digest;
use soci_core::registry::Traffic;

use super::counts::Counts;
use super::report::{LayerReport, PackReport, Way};
use crate::telemetry::stats::Counter;
use crate::telemetry::tally::{Tally, micros};

/// Packs of one image that are remembered.
const MAX_PACKS: usize = 32;
/// Longest text of a reason, in characters.
const MAX_REASON: usize = 500;

/// How far a pack has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PackState {
    /// It is on its way.
    Coming,
    /// All of it is here.
    Done,
    /// It was dropped, for this reason.
    Failed(String),
}

/// The account of one image.
#[derive(Debug)]
pub struct Account {
    image: Arc<str>,
    digest: Digest,
    /// What the link carries for all but spans and whole layers.
    pub meter: Arc<Traffic>,
    /// What it carries for layers that are pulled whole.
    pub whole: Arc<Traffic>,
    /// Stored bytes of packs' blocks.
    pub packed: Arc<Counter>,
    facts: Mutex<Facts>,
}

#[derive(Debug, Default)]
struct Facts {
    layers: Vec<Layer>,
    packs: Vec<Pack>,
    /// What was counted of layers that were forgotten and came again.
    past: Counts,
    note: Option<String>,
}

#[derive(Debug)]
struct Layer {
    digest: Digest,
    tally: Option<Arc<Tally>>,
    told: Option<(Way, String, String)>,
}

#[derive(Debug)]
struct Pack {
    digest: Digest,
    workload: String,
    by: String,
    size: u64,
    begun_at: u64,
    done_at: Option<u64>,
    state: PackState,
}

/// When reads of the image came, by [`micros`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) first: Option<u64>,
    pub(super) last: Option<u64>,
}

impl Account {
    pub(super) fn new(image: &str, digest: Digest) -> Self {
        Self {
            image: image.into(),
            digest,
            meter: Arc::default(),
            whole: Arc::default(),
            packed: Arc::default(),
            facts: Mutex::default(),
        }
    }

    /// The image's name.
    pub const fn image(&self) -> &Arc<str> {
        &self.image
    }

    /// Digest of its manifest.
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// A layer of the image is ready to be served lazily.
    pub fn serves(&self, layer: Digest, tally: &Arc<Tally>) {
        tally.serves(&self.image);
        let mut facts = self.facts.lock();
        let facts = &mut *facts;
        let known = layer_of(&mut facts.layers, layer);
        if known.tally.as_ref().is_some_and(|known| Arc::ptr_eq(known, tally)) {
            return;
        }
        if let Some(before) = known.tally.replace(Arc::clone(tally)) {
            facts.past = facts.past.and(&counts_of(&before));
        }
    }

    /// How a layer came, why, and what would change that. Not for reasons that contain secrets.
    pub fn came(&self, layer: Digest, way: Way, reason: impl Into<String>, advice: impl Into<String>) {
        let told = (way, short(reason.into()), advice.into());
        layer_of(&mut self.facts.lock().layers, layer).told = Some(told);
    }

    /// Something about the whole image.
    pub fn remark(&self, note: impl Into<String>) {
        self.facts.lock().note = Some(short(note.into()));
    }

    /// A pack begins to come, for this workload (empty: none in particular), chosen by this.
    pub fn pack_begins(&self, digest: Digest, workload: &str, by: &str, size: u64) {
        let pack = Pack {
            digest,
            workload: workload.to_owned(),
            by: by.to_owned(),
            size,
            begun_at: micros(),
            done_at: None,
            state: PackState::Coming,
        };
        let mut facts = self.facts.lock();
        facts.packs.retain(|known| known.digest != digest);
        if facts.packs.len() >= MAX_PACKS {
            facts.packs.remove(0);
        }
        facts.packs.push(pack);
    }

    /// A pack has come, or not.
    pub fn pack_ends(&self, digest: &Digest, failure: Option<String>) {
        if let Some(pack) = self.facts.lock().packs.iter_mut().find(|pack| pack.digest == *digest) {
            pack.done_at = Some(micros());
            pack.state = failure.map_or(PackState::Done, |failure| PackState::Failed(short(failure)));
        }
    }

    /// What was counted until now.
    pub(super) fn counts(&self) -> Counts {
        let facts = self.facts.lock();
        let layers = facts.layers.iter().filter_map(|layer| layer.tally.as_ref());
        let spans = layers.fold(facts.past.clone(), |sum, tally| sum.and(&counts_of(tally)));
        let own = Counts {
            other: self.meter.bytes_received(),
            whole: self.whole.bytes_received(),
            requests: self.meter.total_requests() + self.whole.total_requests(),
            packed: self.packed.get(),
            ..Counts::default()
        };
        spans.and(&own)
    }

    /// When its layers were read.
    pub(super) fn seen(&self) -> Seen {
        let facts = self.facts.lock();
        let layers = facts.layers.iter().filter_map(|layer| layer.tally.as_ref());
        layers.fold(Seen::default(), |seen, tally| {
            let (first, last) = tally.read_at();
            Seen { first: [seen.first, first].into_iter().flatten().min(), last: seen.last.max(last) }
        })
    }

    /// The next read of each layer is a first one.
    pub(super) fn rearm(&self) {
        for tally in self.facts.lock().layers.iter().filter_map(|layer| layer.tally.as_ref()) {
            tally.rearm();
        }
    }

    pub(super) fn layers(&self) -> Vec<LayerReport> {
        let facts = self.facts.lock();
        let told = |layer: &Layer| {
            let (way, reason, advice) = layer.told.clone()?;
            Some(LayerReport { digest: layer.digest, way, reason, advice })
        };
        facts.layers.iter().filter_map(told).collect()
    }

    /// The packs, the newest first; `ms` makes milliseconds of a moment.
    pub(super) fn packs(&self, ms: &dyn Fn(u64) -> u64) -> Vec<PackReport> {
        let report = |pack: &Pack| PackReport {
            digest: pack.digest,
            workload: pack.workload.clone(),
            chosen_by: pack.by.clone(),
            size: pack.size,
            begun_ms: ms(pack.begun_at),
            done_ms: pack.done_at.map(ms),
            state: match &pack.state {
                PackState::Coming => "coming",
                PackState::Done => "here",
                PackState::Failed(_) => "failed",
            },
            failure: match &pack.state {
                PackState::Failed(failure) => Some(failure.clone()),
                PackState::Coming | PackState::Done => None,
            },
        };
        self.facts.lock().packs.iter().rev().map(report).collect()
    }

    pub(super) fn note(&self) -> Option<String> {
        self.facts.lock().note.clone()
    }
}

fn layer_of(layers: &mut Vec<Layer>, digest: Digest) -> &mut Layer {
    let at = layers.iter().position(|layer| layer.digest == digest).unwrap_or_else(|| {
        layers.push(Layer { digest, tally: None, told: None });
        layers.len() - 1
    });
    &mut layers[at]
}

fn counts_of(tally: &Tally) -> Counts {
    Counts {
        spans: tally.meter.bytes_received(),
        requests: tally.meter.total_requests(),
        missed: tally.missed.get(),
        prefetched: tally.prefetched.get(),
        background: tally.background.get(),
        ahead: tally.ahead(),
        hit: tally.hit.get(),
        handed: tally.handed.get(),
        late: tally.late.get(),
        late_wait: tally.late_wait_us.get(),
        missed_wait: tally.missed_wait_us.get(),
        reads: tally.reads.get(),
        read_bytes: tally.read_bytes.get(),
        ..Counts::default()
    }
}

fn short(mut text: String) -> String {
    if let Some((at, _)) = text.char_indices().nth(MAX_REASON) {
        text.truncate(at);
    }
    text
}
