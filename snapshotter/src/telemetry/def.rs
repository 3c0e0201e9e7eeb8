//! What a metric is: its name and where its value comes from. Plain data.

use std::sync::Arc;

use soci_core::registry::Traffic;

use super::series::Series;
use super::stats::Stats;
use crate::engine::Load;
use crate::node::LayerInUse;
use crate::snapshot::{Served, SnapshotStats};

/// Where the values are.
#[derive(Debug, Clone)]
pub struct Sources {
    /// Registry client.
    pub traffic: Arc<Traffic>,
    /// Data plane.
    pub stats: Arc<Stats>,
    /// Snapshots.
    pub counters: Arc<SnapshotStats>,
    /// What is so at the moment of the scrape.
    pub now: Now,
}

/// What is so at one moment.
#[derive(Debug, Clone, Default)]
pub struct Now {
    /// Lazy layers by how they are served.
    pub served: Served,
    /// What is out and what waits.
    pub load: Load,
    /// Layers in use.
    pub layers: Vec<LayerInUse>,
    /// Whether `/healthz` says that all is well.
    pub healthy: bool,
}

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, since the start of the process.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Times in buckets.
    Histogram,
}

/// What is promised of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stability {
    /// It stays, with its meaning.
    Stable,
    /// The name is upstream's, and so is the meaning; it stays as long as upstream has it.
    Upstream,
    /// It may change with the engine that it looks into.
    Internal,
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Def {
    /// Name, with its unit, and `_total` if it is a counter of ours.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What is promised.
    pub stability: Stability,
    /// One sentence.
    pub help: &'static str,
    /// Where the value comes from.
    pub value: Value,
}

/// How a metric is read.
#[derive(Debug, Clone, Copy)]
pub enum Value {
    /// One number.
    Plain(fn(&Sources) -> u64),
    /// One number for each value of a label.
    Labelled {
        /// The label.
        label: &'static str,
        /// Its values with their numbers.
        values: fn(&Sources) -> Vec<(&'static str, u64)>,
    },
    /// Any number of series.
    Series {
        /// Names of the labels.
        labels: &'static [&'static str],
        /// Writes them.
        write: fn(&Sources, &mut Series<'_>),
    },
}

impl Def {
    /// The unit, as its name has it; `1` for a number of things.
    pub fn unit(&self) -> &'static str {
        let units = ["bytes", "microseconds", "milliseconds", "seconds"];
        // `soci_fs_bytes_served` is upstream's.
        units.into_iter().find(|unit| self.name.contains(unit)).unwrap_or("1")
    }
}

pub(super) const fn plain(name: &'static str, help: &'static str, value: fn(&Sources) -> u64) -> Def {
    Def { name, kind: Kind::Counter, stability: Stability::Stable, help, value: Value::Plain(value) }
}

pub(super) const fn gauge(name: &'static str, help: &'static str, value: fn(&Sources) -> u64) -> Def {
    Def { name, kind: Kind::Gauge, stability: Stability::Stable, help, value: Value::Plain(value) }
}

pub(super) const fn labelled(
    name: &'static str,
    help: &'static str,
    label: &'static str,
    values: fn(&Sources) -> Vec<(&'static str, u64)>,
) -> Def {
    let value = Value::Labelled { label, values };
    Def { name, kind: Kind::Counter, stability: Stability::Stable, help, value }
}

pub(super) const fn series(
    name: &'static str,
    kind: Kind,
    stability: Stability,
    help: &'static str,
    labels: &'static [&'static str],
    write: fn(&Sources, &mut Series<'_>),
) -> Def {
    Def { name, kind, stability, help, value: Value::Series { labels, write } }
}
