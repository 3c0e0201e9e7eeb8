//! One case, one way, one link. Pure.

use super::parameters::{Layout, Link, Node};
use super::prediction::{Mode, Outcome};
use super::workload::Case;
use super::{bound, full, start};

/// Predicts one start.
pub fn predict(case: &Case, mode: Mode, link: Link, node: &Node, layout: &Layout) -> Outcome {
    let ideal = link;
    let link = Link { bandwidth: link.bandwidth * node.goodput, ..link };
    match mode {
        Mode::Full => full::start(case, link, node),
        Mode::Lazy => start::lazy(case, link, node, layout),
        Mode::Prefetch => start::prefetch(case, link, node, layout),
        Mode::Pack => start::pack(case, link, node, layout),
        Mode::Bound => bound::start(case, ideal, node),
    }
}
