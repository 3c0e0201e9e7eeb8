//! What a page cache has at an index: the folio there, looked up in the cache's tree as the kernel does.
//!
//! Holds nothing. The tree may change under the look: what is found is checked against the index, and a doubt is a page
//! that is there.

use recorder_ebpf::{EventKind, Field, NO_MEMBER};

use crate::{kernel, report::Pages};

/// Levels of the tree: enough for 36 bits of index, which is 256 TiB. Each one more costs the verifier time at every start.
const LEVELS: u32 = 6;
/// Pages of a window, unless an administrator has made it larger: then it is reported as it is, with the folios at its ends.
const WINDOW: u64 = 16;
/// Above this order, a folio is not believed: 4 GiB of small pages.
const MAX_ORDER: u64 = 20;

/// Pages `first..end` of a file, in one folio.
#[derive(Clone, Copy)]
pub(crate) struct Folio {
    pub(crate) first: u64,
    pub(crate) end: u64,
    /// Would a window map it, as far as its flags say?
    is_ready: bool,
}

impl Folio {
    pub(crate) fn is_large(&self) -> bool {
        self.end - self.first > 1
    }

    /// The folio at this address, which has the page `index`.
    #[inline(always)]
    fn at(folio: *const u8, index: u64) -> Self {
        let single = Self { first: index, end: index + 1, is_ready: true };
        let Some(flags) = kernel::member::<u64>(folio, Field::FolioFlags) else { return single };
        let has = |bit: Field| flags >> (kernel::offset(bit) & 63) & 1 == 1;
        let is_ready = has(Field::FlagUptodate) && !has(Field::FlagReadahead);
        if !has(Field::FlagHead) {
            return Self { is_ready, ..single };
        }
        let order = kernel::member::<u64>(folio, Field::FolioOrder).unwrap_or(0) & 0xff;
        let first = kernel::member::<u64>(folio, Field::FolioIndex).unwrap_or(u64::MAX);
        let end = first.wrapping_add(1 << (order & 31));
        if order > MAX_ORDER || first > index || end <= index {
            return single;
        }
        Self { first, end, is_ready }
    }
}

/// Does this kernel say how its page caches look?
#[inline(always)]
pub(crate) fn are_known() -> bool {
    kernel::offset(Field::MappingPages) != NO_MEMBER
}

/// The lowest node that was met, for the next look.
struct Leaf {
    node: *const u8,
    /// Its indices without the bits that it tells apart.
    chunk: u64,
}

/// The folio that has the page `index`, if it is large.
#[inline(always)]
pub(crate) fn large(mapping: *const u8, index: u64) -> Option<Folio> {
    let mut leaf = Leaf { node: core::ptr::null(), chunk: 0 };
    let folio = Folio::at(entry(mapping, index, &mut leaf)?, index);
    folio.is_large().then_some(folio)
}

/// Reports what is mapped by a window of pages: those that are there, and all of a large folio that has one of them.
#[inline(always)]
pub(crate) fn window(mapping: *const u8, pages: &Pages, first: u64, last: u64) {
    if !are_known() {
        pages.report(EventKind::Map);
        return;
    }
    if last.wrapping_sub(first) >= WINDOW {
        pages.report(EventKind::Map);
        for index in [first, last] {
            if let Some(folio) = large(mapping, index) {
                pages.part(folio.first, folio.end).report(EventKind::Map);
            }
        }
        return;
    }
    let mut leaf = Leaf { node: core::ptr::null(), chunk: 0 };
    let (mut index, mut start, mut end) = (first, 0, 0);
    for _ in 0..WINDOW {
        if index > last {
            break;
        }
        let Some(folio) = entry(mapping, index, &mut leaf).map(|folio| Folio::at(folio, index)) else {
            index += 1;
            continue;
        };
        index = folio.end;
        if !folio.is_ready {
            continue;
        }
        if folio.first > end || start == end {
            pages.part(start, end).report(EventKind::Map);
            start = folio.first;
        }
        end = folio.end;
    }
    pages.part(start, end).report(EventKind::Map);
}

/// The folio's address at an index of a page cache. The mapping is an argument of a hook.
#[inline(always)]
fn entry(mapping: *const u8, index: u64, leaf: &mut Leaf) -> Option<*const u8> {
    let size = size_of::<*const u8>() as u32;
    let slots = (kernel::offset(Field::NodeTags) - kernel::offset(Field::NodeSlots)) / size;
    let bits = u64::from(slots.trailing_zeros() & 31);
    let slot = |node: *const u8, number: u64| -> Option<u64> {
        let place = kernel::part(node, Field::NodeSlots).wrapping_add((number as usize) * size_of::<*const u8>());
        let entry: u64 = kernel::read(place)?;
        // The later slots of what has several name the first.
        if entry & 3 == 2 && entry >> 2 < u64::from(slots) {
            return kernel::read(place.wrapping_sub(((number - (entry >> 2)) as usize) * size_of::<*const u8>()));
        }
        Some(entry)
    };
    let mask = u64::from(slots) - 1;
    if !leaf.node.is_null() && leaf.chunk == index >> bits {
        return folio(slot(leaf.node, index & mask)?);
    }
    let root = kernel::part(mapping, Field::MappingPages);
    let mut found: u64 = kernel::member(root, Field::TreeHead)?;
    if !is_node(found) {
        return if index == 0 { folio(found) } else { None };
    }
    for level in 0..LEVELS {
        let node = (found - 2) as *const u8;
        let shift = u64::from(kernel::member::<u8>(node, Field::NodeShift)? & 63);
        if level == 0 && index >> shift > mask {
            return None;
        }
        found = slot(node, index >> shift & mask)?;
        if shift == 0 {
            *leaf = Leaf { node, chunk: index >> bits };
        }
        if shift == 0 || !is_node(found) {
            return folio(found);
        }
    }
    None
}

/// Is an entry of the tree one of its nodes?
#[inline(always)]
fn is_node(entry: u64) -> bool {
    entry & 3 == 2 && entry > 4096
}

/// Of an entry that is no node: the folio, if it is one.
#[inline(always)]
fn folio(entry: u64) -> Option<*const u8> {
    (entry & 3 == 0 && entry != 0).then_some(entry as *const u8)
}
