//! Plan -> span ranges: looks each file up in the image and its bytes up in the layer's spans.
//!
//! Holds no state. What must always hold: a span appears once, at its first need; ranges are exactly the spans that
//! hold the planned bytes (half-open); `priority` is the rank over all layers, from 1; two ranges become one only when
//! they follow each other in that order and touch, so the order is never changed; each needed byte is named once, at the
//! range whose spans hold it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{ImageView, NotLocated, Plan, PrefetchSpan};
use crate::{
    coverage::Coverage,
    units::{ByteRange, SpanId},
    ztoc::SpanTable,
};

/// The plan's bytes by layer, in the order of need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Layer number and bytes of its uncompressed stream.
    pub ranges: Vec<(usize, ByteRange)>,
    /// So many ranges at the front are of the items that [`Plan::asked`] counts.
    pub asked: usize,
    /// So many ranges at the front are of the items that [`Plan::must_have`] counts.
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

/// How much is fetched ahead by spans, and what a budget leaves out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ahead {
    /// Spans that are named.
    pub spans: u64,
    /// Their compressed bytes.
    pub bytes: u64,
    /// Spans that are needed and not named, because the budget is used up.
    pub cut_spans: u64,
    /// Their compressed bytes.
    pub cut_bytes: u64,
}

impl Mapped {
    /// Leaves out the spans that are needed last, so that those that stay have at most `budget` compressed bytes. `spans[n]` is
    /// the span table of layer `n`, as for [`map()`].
    pub fn cut(&mut self, budget: Option<u64>, spans: &[Option<&SpanTable>]) -> Ahead {
        let mut ahead = Ahead::default();
        let mut order: Vec<(u64, usize, usize)> = Vec::new();
        for (layer, ranges) in self.layers.iter().enumerate() {
            order.extend(ranges.iter().enumerate().map(|(place, range)| (range.priority, layer, place)));
        }
        order.sort_unstable();
        let mut left = budget.unwrap_or(u64::MAX);
        for (_, layer, place) in order {
            let Some(table) = spans.get(layer).copied().flatten() else { continue };
            let range = &mut self.layers[layer][place];
            let mut kept = None;
            for span in range.start_span..=range.end_span {
                let size = table.compressed_range(SpanId(span)).len();
                // What comes behind a span that is left out is needed later: it is left out, too.
                if let Some(rest) = left.checked_sub(size).filter(|_| ahead.cut_spans == 0) {
                    (left, kept) = (rest, Some(span));
                    ahead.spans += 1;
                    ahead.bytes += size;
                } else {
                    ahead.cut_spans += 1;
                    ahead.cut_bytes += size;
                }
            }
            match kept {
                Some(last) if last == range.end_span => {}
                Some(last) => {
                    range.end_span = last;
                    let end = table.uncompressed_range(SpanId(last)).end;
                    range.ranges.retain_mut(|needed| {
                        needed[1] = needed[1].min(end);
                        needed[0] < needed[1]
                    });
                }
                None => range.priority = 0, // none has this one
            }
        }
        for ranges in &mut self.layers {
            ranges.retain(|range| range.priority > 0);
        }
        ahead
    }
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
                        if place < plan.asked {
                            needs.asked = needs.ranges.len();
                        }
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
    // The range that each planned span is in.
    let mut planned: Vec<HashMap<u32, usize>> = vec![HashMap::new(); spans.len()];
    let mut known = vec![Coverage::default(); spans.len()];
    let mut rank = 0u64;
    let mut last_layer = None;
    for &(layer, range) in &needs.ranges {
        let Some(table) = spans.get(layer).copied().flatten() else {
            mapped.unspanned_bytes += range.len();
            continue;
        };
        let (ranges, planned) = (&mut mapped.layers[layer], &mut planned[layer]);
        for span in table.spans_covering(range) {
            if planned.contains_key(&span) {
                continue;
            }
            match ranges.last_mut() {
                Some(open) if last_layer == Some(layer) && open.end_span + 1 == span => open.end_span = span,
                _ => {
                    rank += 1;
                    let new =
                        PrefetchSpan { start_span: span, end_span: span, priority: rank, ranges: Vec::new() };
                    ranges.push(new);
                    last_layer = Some(layer);
                }
            }
            planned.insert(span, ranges.len() - 1);
        }
        for part in known[layer].add(range) {
            for span in table.spans_covering(part) {
                let inside = table.uncompressed_range(SpanId(span)).intersect(&part);
                if let (Some(inside), Some(&at)) = (inside, planned.get(&span)) {
                    need(&mut ranges[at].ranges, inside);
                }
            }
        }
    }
    mapped
}

/// Adds needed bytes behind those that are known.
fn need(ranges: &mut Vec<[u64; 2]>, range: ByteRange) {
    match ranges.last_mut() {
        Some([_, end]) if *end == range.start => *end = range.end,
        _ => ranges.push([range.start, range.end]),
    }
}
