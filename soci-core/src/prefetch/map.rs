//! Plan -> span ranges: looks each file up in the image and its bytes up in the layer's spans.
//!
//! Holds no state. What must always hold: a span appears once, at its first need; ranges are exactly the spans that
//! hold the planned bytes (half-open); `priority` is the rank over all layers, from 1; two ranges become one only when
//! they follow each other in that order and touch, so the order is never changed.

use std::{collections::HashSet, sync::Arc};

use super::{ImageView, NotLocated, Plan, PrefetchSpan};
use crate::{units::ByteRange, ztoc::SpanTable};

/// The plan's bytes by layer, in the order of need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Layer number and bytes of its uncompressed stream.
    pub ranges: Vec<(usize, ByteRange)>,
    /// So many ranges at the front are of the plan's items that were asked for before the workload was ready.
    pub must_have: usize,
    /// Paths of the plan that are no regular files of the image, each once, in the order of need.
    pub missing: Vec<Arc<[u8]>>,
}

/// The plan's spans.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapped {
    /// For each layer its ranges, in the order of need.
    pub layers: Vec<Vec<PrefetchSpan>>,
    /// Bytes of the plan that lie in layers without spans.
    pub unspanned_bytes: u64,
}

impl Needs {
    /// Looks every file of the plan up in the image.
    pub fn of(plan: &Plan, view: &ImageView) -> Self {
        let mut needs = Self::default();
        let mut missed = HashSet::new();
        for (place, item) in plan.items.iter().enumerate() {
            match view.locate(&item.path) {
                Ok(located) => {
                    let shift = |at: u64| located.content.start.saturating_add(at);
                    let wanted = ByteRange::new(shift(item.range.start), shift(item.range.end));
                    if let Some(range) = located.content.intersect(&wanted) {
                        needs.ranges.push((located.layer, range));
                        if place < plan.must_have {
                            needs.must_have = needs.ranges.len();
                        }
                    }
                }
                Err(NotLocated::Missing | NotLocated::NotRegular | NotLocated::Loop) => {
                    if missed.insert(&item.path) {
                        needs.missing.push(item.path.clone());
                    }
                }
            }
        }
        needs
    }

    /// The bytes needed from one layer, ascending and disjoint: ranges at most `gap` bytes apart count as one.
    pub fn merged(&self, layer: usize, gap: u64) -> Vec<ByteRange> {
        let mut ranges: Vec<ByteRange> =
            self.ranges.iter().filter(|(of, _)| *of == layer).map(|(_, range)| *range).collect();
        ranges.sort_unstable();
        let mut merged: Vec<ByteRange> = Vec::new();
        for range in ranges {
            match merged.last_mut() {
                Some(open) if range.start <= open.end.saturating_add(gap) => {
                    open.end = open.end.max(range.end);
                }
                _ => merged.push(range),
            }
        }
        merged
    }
}

/// Finds the spans that hold the needed bytes. `spans[n]` is the span table of layer `n`, if it has one.
pub fn map(needs: &Needs, spans: &[Option<&SpanTable>]) -> Mapped {
    let mut mapped = Mapped { layers: vec![Vec::new(); spans.len()], unspanned_bytes: 0 };
    let mut planned: Vec<HashSet<u32>> = vec![HashSet::new(); spans.len()];
    let mut rank = 0u64;
    let mut last_layer = None;
    for &(layer, range) in &needs.ranges {
        let Some(table) = spans.get(layer).copied().flatten() else {
            mapped.unspanned_bytes += range.len();
            continue;
        };
        for span in table.spans_covering(range) {
            if !planned[layer].insert(span) {
                continue;
            }
            match mapped.layers[layer].last_mut() {
                Some(open) if last_layer == Some(layer) && open.end_span + 1 == span => open.end_span = span,
                _ => {
                    rank += 1;
                    let range = PrefetchSpan { start_span: span, end_span: span, priority: rank };
                    mapped.layers[layer].push(range);
                    last_layer = Some(layer);
                }
            }
        }
    }
    mapped
}
