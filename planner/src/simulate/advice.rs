//! The verdict: whether a workload touches so much of its image that a parallel pull of all of it is better. Pure.

use super::parameters::{Layout, Link, Node};
use super::predict::predict;
use super::prediction::Mode;
use super::table::LINKS;
use super::workload::Case;

/// What the two ways take over one link, seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// The link.
    pub link: Link,
    /// All layers pulled and unpacked first.
    pub full: f64,
    /// Served in parts.
    pub parts: f64,
}

/// Figures for the links of [`LINKS`].
#[derive(Debug, Clone, PartialEq)]
pub struct Advice {
    /// How the image would be served in parts.
    pub mode: Mode,
    /// By link.
    pub by_link: Vec<Comparison>,
}

impl Advice {
    /// Compares a full pull with `mode`.
    pub fn of(case: &Case, mode: Mode, node: &Node, layout: &Layout) -> Self {
        let compare = |(round_trip_ms, mbit)| {
            let link = Link::new(round_trip_ms, mbit);
            let ready = |mode| predict(case, mode, link, node, layout).ready;
            Comparison { link, full: ready(Mode::Full), parts: ready(mode) }
        };
        Self { mode, by_link: LINKS.into_iter().map(compare).collect() }
    }

    /// A full pull is faster over every one of the links: whoever reads this need not know which one a node has.
    pub fn is_whole(&self) -> bool {
        self.by_link.iter().all(|link| link.full < link.parts)
    }
}
