//! Predictions of several ways to start over several links. Pure.

use super::parameters::{Layout, Link, Node};
use super::predict::predict;
use super::prediction::{Mode, Outcome};
use super::workload::Case;

/// Links that are predicted for when none is named: a near registry, one across a fast network, and a far one.
pub const LINKS: [(f64, f64); 3] = [(1.0, 1000.0), (5.0, 100.0), (100.0, 25.0)];

/// The starts over one link.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The link.
    pub link: Link,
    /// The physical bound.
    pub bound: Outcome,
    /// By mode, in the order that was asked for; without the bound.
    pub starts: Vec<(Mode, Outcome)>,
}

impl Row {
    /// The fastest of the starts.
    pub fn best(&self) -> Option<(Mode, Outcome)> {
        self.starts.iter().copied().min_by(|(_, one), (_, other)| one.ready.total_cmp(&other.ready))
    }

    /// The start in this mode, if it was asked for.
    pub fn of(&self, mode: Mode) -> Option<Outcome> {
        if mode == Mode::Bound {
            return Some(self.bound);
        }
        self.starts.iter().find(|(of, _)| *of == mode).map(|(_, outcome)| *outcome)
    }
}

/// Predicts all of them.
pub fn table(case: &Case, modes: &[Mode], links: &[Link], node: &Node, layout: &Layout) -> Vec<Row> {
    let row = |&link: &Link| {
        let of = |mode| predict(case, mode, link, node, layout);
        let starts = modes.iter().filter(|mode| **mode != Mode::Bound).map(|&mode| (mode, of(mode)));
        Row { link, bound: of(Mode::Bound), starts: starts.collect() }
    };
    links.iter().map(row).collect()
}
