//! A plan: the byte ranges of image files to fetch ahead, first need first. Holds no state.

use std::sync::Arc;

use crate::units::ByteRange;

/// What to fetch ahead, in the order of first need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The ranges; no byte of a file is in two of them.
    pub items: Vec<PlanItem>,
    /// So many items at the front were asked for before the workload was ready; what follows is a guess, or later.
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
    /// The same needs, each with up to `slack` bytes on both sides, which may go beyond the file's end and overlap.
    #[must_use]
    pub fn widened(&self, slack: u64) -> Self {
        let widen = |item: &PlanItem| {
            let (start, end) = (item.range.start.saturating_sub(slack), item.range.end.saturating_add(slack));
            PlanItem { range: ByteRange::new(start, end), ..item.clone() }
        };
        Self { items: self.items.iter().map(widen).collect(), must_have: self.must_have }
    }
}
