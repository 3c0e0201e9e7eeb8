//! Which span size an index is best made with. Pure.

use super::parameters::{Layout, Link, Node};
use super::predict::predict;
use super::prediction::Mode;
use super::table::LINKS;
use super::workload::Case;

/// Span sizes that are tried: 1, 2, 4 and 8 MiB. Smaller ones make zTOCs that are as large as what they save.
pub const CANDIDATES: [u64; 4] = [1 << 20, 2 << 20, 4 << 20, 8 << 20];

/// A size, and how long starts take with it: the geometric mean over [`LINKS`], seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tried {
    /// Plain bytes of a span.
    pub span_size: u64,
    /// Seconds.
    pub ready: f64,
}

/// All candidates, the best first. Prefetch artifacts are used as far as `layout` and the plan have some.
pub fn span_sizes(case: &Case, node: &Node, layout: &Layout) -> Vec<Tried> {
    let tried = |span_size: u64| {
        let layout = Layout { span_size, ..*layout };
        let logs = LINKS
            .map(|(ms, mbit)| predict(case, Mode::Prefetch, Link::new(ms, mbit), node, &layout).ready.ln());
        Tried { span_size, ready: (logs.iter().sum::<f64>() / logs.len() as f64).exp() }
    };
    let mut all: Vec<Tried> = CANDIDATES.into_iter().map(tried).collect();
    all.sort_by(|one, other| one.ready.total_cmp(&other.ready));
    all
}
