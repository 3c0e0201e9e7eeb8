//! The parts of pages that are there: what a page map cannot say.
//!
//! State: for each page that is partly filled, its checked and its packed bytes; owned by the layer's
//! [`super::SpanCache`], under its lock, in memory only: when the process is killed they are lost, and a partly filled page
//! is absent after that ([`super::edges_file`] has them over a clean end).
//!
//! What must always hold: no byte is both checked and packed; a page whose checked bytes are all there has no entry (its
//! bit says it), nor has a page with a packed bit packed bytes here. Checked parts are few, since only the ends of spans
//! make them; packed parts are bounded, and what is over the bound counts as absent.

use std::collections::BTreeMap;

use soci_core::coverage::Coverage;
use soci_core::units::ByteRange;

use super::bitmap::PAGE;

/// Packed parts that one layer remembers at most.
pub(super) const MAX_PACKED: usize = 1 << 16;

/// The partly filled pages of a layer.
#[derive(Debug, Default)]
pub(super) struct Edges {
    pages: BTreeMap<u64, Parts>,
    packed: usize,
}

/// What is there of one page.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub(super) checked: Coverage,
    pub(super) packed: Coverage,
}

/// What a page has become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    /// Parts of it are missing.
    Partial,
    /// Whole, but only with bytes of a pack.
    Packed,
    /// Whole and checked.
    Checked,
}

impl Edges {
    /// What is there of `page`.
    pub(super) fn get(&self, page: u64) -> Option<&Parts> {
        self.pages.get(&page)
    }

    /// Adds checked bytes `part` of the page `page`, which spans `whole`; `bit` says that the page is in the packed map.
    pub(super) fn checked(&mut self, page: u64, whole: ByteRange, part: ByteRange, bit: bool) -> Page {
        self.change(page, whole, bit, |parts| {
            parts.checked.add(part);
            parts.packed.remove(part);
        })
    }

    /// Adds bytes `part` of a page that a pack has brought and that were absent.
    pub(super) fn packed(&mut self, page: u64, whole: ByteRange, part: ByteRange) -> Page {
        let full = self.packed >= MAX_PACKED;
        self.change(page, whole, false, |parts| {
            let room = !full || joined(parts, part).covers(whole);
            if room {
                parts.packed.add(part);
            }
        })
    }

    fn change(&mut self, page: u64, whole: ByteRange, bit: bool, change: impl FnOnce(&mut Parts)) -> Page {
        let parts = self.pages.entry(page).or_default();
        self.packed -= parts.packed.parts();
        change(parts);
        let state = if parts.checked.covers(whole) {
            Page::Checked
        } else if bit || joined(parts, ByteRange::default()).covers(whole) {
            parts.packed = Coverage::default();
            Page::Packed
        } else {
            Page::Partial
        };
        self.packed += parts.packed.parts();
        if state == Page::Checked || parts.checked.is_empty() && parts.packed.is_empty() {
            self.pages.remove(&page);
        }
        state
    }

    /// Whether checked bytes are in one of the pages `[first, end)` that are not wholly so.
    pub(super) fn any_checked(&self, first: u64, end: u64) -> bool {
        first < end && self.pages.range(first..end).any(|(_, parts)| !parts.checked.is_empty())
    }

    /// Whether packed bytes are in one of the pages `[first, end)` that are not wholly there.
    pub(super) fn any_packed(&self, first: u64, end: u64) -> bool {
        first < end && self.pages.range(first..end).any(|(_, parts)| !parts.packed.is_empty())
    }

    /// Number of the pages `[first, end)` of which only parts are there. A page that is in the packed map, as `is_packed` says,
    /// has an entry, too, if parts of it are checked.
    pub(super) fn partial_pages(&self, first: u64, end: u64, is_packed: impl Fn(u64) -> bool) -> u64 {
        if first >= end {
            return 0;
        }
        self.pages.range(first..end).filter(|(page, _)| !is_packed(**page)).count() as u64
    }

    /// The pages `[first, end)` are whole and checked, or wholly absent: the maps say all of them.
    pub(super) fn drop_pages(&mut self, first: u64, end: u64) {
        if first < end {
            for (_, parts) in self.pages.extract_if(first..end, |_, _| true) {
                self.packed -= parts.packed.parts();
            }
        }
    }

    /// All parts, and whether only a pack has brought them.
    pub(super) fn parts(&self) -> impl Iterator<Item = (ByteRange, bool)> {
        self.pages.values().flat_map(|parts| {
            let checked = parts.checked.ranges().map(|part| (part, false));
            checked.chain(parts.packed.ranges().map(|part| (part, true)))
        })
    }

    /// Puts back a part of a layer of `size` bytes that an earlier owner had; `false` when that cannot be.
    pub(super) fn restore(&mut self, part: ByteRange, packed: bool, size: u64) -> bool {
        let page = part.start / PAGE;
        let parts = self.pages.entry(page).or_default();
        let known = joined(parts, ByteRange::default());
        if part.is_empty() || part.end > page_range(page, size).end || known.missing(part) != [part] {
            return false;
        }
        if packed {
            parts.packed.add(part);
            self.packed += 1;
        } else {
            parts.checked.add(part);
        }
        true
    }

    /// Makes all packed bytes absent.
    pub(super) fn forget_packed(&mut self) {
        self.packed = 0;
        self.pages.retain(|_, parts| {
            parts.packed = Coverage::default();
            !parts.checked.is_empty()
        });
    }
}

/// All bytes of `parts`, and `more`.
fn joined(parts: &Parts, more: ByteRange) -> Coverage {
    parts.checked.ranges().chain(parts.packed.ranges()).chain([more]).collect()
}

/// The range of bytes of `page` in a layer of `size` bytes.
pub(super) fn page_range(page: u64, size: u64) -> ByteRange {
    ByteRange::new(page.saturating_mul(PAGE), page.saturating_add(1).saturating_mul(PAGE).min(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_parts_are_bounded_and_checked_ones_are_not() {
        let mut edges = Edges::default();
        let size = u64::MAX;
        let part = |page: u64, from: u64, to: u64| ByteRange::new(page * PAGE + from, page * PAGE + to);
        for page in 0..MAX_PACKED as u64 {
            assert_eq!(edges.packed(page, page_range(page, size), part(page, 5, 9)), Page::Partial);
        }
        let over = MAX_PACKED as u64;
        assert_eq!(edges.packed(over, page_range(over, size), part(over, 5, 9)), Page::Partial);
        assert!(edges.get(over).is_none(), "over the bound: absent");
        assert_eq!(edges.checked(over, page_range(over, size), part(over, 0, 9), false), Page::Partial);
        assert!(edges.get(over).is_some());
        assert_eq!(edges.packed(over, page_range(over, size), part(over, 9, PAGE)), Page::Packed);
        edges.drop_pages(0, 1);
        assert_eq!(edges.packed(over + 1, page_range(over + 1, size), part(over + 1, 5, 9)), Page::Partial);
        assert!(edges.get(over + 1).is_some(), "room again");
        edges.forget_packed();
        assert_eq!(edges.pages.keys().copied().collect::<Vec<_>>(), [over]);
    }
}
