//! A plan: the byte ranges of image files to fetch ahead, first need first. Holds no state.

use std::sync::Arc;

use crate::units::ByteRange;

/// What to fetch ahead, in the order of first need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The ranges; no byte of a file is in two of them.
    pub items: Vec<PlanItem>,
    /// So many items at the front were read, faulted in or executed before the workload was ready.
    pub asked: usize,
    /// So many items at the front come before the workload is ready: those, and behind them what the kernel mapped along. About half
    /// of what it maps along is used without a trace, so no budget may count it as a mere guess. At least `asked`.
    pub must_have: usize,
}

/// One range of a file of the merged image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanItem {
    /// Path in the image, without a leading slash.
    pub path: Arc<[u8]>,
    /// Bytes of the file; never empty.
    pub range: ByteRange,
    /// When its first byte is needed, nanoseconds since the start of the workload.
    pub first_need_ns: u64,
}

impl Plan {
    /// The same needs, and before all of them the first `length` bytes of these files.
    #[must_use]
    pub fn led_by(&self, paths: impl IntoIterator<Item = Arc<[u8]>>, length: u64) -> Self {
        let range = ByteRange::new(0, length);
        let first = paths.into_iter().map(|path| PlanItem { path, range, first_need_ns: 0 });
        let mut items: Vec<_> = first.collect();
        let (asked, must_have) = (items.len() + self.asked, items.len() + self.must_have);
        items.extend(self.items.iter().cloned());
        Self { items, asked, must_have }
    }

    /// The same needs, and behind all of them up to `slack` bytes on both sides of each: these may go beyond the file's end and
    /// overlap.
    #[must_use]
    pub fn with_neighbours(&self, slack: u64) -> Self {
        let beside = |item: &PlanItem| {
            let ByteRange { start, end } = item.range;
            let ranges = [
                ByteRange::new(start.saturating_sub(slack), start),
                ByteRange::new(end, end.saturating_add(slack)),
            ];
            ranges.map(|range| PlanItem { range, ..item.clone() })
        };
        let neighbours = self.items.iter().flat_map(beside).filter(|item| !item.range.is_empty());
        Self { items: self.items.iter().cloned().chain(neighbours).collect(), ..*self }
    }
}
