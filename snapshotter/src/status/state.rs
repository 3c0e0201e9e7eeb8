//! The documents of the status socket. Names in them are promises (docs/operations.md) in [`Overview`], and none in [`State`].

use std::sync::Arc;

use serde::Serialize;
use soci_core::digest::Digest;

use super::{Health, Status};
use crate::blocking::try_blocking;
use crate::snapshot::SnapshotStats;
use crate::starts::StartReport;

/// `/status`: what an operator wants to know first.
#[derive(Debug, Clone, Serialize)]
pub struct Overview {
    /// Version of this document.
    pub version: u32,
    /// Release of the snapshotter.
    pub release: &'static str,
    /// Seconds since the process has started.
    pub up_s: u64,
    /// Nothing is wrong.
    pub healthy: bool,
    /// What is wrong.
    pub problems: Vec<String>,
    /// Lazy layers by how they are served.
    pub layers: Layers,
    /// Bytes on disk that cached layers take, and those that their file system has free, as they were measured last.
    pub cache_bytes: u64,
    /// See above.
    pub disk_free_bytes: u64,
    /// Spans that wait to be fetched ahead.
    pub queue: usize,
    /// Layers that were asked for since the start, by the way they came.
    pub came: Came,
    /// Layers that could not be lazy because their client did not say which they are.
    pub unlabelled: Vec<UnlabelledLayers>,
    /// Starts, the newest first.
    pub starts: Vec<StartReport>,
}

/// Lazy layers by how they are served.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Layers {
    /// Mounted, and served.
    pub mounted: usize,
    /// Mounted by an earlier process: readers wait.
    pub waiting: usize,
    /// Not mounted: nobody has wanted them.
    pub absent: usize,
    /// They could not be served.
    pub dead: usize,
}

/// Layers that were asked for, by the way they came.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Came {
    /// Lazily.
    pub lazy: u64,
    /// Pulled by the snapshotter.
    pub whole: u64,
    /// Left to the container runtime.
    pub runtime: u64,
}

/// Layers whose client did not say which they are.
#[derive(Debug, Clone, Serialize)]
pub struct UnlabelledLayers {
    /// The client, as the metric `soci_unlabelled_layers_total` names it.
    pub client: &'static str,
    /// Layers since the process started; none are left out.
    pub layers: u64,
    /// What to change, so that the next pull is lazy.
    pub advice: &'static str,
}

/// `/debug/state`: all of that, and what the engine does.
#[derive(Debug, Serialize)]
pub struct State {
    /// As `/status` has it.
    #[serde(flatten)]
    pub overview: Overview,
    /// Packs on their way.
    pub packs: usize,
    /// Layers that the background has not completed.
    pub background: usize,
    /// Requests out, by registry host.
    pub hosts: Vec<Host>,
    /// Layers in use.
    pub in_use: Vec<InUse>,
}

/// Requests out at a host.
#[derive(Debug, Serialize)]
pub struct Host {
    name: String,
    readers_waiting: usize,
    readers_receiving: usize,
    ahead: usize,
    slots_free: usize,
}

/// A layer in use.
#[derive(Debug, Serialize)]
pub struct InUse {
    layer: Digest,
    image: String,
    blob_bytes: u64,
    plain_bytes: u64,
    cached_bytes: u64,
    link_bytes: u64,
    reads: u64,
    read_failures: u64,
    spans_missed: u64,
}

impl Status {
    /// `/status`.
    pub async fn overview(self: &Arc<Self>) -> Overview {
        let health = self.health().await;
        let this = Arc::clone(self);
        let made = try_blocking(move || this.overview_now(health)).await;
        made.unwrap_or_else(|_| self.overview_now(Health { problems: vec!["a thread has ended".to_owned()] }))
    }

    fn overview_now(&self, health: Health) -> Overview {
        let node = self.node();
        let served = self.snapshotter().map(|snapshotter| snapshotter.served()).unwrap_or_default();
        let (stats, counters) = (&self.sources.stats, &self.sources.counters);
        Overview {
            version: 1,
            release: env!("CARGO_PKG_VERSION"),
            up_s: self.begun.elapsed().as_secs(),
            healthy: health.is_good(),
            problems: health.problems,
            layers: Layers {
                mounted: served.mounted,
                waiting: served.waiting,
                absent: served.absent,
                dead: served.dead,
            },
            cache_bytes: stats.cache_bytes.get(),
            disk_free_bytes: stats.disk_free_bytes.get(),
            queue: node.as_ref().map_or(0, |node| node.load().prefetch),
            came: Came {
                lazy: counters.lazy_layers.get(),
                whole: counters.whole_layers.get(),
                runtime: counters.runtime_layers.get(),
            },
            unlabelled: unlabelled(counters),
            starts: node.map(|node| node.starts().reports()).unwrap_or_default(),
        }
    }

    /// `/debug/state`.
    pub async fn state(self: &Arc<Self>) -> State {
        let (overview, sources) = tokio::join!(self.overview(), self.scrape());
        let (load, layers) = (sources.now.load, sources.now.layers);
        State {
            overview,
            packs: load.packs,
            background: load.background,
            hosts: load
                .hosts
                .into_iter()
                .map(|host| Host {
                    name: host.host,
                    readers_waiting: host.demand_waiting,
                    readers_receiving: host.demand_receiving,
                    ahead: host.ahead,
                    slots_free: host.free,
                })
                .collect(),
            in_use: layers
                .into_iter()
                .map(|layer| InUse {
                    layer: layer.digest,
                    image: layer.tally.image().to_string(),
                    blob_bytes: layer.blob,
                    plain_bytes: layer.size,
                    cached_bytes: layer.cached,
                    link_bytes: layer.tally.meter.bytes_received(),
                    reads: layer.tally.reads.get(),
                    read_failures: layer.tally.read_failures.get(),
                    spans_missed: layer.tally.missed_spans.get(),
                })
                .collect(),
        }
    }
}

fn unlabelled(counters: &SnapshotStats) -> Vec<UnlabelledLayers> {
    let told = counters.unlabelled.by_reason().into_iter().filter(|(_, layers)| *layers > 0);
    told.map(|(reason, layers)| UnlabelledLayers { client: reason.name(), layers, advice: reason.advice() })
        .collect()
}
