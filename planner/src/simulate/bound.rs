//! The physical bound: what no system can beat. A start with every byte on the node, and what the link must carry before each byte
//! is needed: `T >= T_warm + max(0, max_i(2 round trips + P_i / bandwidth - d_i))`. Two round trips: one to learn what the image is, one
//! until the first byte of content.

use super::parameters::{Link, Node};
use super::prediction::Outcome;
use super::spans::compressed;
use super::workload::Case;
use crate::plan::Coverage;

const HOPS: f64 = 2.0;

/// The bound of a start.
pub(super) fn start(case: &Case, link: Link, node: &Node) -> Outcome {
    let begin = node.find + node.launch;
    let mut known = vec![Coverage::default(); case.layers.len()];
    let (mut bytes, mut need, mut late) = (0.0, begin, 0.0f64);
    for item in &case.needs {
        let marks = &case.layers[item.layer].marks;
        bytes +=
            known[item.layer].add(item.range).into_iter().map(|part| compressed(marks, part)).sum::<f64>();
        need += item.after;
        late = late.max(HOPS * link.round_trip + bytes / link.bandwidth - need);
    }
    Outcome { begin: begin + late, ready: begin + case.compute + late, bytes, requests: 1 }
}
